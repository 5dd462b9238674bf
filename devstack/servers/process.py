"""Identity of processes: a pid alone is not enough, because the kernel reuses it for other processes.

A process is identified by its pid, its boot and its start time. This package never sends a signal to a process without
comparing its identity first.
"""

import json
import os
import signal
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

_STATE = 0
_STARTED = 19
"""Positions in /proc/<pid>/stat after the command's closing parenthesis (proc(5): fields 3 and 22)."""
_ENDED_STATES = frozenset("ZX")
_AUTOGROUP_TRIES, _AUTOGROUP_SECONDS = 20, 0.11


@dataclass(frozen=True, slots=True)
class Identity:
    pid: int
    started: int
    boot: str

    @property
    def alive(self) -> bool:
        return identify(self.pid) == self

    def save(self, path: Path) -> None:
        write_atomically(path, json.dumps(asdict(self)))

    def end(self, first: signal.Signals, patience: float) -> None:
        """Send a signal, then kill the process if it still exists after `patience` seconds."""
        for send, seconds in ((first, patience), (signal.SIGKILL, 10.0)):
            if self.alive:
                with suppress(ProcessLookupError):
                    os.kill(self.pid, send)
                wait_until_gone([self], seconds)


def identify(pid: int) -> Identity | None:
    """Return the identity of a living process; None for a dead one or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[_STATE] in _ENDED_STATES else Identity(pid, int(fields[_STARTED]), boot)


def lower_priority(pid: int, niceness: int) -> None:
    """Lower the CPU priority of a process that leads a session.

    With autogroup scheduling (sched(7)), the kernel balances sessions. A process's niceness then applies only within
    its session, and the session has a separate setting. A kernel without autogroup has no such file.
    """
    os.setpriority(os.PRIO_PROCESS, pid, niceness)
    session = Path(f"/proc/{pid}/autogroup")
    for _ in range(_AUTOGROUP_TRIES):
        try:
            session.write_text(f"{niceness}\n", encoding="ascii")
        except BlockingIOError:  # without privileges, one change in 100 ms is allowed for the whole machine
            time.sleep(_AUTOGROUP_SECONDS)
        except OSError:
            return
        else:
            return


def load(path: Path) -> Identity | None:
    """Return the identity saved at `path` if that process is alive."""
    try:
        identity = Identity(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return identity if identity.alive else None


def working_in(folder: Path) -> list[Identity]:
    """Return the living processes whose working directory is `folder`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if (entry / "cwd").readlink() == folder:
                    found.append(identify(int(entry.name)))
    return [identity for identity in found if identity is not None]


def wait_until_gone(identities: list[Identity], seconds: float) -> bool:
    """Wait until none of the processes is alive; return False if one still is."""
    deadline = time.monotonic() + seconds
    while any(identity.alive for identity in identities):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def write_atomically(path: Path, text: str, mode: int = 0o600) -> None:
    """Replace a file atomically, so that a reader sees the old text or the new one and never a part."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
        file.write(text)
    draft.replace(path)
