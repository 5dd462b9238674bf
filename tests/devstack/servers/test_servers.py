"""Properties that all three servers share."""

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from temporalio.client import Client, WorkflowExecutionStatus

from config.secrets import Role, read_secret, vault_secret
from config.settings import Settings
from core.errors.platform import ComponentFailed
from core.names import l2_key
from devstack.servers import ports, process
from devstack.servers.base import Server
from devstack.servers.postgres import PostgresServer
from devstack.stack.components import servers
from tests.devstack.conftest import NewServer, build, run
from tests.e2e.sockets import links
from tests.production.artefacts.processes import stop_seconds
from vault.auth.client import VaultSession

_LOOPBACK = frozenset({"0100007F", "00000000000000000000000001000000"})
"""127.0.0.1 and ::1 in the format of /proc/net."""
NAMES = ("postgres", "openbao", "temporal")


pytestmark = pytest.mark.integration


@pytest.fixture(scope="module", params=NAMES)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Each server, for tests that do not change it."""
    server = run(build(request.param, tmp_path_factory.mktemp(request.param)))
    yield server
    server.stop()


def test_server_listens_on_loopback_only(running: Server) -> None:
    bound = addresses_of(running)

    assert bound
    assert bound <= _LOOPBACK


def test_server_has_a_lower_priority_than_the_crypto_service(running: Server) -> None:
    assert running.pid is not None
    assert os.getpriority(os.PRIO_PROCESS, running.pid) == Server.niceness > 0
    # With autogroup scheduling, the niceness above applies only within the process's session.
    session = Path(f"/proc/{running.pid}/autogroup")
    assert not session.exists() or session.read_text().endswith(f" nice {Server.niceness}\n")
    niceness = {one.name: one.niceness for one in servers(Settings())}
    assert niceness.pop("crypto") == 0
    assert set(niceness.values()) == {Server.niceness}


def test_crypto_service_has_the_documented_time_to_stop() -> None:
    settings = Settings(shutdown_notice_seconds=40, shutdown_grace_seconds=3)
    (crypto,) = [one for one in servers(settings) if one.name == "crypto"]
    assert crypto.stop_seconds >= stop_seconds(settings)


@pytest.mark.parametrize("name", NAMES)
def test_taken_port_is_named_with_its_holder_and_its_setting(new_server: NewServer, name: str) -> None:
    server = new_server(name)
    setting, port = next(iter(server.ports.items()))
    server.prepare()
    with listener(port), pytest.raises(ComponentFailed) as refused:
        server.start()

    assert f"port {port}" in refused.value.message
    assert f"pid {os.getpid()}" in refused.value.message
    assert f"OPENKCM_{setting.upper()}" in refused.value.hint
    assert not server.alive


@pytest.mark.parametrize("name", NAMES)
def test_data_survives_kill_9_and_another_supervisor_ends_the_orphan(new_server: NewServer, name: str) -> None:
    server = run(new_server(name))
    STORE[name](server)
    server.kill()
    server.start()
    server.wait_ready(90)
    assert FIND[name](server)
    orphan = process.identify(server.pid or 0)
    assert orphan is not None

    heir = run(new_server(name, server.ports))

    assert not orphan.alive
    assert heir.alive
    assert FIND[name](heir)


def addresses_of(server: Server) -> set[str]:
    """Return the addresses on which the server's process listens, in the format of /proc/net."""
    assert server.pid is not None
    held = set(links(server.pid))
    return {one.address for one in ports.listening() if f"socket:[{one.inode}]" in held}


@contextmanager
def listener(port: int) -> Iterator[None]:
    with socket.socket() as held:
        held.bind(("127.0.0.1", port))
        held.listen()
        yield


def connect(server: Server) -> psycopg.Connection:
    assert isinstance(server, PostgresServer)
    return psycopg.connect(make_conninfo(server.admin_conninfo, dbname="postgres"))


def store_row(server: Server) -> None:
    with connect(server) as connection:
        connection.execute("create table kept as select 42 as answer")


def find_row(server: Server) -> bool:
    with connect(server) as connection:
        return connection.execute("select answer from kept").fetchone() == (42,)


def log_in(server: Server) -> VaultSession:
    secret = read_secret(server.state_dir / "secrets", vault_secret(Role.WORKER))
    return VaultSession(server.address, Role.WORKER, secret)


def store_key(server: Server) -> None:
    log_in(server).write(f"transit/keys/{l2_key('acme-corp-12345')}", {"type": "aes256-gcm96", "derived": True})


def find_key(server: Server) -> bool:
    return log_in(server).read(f"transit/keys/{l2_key('acme-corp-12345')}") is not None


def store_workflow(server: Server) -> None:
    async def start() -> None:
        client = await Client.connect(server.address)
        await client.start_workflow("Unknown", id="kept", task_queue="no-worker")

    asyncio.run(start())


def find_workflow(server: Server) -> bool:
    async def describe() -> bool:
        client = await Client.connect(server.address)
        return (await client.get_workflow_handle("kept").describe()).status == WorkflowExecutionStatus.RUNNING

    return asyncio.run(describe())


STORE = {"postgres": store_row, "openbao": store_key, "temporal": store_workflow}
FIND = {"postgres": find_row, "openbao": find_key, "temporal": find_workflow}


def test_port_that_a_killed_process_still_holds_is_waited_for(new_server: NewServer) -> None:
    server = new_server("openbao")
    server.prepare()
    server._pid_file.write_text("{}")
    with socket.create_server(("127.0.0.1", server.port)) as held:
        threading.Timer(0.5, held.close).start()
        server.require_ports()  # as `make up` and each start do first
    server.start()
    assert server.alive
