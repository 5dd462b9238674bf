"""Become a process of an image: `enter.py SPECIFICATION`, run by `unshare` in separate namespaces as root.

It mounts the root file system read-only with the given mounts, and gives up all rights: groups, capabilities, the right
to gain any. Then it loads the system call filter and starts the program. Only the standard library, because it is no
test. No container runtime: those need control over the host's cgroups.
"""

import ctypes
import ctypes.util
import errno
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38
_DEVICES = ("null", "zero", "full", "random", "urandom")
_ALLOW, _ERRNO, _EQUAL = 0x7FFF0000, 0x00050000, 4

_libc = ctypes.CDLL(None, use_errno=True)


class _Comparison(ctypes.Structure):
    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def mount(*words: str | Path) -> None:
    subprocess.run(["mount", *words], check=True)


def mount_all(root: Path, mounts: list[dict[str, Any]]) -> None:
    mount("--bind", root, root)
    mount("-t", "proc", "proc", root / "proc")
    for place in ("dev", "tmp"):
        mount("-t", "tmpfs", "-o", "nosuid,mode=1777", "tmpfs", root / place)
    (root / "dev/shm").mkdir(mode=0o1777)
    for device in _DEVICES:
        (root / "dev" / device).touch()
        mount("--bind", f"/dev/{device}", root / "dev" / device)
    for one in mounts:
        place = root / one["destination"].lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.mkdir(exist_ok=True) if Path(one["source"]).is_dir() else place.touch()
        mount("--bind", one["source"], place)
        if not one["writable"]:
            mount("-o", "remount,bind,ro", place)
    mount("-o", "remount,bind,ro", root)


def drop_rights(user: int, group: int) -> None:
    for capability in range(64):
        _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # fails for those that the kernel does not know
    os.setgroups([])
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs")


def restrict_calls(seccomp: ctypes.CDLL, calls: list[str], families: Mapping[str, int]) -> None:
    """Load a filter that allows `calls`, and `socket` with `families`; every other call fails with EPERM."""
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(_ERRNO | errno.EPERM))
    for name in calls:
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number >= 0 and (failed := seccomp.seccomp_rule_add_array(context, _ALLOW, number, 0, None)):
            raise OSError(-failed, name)
    number = seccomp.seccomp_syscall_resolve_name(b"socket")
    for family in families.values():
        equal = _Comparison(0, _EQUAL, family, 0)
        if failed := seccomp.seccomp_rule_add_array(context, _ALLOW, number, 1, ctypes.byref(equal)):
            raise OSError(-failed, "socket")
    if failed := seccomp.seccomp_load(context):
        raise OSError(-failed, "seccomp_load")


def main() -> None:
    wanted = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    seccomp = ctypes.CDLL("libseccomp.so.2", use_errno=True)  # before the root changes
    root = Path(wanted["root"])
    mount_all(root, wanted["mounts"])
    os.chroot(root)
    os.chdir("/")
    os.umask(0o077)
    drop_rights(*wanted["user"])
    if wanted["calls"]:
        restrict_calls(seccomp, wanted["calls"], wanted["families"])
    os.execve(wanted["command"][0], wanted["command"], wanted["environment"])  # noqa: S606 - an argument list


if __name__ == "__main__":
    main()
