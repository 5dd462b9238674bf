"""Connections before the end of their TLS handshake: bounded, ended in a fair order, and logged when they fail."""

import asyncio
import resource
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from structlog.testing import capture_logs

from crypto_service.server.connection_registry import ConnectionLimits
from tests.concurrency import wait_until_async
from tests.crypto_service import authority
from tests.crypto_service.authority import key_pem
from tests.crypto_service.echo import ACME, Place, ask, client_context, on_uvloop, place

pytestmark = pytest.mark.integration
FEW = ConnectionLimits(handshakes=8, check_seconds=0.02)


def silent(port: int, source: str = "127.0.0.1") -> socket.socket:
    """Return a TCP connection that never sends anything."""
    return socket.create_connection(("127.0.0.1", port), 10, (source, 0))


def is_ended(connection: socket.socket) -> bool:
    connection.settimeout(0)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def alert_of(context: ssl.SSLContext, port: int) -> str:
    """Return the alert that a client receives."""
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as client,
        ):
            client.sendall(b"hello\n")
            client.recv(1)
    except ssl.SSLError as received:
        return str(received.reason)
    return ""


def alert_to(context: ssl.SSLContext) -> str:
    found: list[str] = []

    @on_uvloop
    async def run() -> None:
        async with place() as here:
            found.append(await asyncio.to_thread(alert_of, context, here.port))

    run()
    return found[0]


def foreign_context(folder: Path) -> ssl.SSLContext:
    """Return the context of a client with a certificate that it signed itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "orders")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .sign(key, hashes.SHA256())
    )
    file = folder / "client.pem"
    file.write_text(key_pem(key) + made.public_bytes(Encoding.PEM).decode(), encoding="ascii")
    context = ssl.create_default_context(cadata=authority.root().pem)
    context.load_cert_chain(file)
    return context


async def establish(here: Place, streams: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
    """Let all connections count as established, and send a request on one."""
    assert await ask(streams, b"hello") == b"acme-corp-12345 hello\n"
    for one in here.made:
        one._established_at = 0.0
    assert await ask(streams, b"hello") == b"acme-corp-12345 hello\n"


@contextmanager
def files_limited_to(more: int) -> Iterator[None]:
    """Let this process open `more` files than it has open."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@on_uvloop
async def test_silent_connections_keep_no_client_out():
    async with place(FEW) as here:
        opened = [silent(here.port) for _ in range(40)]
        await wait_until_async(lambda: here.listener.refused == 32)
        assert here.listener.handshakes == 8
        assert await ask(await here.connect(), b"hello") == b"acme-corp-12345 hello\n"
        await wait_until_async(lambda: sum(map(is_ended, opened)) == 33)
        assert [is_ended(one) for one in opened] == [True] * 33 + [False] * 7
        for one in opened:
            one.close()
        await wait_until_async(lambda: here.listener.handshakes == 0)
        assert here.listener._handshakes == {}


@on_uvloop
async def test_handshakes_leave_time_to_the_requests_on_other_connections():
    async with place() as here:
        streams = await here.connect()
        await establish(here, streams)
        here.listener._budget.spend(0.05)
        began = time.perf_counter()
        waiting = asyncio.create_task(here.connect())
        while not waiting.done():
            assert await ask(streams, b"hello") == b"acme-corp-12345 hello\n"
        assert time.perf_counter() - began > 0.1  # less than the budget needs, for coarse clocks
        assert await ask(await waiting, b"hello") == b"acme-corp-12345 hello\n"


@on_uvloop
async def test_handshakes_of_a_client_that_connects_for_each_request_are_not_limited():
    async with place() as here:
        await ask(await here.connect(), b"hello")
        for _ in range(3):
            here.listener._budget.spend(3600)
            assert await asyncio.wait_for(ask(await here.connect(), b"hello"), 10) == b"acme-corp-12345 hello\n"


@on_uvloop
async def test_handshakes_without_requests_are_limited():
    async with place() as here:
        await here.connect()
        here.listener._budget.spend(0.05)
        began = time.perf_counter()
        await here.connect()
        assert time.perf_counter() - began > 0.1


