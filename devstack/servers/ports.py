"""Loopback ports: whether one is free, which process holds it, and a free one for tests."""

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
"""Above the default ports of the settings."""
_MAX_CANDIDATES = 3


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening TCP socket; the address is in the format of /proc/net, the user id that of its creator."""

    port: int
    inode: str
    address: str
    uid: int


def require_free(port: int, setting: str, patience: float = 0.0) -> None:
    """Reject a port that is in use.

    Args:
        port: the required port.
        setting: the setting that selects it, for the hint.
        patience: seconds to wait for its release.

    Raises:
        ComponentFailed: it is in use; the text names the process if /proc shows it.
    """
    deadline = time.monotonic() + patience
    while not is_free(port) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    if not is_free(port):
        raise ComponentFailed(
            f"port {port} is in use by {holder(port)}",
            f"set {variable(setting)} to another port, or stop that process if nothing needs it",
        )


def variable(setting: str) -> str:
    """Return the environment variable of a setting; an addition to its name in parentheses is kept."""
    name, space, added = setting.partition(" ")
    return f"{PREFIX}{name.upper()}{space}{added}"


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        # Without this, connections of a server that has just ended (TIME_WAIT) would count as a listener.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """Return a port that is free at this moment and outside the kernel's range for outgoing connections."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    candidates = range(_LOWEST_PORT, max(lowest, _LOWEST_PORT + 1000))
    while True:
        port = candidates[secrets.randbelow(len(candidates))]
        if is_free(port):
            return port


def holder(port: int) -> str:
    """Return name and pid of the process that listens on `port`, or what is known of it.

    /proc shows the open files of a process only to its user. Those of a process that no debugger may attach to (such as
    the crypto service) are shown only to root. The user who created a socket is public.
    """
    found = [one for one in listening() if one.port == port]
    if not found:
        return "a connection that is still open"
    sockets = {f"socket:[{one.inode}]" for one in found}
    hidden: list[Path] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if _has_open(entry, sockets):
                    return _process_name(entry)
            except PermissionError:
                hidden.append(entry)
    uid = found[0].uid
    candidates = [_process_name(entry) for entry in hidden if _user_of(entry) == uid] if uid == os.geteuid() else []
    likely = f" that hides its open files, probably {' or '.join(candidates[:_MAX_CANDIDATES])}" if candidates else ""
    return f"a process of user {_user_name(uid)}{likely}"


def _has_open(process: Path, sockets: set[str]) -> bool:
    """Return whether a process has one of the sockets open; it may close files, or end, meanwhile."""
    with suppress(FileNotFoundError, ProcessLookupError):
        for file in (process / "fd").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):
                if str(file.readlink()) in sockets:
                    return True
    return False


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


def _process_name(entry: Path) -> str:
    try:
        name = (entry / "comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        name = "a process that has ended"
    return f"{name} (pid {entry.name})"


def _user_of(entry: Path) -> int | None:
    """Return the effective user id of a process; its /proc folder belongs to root if its files are hidden."""
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
