"""Responses that a client reads slowly or not at all: real TLS, with a small receive buffer of the client."""

import asyncio
import contextlib
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from crypto_service.server.connection_registry import ConnectionLimits
from tests.concurrency import wait_until, wait_until_async
from tests.crypto_service.echo import ACME, BETA, Echo, Place, ask, client_context, on_uvloop, place
from tests.crypto_service.https.stage import Stage
from tests.crypto_service.https.wire import Wire, get, post

pytestmark = pytest.mark.integration
BIG = 8 * 1024 * 1024
"""The response to `big`; the kernel takes about 3 MiB of it for a client with a small receive buffer."""


def _connect(port: int, sent: bytes) -> ssl.SSLSocket:
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.settimeout(20)
    plain.connect(("127.0.0.1", port))
    client = client_context(ACME).wrap_socket(plain, server_hostname="127.0.0.1")
    client.sendall(sent)
    return client


class LastEcho(Echo):
    """Closes the connection after its first response."""

    def send(self, data: bytes, *, complete: bool = True) -> None:
        super().send(data, complete=complete)
        self.close()


@contextlib.asynccontextmanager
async def slow_clients(here: Place, sent: bytes, number: int = 1) -> AsyncIterator[list[ssl.SSLSocket]]:
    """Connect clients that have sent `sent` and read only what the test reads."""
    with contextlib.ExitStack() as closing:
        clients = [await asyncio.to_thread(_connect, here.port, sent) for _ in range(number)]
        for one in clients:
            closing.enter_context(one)
        yield clients


def _pieces(client: ssl.SSLSocket, size: int, pause: float) -> Iterator[int]:
    while received := len(client.recv(size)):
        yield received
        time.sleep(pause)


async def read_slowly(client: ssl.SSLSocket, pause: float) -> int:
    """Return the number of bytes until the end of the connection, read in 16 KiB with a pause after each."""
    total = 0

    def read() -> None:
        nonlocal total
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            for received in _pieces(client, 16_384, pause):
                total += received

    await asyncio.to_thread(read)
    return total


@on_uvloop
async def test_one_response_that_is_not_read_is_counted_and_its_client_closed():
    async with place(ConnectionLimits(message_seconds=1.0, check_seconds=0.02)) as here, slow_clients(here, b"big\n"):
        await wait_until_async(lambda: here.connections.held > BIG / 2)
        began, other = time.monotonic(), await here.connect(BETA)
        while here.connections.held:
            assert await ask(other, b"still") == b"beta-corp-67890 still\n"
            assert time.monotonic() - began < 20
        assert time.monotonic() - began > 0.7
        await wait_until_async(lambda: len(here.connections) == 1)


@on_uvloop
async def test_client_that_reads_too_slowly_is_closed():
    async with (
        place(ConnectionLimits(message_seconds=0.5, check_seconds=0.02)) as here,
        slow_clients(here, b"big\n") as [client],
    ):
        assert await read_slowly(client, 0.01) < BIG
        assert len(here.connections) == 0


@on_uvloop
async def test_sum_of_responses_that_are_not_read_is_limited():
    async with place(ConnectionLimits(message_bytes=30_000_000, check_seconds=0.02)) as here:
        async with slow_clients(here, b"big\n", 10):
            await wait_until_async(lambda: here.connections.opened == 10 and here.connections.refused >= 7)
            assert BIG / 2 < here.connections.held < 15_000_000
            streams = await here.connect(BETA)
            streams[1].write(b"big\n")
            assert len(await streams[0].readexactly(BIG)) == BIG
        await wait_until_async(lambda: len(here.connections) == 1)
        assert here.connections.held == 0


@on_uvloop
async def test_slow_client_gets_the_whole_response_and_the_next_one():
    async with place() as here, slow_clients(here, b"big\nlast\n") as [client]:
        await wait_until_async(lambda: here.connections.held > 0)

        def read() -> bytes:
            data = b""
            while not data.endswith(b" last\n"):
                data += client.recv(65_536)
            return data

        assert await asyncio.to_thread(read) == bytes(BIG) + b"acme-corp-12345 last\n"
        await wait_until_async(lambda: here.connections.held == 0)


@on_uvloop
async def test_client_gets_all_of_the_last_response_while_it_reads_in_time():
    """The time of a connection that has nothing to send is much shorter."""
    bounds = ConnectionLimits(close_seconds=0.1, check_seconds=0.02)
    async with place(bounds, LastEcho) as here, slow_clients(here, b"big\n") as [client]:
        assert await read_slowly(client, 0.005) == BIG
        assert client.recv(1) == b""  # the end of TLS, not of TCP only


@on_uvloop
async def test_client_that_does_not_read_the_last_response_is_closed():
    bounds = ConnectionLimits(message_seconds=1.0, close_seconds=0.1, check_seconds=0.02)
    async with place(bounds, LastEcho) as here, slow_clients(here, b"big\n"):
        await wait_until_async(lambda: here.connections.held > BIG / 2)
        began = time.monotonic()
        await wait_until_async(lambda: len(here.connections) == 0, seconds=10)
        assert time.monotonic() - began > 0.7


@on_uvloop
async def test_client_that_has_read_the_last_response_and_stays_is_closed_soon():
    bounds = ConnectionLimits(close_seconds=0.3, check_seconds=0.02)
    async with place(bounds, LastEcho) as here, slow_clients(here, b"hello\n") as [client]:
        began = time.monotonic()
        assert await asyncio.to_thread(client.recv, 100) == b"acme-corp-12345 hello\n"
        await wait_until_async(lambda: here.connections.opened == 1 and len(here.connections) == 0, seconds=10)
        assert time.monotonic() - began > 0.2


@on_uvloop
async def test_drain_waits_for_a_client_that_reads_its_last_response():
    bounds = ConnectionLimits(close_seconds=0.1, check_seconds=0.02)
    async with place(bounds) as here, slow_clients(here, b"big\n") as [client]:
        await wait_until_async(lambda: here.connections.held > 0)
        draining = asyncio.create_task(here.connections.drain(30))
        assert await read_slowly(client, 0.002) == BIG
        await draining


def test_https_client_that_never_reads_the_response_of_its_batch_is_closed_while_others_are_served(tmp_path: Path):
    """The response has 196 KB, and the kernel takes little of it."""
    batch = json.dumps({"items": [{"resource": f"orders/{number}"} for number in range(1000)]}).encode()
    with Stage(tmp_path, ConnectionLimits(message_seconds=1.0, check_seconds=0.02)) as stage:
        _, folder = stage.service("globex-67890", "billing")
        for listening in stage._listener._sockets:  # each connection inherits it
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        with Wire(stage.dial()) as lazy, Wire(stage.dial(folder)) as other:
            lazy.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            lazy.send(post("/v1/data-keys:batch", batch))
            wait_until(lambda: stage.connections.held > 150_000, seconds=20)
            began = time.monotonic()
            while stage.connections.held:
                other.send(get("/healthz"))
                assert other.reply().status == 200
                assert time.monotonic() - began < 20
            assert time.monotonic() - began > 0.7
            wait_until(lambda: len(stage.connections) == 1)