@on_uvloop
async def test_address_with_the_most_handshakes_gives_way():
    async with place(FEW) as here:
        other = silent(here.port, "127.0.0.2")
        many = [silent(here.port) for _ in range(30)]
        await wait_until_async(lambda: here.listener.refused == 23)
        assert not is_ended(other)
        assert [is_ended(one) for one in many] == [True] * 23 + [False] * 7
        for one in (other, *many):
            one.close()


@on_uvloop
async def test_exhausted_descriptors_are_recovered_from_handshakes():
    """As many silent connections as the process may open files: a client is still served."""
    async with place(ConnectionLimits(check_seconds=0.02)) as here:
        await ask(await here.connect(), b"hello")
        with files_limited_to(60), capture_logs() as logs:
            opened = [silent(here.port) for _ in range(45)]  # each takes two: this process is both ends
            await wait_until_async(lambda: "connection not accepted" in {log["event"] for log in logs})
            while opened:
                opened.pop().close()
            assert await ask(await here.connect(), b"hello") == b"acme-corp-12345 hello\n"


@on_uvloop
async def test_failed_handshake_is_logged_with_its_reason():
    async with place() as here:
        unknown = ssl.create_default_context()
        with capture_logs() as logs, pytest.raises(ssl.SSLError):
            await asyncio.open_connection("127.0.0.1", here.port, ssl=unknown)
        await wait_until_async(lambda: here.listener.refused == 1)
        bare = ssl.create_default_context(cadata=authority.root().pem)
        with capture_logs() as logs:
            await asyncio.to_thread(alert_of, bare, here.port)
            await wait_until_async(lambda: here.listener.refused == 2)
        assert [(log["event"], log["reason"], log["address"]) for log in logs] == [
            ("handshake failed", "PEER_DID_NOT_RETURN_A_CERTIFICATE", "127.0.0.1")
        ]
        assert len(here.connections) == 0


@pytest.mark.parametrize(
    ("version", "alert"),
    [
        (ssl.TLSVersion.TLSv1_3, "TLSV13_ALERT_CERTIFICATE_REQUIRED"),
        (ssl.TLSVersion.TLSv1_2, "SSLV3_ALERT_HANDSHAKE_FAILURE"),
    ],
)
def test_client_without_certificate_receives_an_alert(version: ssl.TLSVersion, alert: str):
    bare = ssl.create_default_context(cadata=authority.root().pem)
    bare.maximum_version = version
    assert alert_to(bare) == alert


def test_client_of_another_authority_receives_an_alert(tmp_path: Path):
    foreign = foreign_context(tmp_path)
    assert alert_to(foreign) == "TLSV1_ALERT_UNKNOWN_CA"


@on_uvloop
async def test_handshake_that_takes_too_long_is_ended():
    async with place(ConnectionLimits(handshake_seconds=0.1, check_seconds=0.02)) as here:
        with silent(here.port) as one:
            await wait_until_async(lambda: is_ended(one))
        await wait_until_async(lambda: (here.listener.refused, here.listener.handshakes) == (1, 0))


@on_uvloop
async def test_closed_listener_finishes_handshakes_that_have_begun():
    async with place() as here:
        plain = await asyncio.to_thread(silent, here.port)
        await wait_until_async(lambda: here.listener.handshakes == 1)
        here.listener.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.to_thread(silent, here.port)
        plain.settimeout(10)
        wrapped = await asyncio.to_thread(client_context(ACME).wrap_socket, plain, server_hostname="127.0.0.1")
        await asyncio.to_thread(wrapped.sendall, b"hello\n")
        assert await asyncio.to_thread(wrapped.recv, 100) == b"acme-corp-12345 hello\n"
        wrapped.close()


def test_limits_fit_into_the_open_files_of_the_process():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, before[1]))
        few = ConnectionLimits.of_process()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert (few.connections, few.handshakes) == (512, 128)
    assert ConnectionLimits().handshakes == 512
