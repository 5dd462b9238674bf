"""Implementation of `make up`, `down` and `status`: start the supervisor, end it, read its status file.

The supervisor is a separate process, detached from the command. A lock file serialises concurrent commands.
"""

import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.secrets import ensure_secrets
from config.settings import Settings
from core.errors.platform import ComponentFailed, SettingsInvalid
from devstack.servers import process
from devstack.servers.base import make_private, require_readable
from devstack.servers.process import Identity
from devstack.stack.components import addresses, port_conflicts, servers
from devstack.stack.status import Report, State

_POLL_SECONDS = 0.03
_TIMEOUT_SECONDS = 120.0
_MAX_RESTARTS = 3
"""Failed starts of one component after which `up` gives up; the first can result from an earlier crash."""
_STOP_MARGIN_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Status:
    running: bool
    components: tuple[Report, ...]
    addresses: dict[str, str | None]

    @property
    def ready(self) -> bool:
        return self.running and all(report.state in (State.READY, State.EXTERNAL) for report in self.components)


Progress = Callable[[Status], None]


def run_folder(settings: Settings) -> Path:
    return settings.state_dir / "run"


def status_file(settings: Settings) -> Path:
    return run_folder(settings) / "status.json"


def supervisor_file(settings: Settings) -> Path:
    return run_folder(settings) / "supervisor.pid"


def status(settings: Settings) -> Status:
    """Return the state of all components; without a supervisor all embedded ones count as stopped.

    Raises:
        SettingsInvalid: the state folder cannot be read.
    """
    require_readable(settings.state_dir, run_folder(settings))
    running, written = _read(settings)
    if running is None or written is None:
        reports = [
            Report(server.name, State.STOPPED, address=server.address)
            if (left := server.orphan()) is None
            else Report(server.name, State.ORPHANED, left.pid, server.address)
            for server in servers(settings)
        ]
        return Status(running is not None, (*reports, *_external(settings)), addresses(settings))
    reports = [Report(**(fields | {"state": State(fields["state"])})) for fields in written["components"]]
    return Status(running=True, components=(*reports, *_external(settings)), addresses=written["addresses"])


def up(settings: Settings, progress: Progress) -> Status:
    """Start all components that do not run and return when all are ready.

    Raises:
        ComponentFailed: a port is in use or a component does not start; components started by this call are stopped.
        SettingsInvalid: a folder cannot be used, or two components have the same port.
    """
    make_private(settings.state_dir, run_folder(settings))
    with _command_lock(settings):
        supervisor = _supervisor(settings)
        if supervisor is not None:
            return _wait_ready(settings, supervisor, progress)
        for conflict in port_conflicts(settings):
            raise SettingsInvalid(f"port {conflict.port} is {conflict.detail}", conflict.hint)
        for server in servers(settings):
            server.require_ports()
        ensure_secrets(settings.secrets)
        supervisor = _launch(settings)
        try:
            return _wait_ready(settings, supervisor, progress)
        except BaseException:
            _end(settings, supervisor)
            raise


def down(settings: Settings) -> tuple[str, ...]:
    """Stop all components of this stack and return the names of those that were running."""
    require_readable(settings.state_dir, run_folder(settings))
    if not run_folder(settings).is_dir():
        return ()
    with _command_lock(settings):
        before = status(settings)
        supervisor = _supervisor(settings)
        if supervisor is not None:
            _end(settings, supervisor)
        for server in servers(settings):
            server.end_orphan()
        _end_leftovers(settings)
        return tuple(report.name for report in before.components if report.pid is not None)


def _launch(settings: Settings) -> Identity:
    status_file(settings).unlink(missing_ok=True)
    logs = settings.state_dir / "logs"
    make_private(logs)
    log = os.open(logs / "supervisor.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        # Not with subprocess, whose object expects a wait for its process: this one outlives the command.
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-m", "devstack.stack"],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, log, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
            ],
            setsid=True,
        )
    finally:
        os.close(log)
    identity = process.identify(pid)
    if identity is None:
        raise _supervisor_failed(settings)
    return identity


def _wait_ready(settings: Settings, supervisor: Identity, progress: Progress) -> Status:
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while True:
        now = status(settings)
        progress(now)
        if now.ready:
            return now
        if not supervisor.alive:
            raise _supervisor_failed(settings)
        for report in now.components:
            if report.problem is not None and (report.restarts >= _MAX_RESTARTS or time.monotonic() > deadline):
                raise ComponentFailed(report.problem, report.hint)
        if time.monotonic() > deadline:
            late = ", ".join(report.name for report in now.components if report.state is not State.READY)
            raise ComponentFailed(f"not ready in time: {late}", f"see {settings.state_dir / 'logs'}")
        time.sleep(_POLL_SECONDS)


def _supervisor_failed(settings: Settings) -> ComponentFailed:
    log = settings.state_dir / "logs" / "supervisor.log"
    last = log.read_text(encoding="utf-8", errors="replace").splitlines()[-3:]
    return ComponentFailed("the supervisor ended", f"see {log}: " + " | ".join(last))


def _end(settings: Settings, supervisor: Identity) -> None:
    slowest = max((server.stop_seconds for server in servers(settings)), default=0.0)
    supervisor.end(signal.SIGTERM, slowest + _STOP_MARGIN_SECONDS)


def _end_leftovers(settings: Settings) -> None:
    """End processes of an earlier supervisor with other settings, identified by their pid files."""
    for file in run_folder(settings).glob("*.pid"):
        left = process.load(file)
        if left is not None:
            left.end(signal.SIGINT, _STOP_MARGIN_SECONDS)
        file.unlink(missing_ok=True)


def _supervisor(settings: Settings) -> Identity | None:
    return process.load(supervisor_file(settings))


def _read(settings: Settings) -> tuple[Identity | None, dict[str, Any] | None]:
    supervisor = _supervisor(settings)
    try:
        written = json.loads(status_file(settings).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return supervisor, None
    return supervisor, written


def _external(settings: Settings) -> list[Report]:
    """Return the servers that are configured elsewhere; `doctor` checks whether they respond."""
    configured = {"postgres": settings.database_url, "openbao": settings.vault_address}
    if settings.temporal == "profile":
        configured["temporal"] = "configured by TEMPORAL_*"
    return [Report(name, State.EXTERNAL, address=at) for name, at in configured.items() if at is not None]


@contextmanager
def _command_lock(settings: Settings) -> Iterator[None]:
    with (run_folder(settings) / "command.lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
