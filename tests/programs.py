"""Programs of Debian packages, which scripts/setup.sh unpacks or the system has, and programs without root's rights."""

import os
import pwd
import shutil
import signal
import sys
from pathlib import Path

from devstack.servers import exec_child

ENVIRONMENT = Path(__file__).parents[1] / ".venv"
"""The folder in which scripts/setup.sh installs and unpacks programs."""
_UNPRIVILEGED = "nobody"  # lint-words: quotes the user name of POSIX systems


def unprivileged() -> pwd.struct_passwd:
    """Return the user for programs that refuse to run as root: another one than root, else the user of this process."""
    return pwd.getpwnam(_UNPRIVILEGED) if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())


def child(user: pwd.struct_passwd | None = None, end: signal.Signals = signal.SIGKILL) -> list[str]:
    """Return the beginning of a command that runs as `user`, and receives the signal `end` when this process ends."""
    uid, gid = (os.geteuid(), os.getegid()) if user is None else (user.pw_uid, user.pw_gid)
    return [sys.executable, "-I", "-S", exec_child.__file__, str(os.getpid()), str(int(end)), str(uid), str(gid)]


def give(user: pwd.struct_passwd, *paths: Path) -> None:
    """Make a user the owner of files and folders."""
    for path in paths:
        os.chown(path, user.pw_uid, user.pw_gid)


def unpacked(package: str) -> Path | None:
    """Return the folder with the files of a package, None if the system has it."""
    folder = ENVIRONMENT / package
    return folder if folder.exists() else None


def program(package: str, path: str, copy: Path | None = None) -> tuple[Path, dict[str, str]]:
    """Return a program of a package by its path in it, and the environment that it needs.

    With `copy` the package is copied to that folder, for a user without access to this checkout.
    """
    folder = unpacked(package)
    if folder is None:
        name = Path(path).name
        return Path(shutil.which(name) or name), {}
    if copy is not None:
        shutil.copytree(folder, copy, symlinks=True)
        folder = copy
    libraries = ":".join(str(found) for found in folder.glob("usr/lib/*"))
    return folder / path, {"LD_LIBRARY_PATH": libraries}
