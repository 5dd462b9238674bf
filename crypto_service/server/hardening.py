"""Protection of a process's memory, as far as Python allows it, and a log entry that states what was possible.

No core dump can be written. Other processes of the same user can neither attach nor read its memory. Where the system
permits locked memory, nothing of it reaches swap. Python cannot erase every copy of a key: the interpreter copies byte
strings and frees them without overwriting (see keys.key_cache).
"""

import ctypes
import os
import resource
import signal
from pathlib import Path

import structlog

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_CAP_IPC_LOCK = 14
_MOST_FILES = 65_536

_libc = ctypes.CDLL(None, use_errno=True)

log = structlog.get_logger()


def harden() -> dict[str, bool]:
    """Harden this process, and log and return what was possible; a forked child must call it again."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    done = {
        "no_core_dumps": resource.getrlimit(resource.RLIMIT_CORE) == (0, 0),
        "not_dumpable": _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0,
        # On fault: memory that Python reserves and never uses is not made resident.
        "memory_locked": _may_lock() and _libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) == 0,
    }
    log.info("process hardened", **done)
    return done


def end_with_parent(parent: int) -> None:
    """Request SIGTERM from the kernel when the parent ends, for any reason."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # the parent ended before the request
        os.kill(os.getpid(), signal.SIGTERM)


def allow_many_files() -> None:
    """Raise the soft limit of open files, because each connection needs one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _may_lock() -> bool:
    """Return whether locked memory has no limit: with a limit a later allocation would fail and end the process."""
    if resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY:
        return True
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    effective = next((line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), "0")
    return bool(int(effective, 16) >> _CAP_IPC_LOCK & 1)
