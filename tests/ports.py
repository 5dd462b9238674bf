"""Loopback ports for servers that cannot choose their own port and report it."""

import fcntl
import os
import tempfile
from pathlib import Path

from devstack.servers import ports


def free_port() -> int:
    """Return a free port that no other test process receives while this one runs."""
    return free_ports(1)[0]


def free_ports(count: int, neighbours: int = 0) -> tuple[int, ...]:
    """Return `count` free ports, each followed by `neighbours` ports that are free as well.

    A port that is free now can be taken before the server binds it. The kernel does not assign these ports to
    connections (`devstack`), so only another test can take one: a locked file reserves each port.
    """
    found: list[int] = []
    while len(found) < count:
        port = ports.free_port()
        if all(_reserve(port + n) and ports.is_free(port + n) for n in range(neighbours + 1)):
            found.append(port)
    return tuple(found)


def _reserve(port: int) -> bool:
    # One folder for all runs of a user on this machine; its files are empty and stay.
    folder = Path(tempfile.gettempdir()) / f"openkcm-test-ports-{os.geteuid()}"
    folder.mkdir(exist_ok=True)
    # Not closed: the end of this process releases the lock.
    file = os.open(folder / str(port), os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return False
    return True
