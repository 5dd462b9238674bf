"""Implementation of `make up`, `down` and `status`: start the supervisor, end it, read its status file.

The supervisor is a separate process, detached from the command. A lock file serialises concurrent commands.
"""

import fcntl
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from config.secrets import ensure_secrets
from config.settings import Settings
from core.errors.platform import ComponentFailed, SettingsInvalid
from devstack.servers import process
from devstack.servers.base import Server, make_private, require_readable
from devstack.servers.process import Identity
from devstack.stack.components import addresses, port_conflicts, servers
from devstack.stack.status import Report, State

_POLL_SECONDS = 0.03
_TIMEOUT_SECONDS = 120.0
"""How long `up` waits without progress. A busy machine needs longer for all components than for any one."""
_MAX_RESTARTS = 3
"""Failures of one component while `up` waits after which it gives up; the first can result from an earlier crash."""
_STOP_MARGIN_SECONDS = 30.0
_PATIENCE_SECONDS = 10.0
"""How long `status` asks a component; a busy machine delays an answer beyond the time of one health check."""
_LOWEST_FREE_BYTES = 64 * 1024**2
"""Free space below which servers are about to reject writes: four segments of PostgreSQL's write-ahead log."""


@dataclass(frozen=True, slots=True)
class Status:
    running: bool
    components: tuple[Report, ...]
    addresses: dict[str, str | None]

    @property
    def problems(self) -> tuple[Report, ...]:
        """The components that do not work."""
        return tuple(report for report in self.components if report.state not in (State.READY, State.EXTERNAL))

    @property
    def ready(self) -> bool:
        return self.running and not self.problems


Progress = Callable[[Status], None]


def run_folder(settings: Settings) -> Path:
    return settings.state_dir / "run"


def status_file(settings: Settings) -> Path:
    return run_folder(settings) / "status.json"


def supervisor_file(settings: Settings) -> Path:
    return run_folder(settings) / "supervisor.pid"


def status(settings: Settings) -> Status:
    """Return the state of all components, each asked now; without a supervisor all embedded ones count as stopped.

    The supervisor alone would not suffice: it knows whether a process runs, and learns of its end after a moment.

    Raises:
        SettingsInvalid: the state folder cannot be read.
    """
    read = _read_status(settings)
    components = _verify(settings, read.components, _PATIENCE_SECONDS)
    return replace(read, components=(*components, *_full_disk(settings)))


def _verify(settings: Settings, reports: Sequence[Report], patience: float) -> list[Report]:
    """Ask each component that the supervisor reports as ready, concurrently and for at most `patience` seconds."""
    known = {server.name: server for server in servers(settings)}

    def verified(report: Report) -> Report:
        server = known.get(report.name)
        if report.state is not State.READY or server is None or _responds(server, report.pid, patience):
            return report
        problem = f"{report.name} does not respond"
        return replace(report, state=State.UNRESPONSIVE, problem=problem, hint=f"see {server.log_file}")

    with ThreadPoolExecutor(max_workers=len(reports) or 1) as pool:
        return list(pool.map(verified, reports))


def _responds(server: Server, pid: int | None, patience: float) -> bool:
    deadline = time.monotonic() + patience
    while not server.ready():
        if pid is None or process.identify(pid) is None or time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _full_disk(settings: Settings) -> list[Report]:
    folder = settings.state_dir.resolve()
    if not folder.is_dir() or (free := shutil.disk_usage(folder).free) >= _LOWEST_FREE_BYTES:
        return []
    problem = f"{free // 1024**2} MiB are free in {folder}"
    return [Report("disk", State.FULL, problem=problem, hint="free space there; the servers continue automatically")]


def _read_status(settings: Settings) -> Status:
    """Return the state of all components as the supervisor last wrote it."""
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
        before = _read_status(settings)
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
    most_ready: int | None = None
    before: dict[str, int] = {}
    answered: set[tuple[str, int | None]] = set()
    while True:
        now = _read_status(settings)
        progress(now)
        ready = len(now.components) - len(now.problems)
        if most_ready is not None and ready > most_ready:
            deadline = time.monotonic() + _TIMEOUT_SECONDS
        most_ready = max(ready, most_ready or 0)
        if now.ready:
            # The process of a ready component may have ended a moment ago. One answer of each is enough.
            asked = [report for report in now.components if (report.name, report.pid) not in answered]
            verified = {report.name: report for report in _verify(settings, asked, patience=0.0)}
            answered |= {(report.name, report.pid) for report in verified.values() if report.state is State.READY}
            now = replace(now, components=tuple(verified.get(report.name, report) for report in now.components))
            if now.ready:
                return now
        if not supervisor.alive:
            raise _supervisor_failed(settings)
        for report in now.components:
            # Only failures since the start of this wait: the supervisor restarts a component however often it ends.
            earlier = before[report.name] = min(report.restarts, before.get(report.name, report.restarts))
            failures = report.restarts - earlier
            if report.problem is not None and (failures >= _MAX_RESTARTS or time.monotonic() > deadline):
                raise ComponentFailed(report.problem, report.hint)
        if time.monotonic() > deadline:
            late = ", ".join(report.name for report in now.problems)
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
