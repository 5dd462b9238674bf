"""What a Python process can do so that its memory stays its own, and a log line that says what was possible.

No core dump can be written, other processes of the same user can neither attach nor read its memory, and, where the
system lets us lock memory, nothing of it reaches swap. What Python cannot do is wipe every copy of a key: strings of
bytes are copied by the interpreter and freed without being overwritten (see keyring).
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
    """Do it for this process, and log and return what was possible; children of a fork must do it again."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    done = {
        "no_core_dumps": resource.getrlimit(resource.RLIMIT_CORE) == (0, 0),
        "not_dumpable": _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0,
        # On fault: what Python reserves and never touches is not made resident.
        "memory_locked": _may_lock() and _libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) == 0,
    }
    log.info("process hardened", **done)
    return done


def end_with_parent(parent: int) -> None:
    """Have the kernel end this process when its parent is gone, however that ended."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it went before the kernel was told
        os.kill(os.getpid(), signal.SIGTERM)


def allow_many_files() -> None:
    """Raise the soft limit of open files: each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _may_lock() -> bool:
    """Whether locking cannot run into a limit: under one, a later allocation would fail and end the process."""
    if resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY:
        return True
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    effective = next((line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), "0")
    return bool(int(effective, 16) >> _CAP_IPC_LOCK & 1)
