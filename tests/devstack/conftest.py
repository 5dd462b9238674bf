from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from config.secrets import ensure_secrets
from devstack.servers.base import Server
from devstack.servers.openbao import OpenBaoServer
from devstack.servers.postgres import PostgresServer
from devstack.servers.temporal import TemporalServer
from tests.ports import free_ports

NewServer = Callable[..., Server]
"""Name of the server, and the ports of another server that it replaces."""


@pytest.fixture
def new_server(tmp_path: Path) -> Iterator[NewServer]:
    """Return a function that creates a server for this test alone, not yet started."""
    built: list[Server] = []

    def new(name: str, ports: Mapping[str, int] | None = None) -> Server:
        built.append(build(name, tmp_path, tuple((ports or {}).values())))
        return built[-1]

    yield new
    for server in built:
        server.stop()


def run(server: Server) -> Server:
    server.prepare()
    server.start()
    server.wait_ready(90)
    return server


def build(name: str, folder: Path, chosen: tuple[int, ...] = ()) -> Server:
    if name == "postgres":
        return PostgresServer(folder, *(chosen or free_ports(1)))
    if name == "openbao":
        ensure_secrets(folder / "secrets")
        return OpenBaoServer(folder, (chosen or free_ports(1, neighbours=1))[0], folder / "secrets")
    port, ui_port, metrics_port = chosen or free_ports(3)
    return TemporalServer(folder, port, ui_port, metrics_port)
