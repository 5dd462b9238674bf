"""One server for several test processes: who comes first starts it and, at the end, waits for the others to let go."""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from devstack import process
from devstack.ports import free_port, is_free
from devstack.server import Server

S = TypeVar("S", bound=Server)

_START_SECONDS = 90
_LET_GO_SECONDS = 1800


@contextmanager
def shared(folder: Path, ports: int, make: Callable[[Path, tuple[int, ...]], S], *, neighbours: int = 0) -> Iterator[S]:
    """Return the session's server in `folder`, started by the first process that asks.

    Args:
        folder: of this server alone, the same in every process.
        ports: how many it needs.
        make: builds it from folder and ports.
        neighbours: how many ports behind each must be free as well.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ours = folder / f"user-{os.getpid()}"
    with _locked(folder / "lock"):
        described = folder / "ports.json"
        is_owner = not described.exists()
        chosen = free_ports(ports, neighbours) if is_owner else tuple(json.loads(described.read_text(encoding="utf-8")))
        server = make(folder, chosen)
        if is_owner:
            _start(server)
            described.write_text(json.dumps(chosen), encoding="utf-8")
        myself = process.identify(os.getpid())
        assert myself is not None
        myself.save(ours)
    try:
        yield server
    finally:
        ours.unlink()
        deadline = time.monotonic() + _LET_GO_SECONDS
        while is_owner and not _end(server, folder) and time.monotonic() < deadline:
            time.sleep(0.05)


def _start(server: Server) -> None:
    server.prepare()
    server.start()
    try:
        server.wait_ready(_START_SECONDS)
    except BaseException:
        server.kill()
        raise


def _end(server: Server, folder: Path) -> bool:
    """Stop the server unless somebody still uses it; the next one to come would start its own."""
    with _locked(folder / "lock"):
        if any(process.load(user) for user in folder.glob("user-*")):
            return False
        (folder / "ports.json").unlink()
        server.stop()
    return True


def free_ports(count: int, neighbours: int = 0) -> tuple[int, ...]:
    """Return different ports nobody listens on."""
    found: list[int] = []
    while len(found) < count:
        port = free_port()
        if port not in found and all(is_free(port + n) for n in range(1, neighbours + 1)):
            found.append(port)
    return tuple(found)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
