"""Loopback ports: whether one is free, who holds it, and a free one for tests."""

import secrets
import socket
import time
from contextlib import suppress
from pathlib import Path

from config.settings import LOOPBACK, PREFIX
from tenancy.errors import ComponentFailed

_LISTENING = "0A"
_POLL_SECONDS = 0.02
_LOWEST_PORT = 20000
"""Above the ports that settings use by default."""


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
            f"stop that process or set {PREFIX}{setting.upper()} to another port",
        )


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
    """Return name and pid of the process that listens on `port`, or what else can be said of it."""
    sockets = {f"socket:[{inode}]" for at, inode, _ in listening() if at == port}
    if not sockets:
        return "a connection that is still open"
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if any(str(fd.readlink()) in sockets for fd in (entry / "fd").iterdir()):
                    name = (entry / "comm").read_text(encoding="utf-8", errors="replace").strip()
                    return f"{name} (pid {entry.name})"
    return "a process of another user"


def listening() -> list[tuple[int, str, str]]:
    """Return (port, socket inode, address as /proc/net writes it) of every listening TCP socket."""
    found = []
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path(f"/proc/net/{table}").read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENING:
                    address, _, port = fields[1].rpartition(":")
                    found.append((int(port, 16), fields[9], address))
    return found
