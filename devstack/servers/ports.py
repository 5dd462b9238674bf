"""Loopback ports: whether one is free, who holds it, and a free one for tests."""

import os
import pwd
import secrets
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from config.settings import LOOPBACK, PREFIX
from core.errors.platform import ComponentFailed

_LISTENING = "0A"
_POLL_SECONDS = 0.02
_LOWEST_PORT = 20000
"""Above the ports that settings use by default."""
_MOST_NAMED = 3


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening TCP socket; the address is as /proc/net writes it, the user id that of the process that made it."""

    port: int
    inode: str
    address: str
    uid: int


def require_free(port: int, setting: str, patience: float = 0.0) -> None:
    """Refuse a port that somebody listens on.

    Args:
        port: the port wanted.
        setting: the setting that chooses it, named in the hint.
        patience: seconds in which whoever has it may still let go.

    Raises:
        ComponentFailed: it is taken; the text says by whom where /proc lets us see it.
    """
    deadline = time.monotonic() + patience
    while not is_free(port) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    if not is_free(port):
        raise ComponentFailed(
            f"port {port} is in use by {holder(port)}",
            f"stop that process or set {variable(setting)} to another port",
        )


def variable(setting: str) -> str:
    """Return the environment variable of a setting, with what is added to its name in parentheses."""
    name, space, added = setting.partition(" ")
    return f"{PREFIX}{name.upper()}{space}{added}"


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        # Without this, connections of a server that just ended (TIME_WAIT) would count as somebody listening.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """Return a port nobody uses at this moment, and none that the kernel may give to a connection in the next."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    candidates = range(_LOWEST_PORT, max(lowest, _LOWEST_PORT + 1000))
    while True:
        port = candidates[secrets.randbelow(len(candidates))]
        if is_free(port):
            return port


def holder(port: int) -> str:
    """Return name and pid of the process that listens on `port`, or what is known of it.

    /proc shows the open files of a process to its user alone, and those of a process that no debugger may attach to
    (the crypto service is one) to root alone. The user who made a socket is public.
    """
    found = [one for one in listening() if one.port == port]
    if not found:
        return "a connection that is still open"
    sockets = {f"socket:[{one.inode}]" for one in found}
    hidden: list[Path] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if any(str(fd.readlink()) in sockets for fd in (entry / "fd").iterdir()):
                    return _named(entry)
            except PermissionError:
                hidden.append(entry)
            except OSError:  # it has ended meanwhile
                continue
    uid = found[0].uid
    candidates = [_named(entry) for entry in hidden if _user_of(entry) == uid] if uid == os.geteuid() else []
    likely = f" that hides its open files, probably {' or '.join(candidates[:_MOST_NAMED])}" if candidates else ""
    return f"a process of user {_user_name(uid)}{likely}"


def listening() -> list[Listener]:
    """Return every listening TCP socket."""
    found = []
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path(f"/proc/net/{table}").read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENING:
                    address, _, port = fields[1].rpartition(":")
                    found.append(Listener(int(port, 16), fields[9], address, int(fields[7])))
    return found


def _named(entry: Path) -> str:
    try:
        name = (entry / "comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        name = "a process that has ended"
    return f"{name} (pid {entry.name})"


def _user_of(entry: Path) -> int | None:
    """Return the effective user id of a process; the owner of its folder is root where its files are hidden."""
    with suppress(OSError):
        for line in (entry / "status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("Uid:"):
                return int(line.split()[2])
    return None


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
