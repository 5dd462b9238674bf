"""TLS records: in pieces of any size, and without data, with which a client must not take the time of others."""

import _ssl
import asyncio
import ctypes
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from crypto_service.server.listener import _EMPTY_RECORDS
from tests.concurrency import wait_until_async
from tests.crypto_service import authority
from tests.crypto_service.echo import ACME, BETA, ask, client_context, on_uvloop, place

pytestmark = pytest.mark.integration
Result = TypeVar("Result")
_REQUESTED = 1
"""The type of a KeyUpdate that the other side answers with one."""


class KeyUpdater:
    """A client with OpenSSL, because Python's `ssl` sends no KeyUpdate."""

    def __init__(self, certificate: Path, port: int) -> None:
        self._library = library = ctypes.CDLL(_ssl.__file__)
        for name in ("TLS_client_method", "SSL_CTX_new", "SSL_new"):
            getattr(library, name).restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(library.SSL_CTX_new(ctypes.c_void_p(library.TLS_client_method())))
        file = str(certificate).encode()
        assert library.SSL_CTX_use_certificate_chain_file(self._context, file) == 1
        assert library.SSL_CTX_use_PrivateKey_file(self._context, file, 1) == 1
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._tls = ctypes.c_void_p(library.SSL_new(self._context))
        library.SSL_set_fd(self._tls, self._socket.fileno())
        assert library.SSL_connect(self._tls) == 1

    def update(self) -> bool:
        """Send a KeyUpdate; return whether the connection accepts it."""
        self._library.SSL_key_update(self._tls, _REQUESTED)
        return bool(self._library.SSL_do_handshake(self._tls) == 1)

    def ask(self, line: bytes) -> bytes:
        assert self._library.SSL_write(self._tls, line + b"\n", len(line) + 1) == len(line) + 1
        answer = ctypes.create_string_buffer(1000)
        received = self._library.SSL_read(self._tls, answer, 1000)
        return answer.raw[: max(0, received)]

    def close(self) -> None:
        self._library.SSL_free(self._tls)
        self._library.SSL_CTX_free(self._context)
        self._socket.close()


@contextmanager
def key_updater(folder: Path, port: int) -> Iterator[KeyUpdater]:
    leaf, file = authority.service_leaf(ACME, "orders"), folder / "client.pem"
    file.write_text(leaf.key_pem + leaf.pem + authority.tenant_authority(ACME).pem)
    client = KeyUpdater(file, port)
    try:
        yield client
    finally:
        client.close()


@on_uvloop
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_client_of_each_version_of_tls_is_served(version: ssl.TLSVersion):
    context = client_context.__wrapped__(ACME)
    context.minimum_version = context.maximum_version = version
    async with place() as here:
        streams = await asyncio.open_connection("127.0.0.1", here.port, ssl=context)
        here.streams.append(streams[1])
        for line in (b"first", b"second"):
            assert await ask(streams, line) == b"acme-corp-12345 " + line + b"\n"
        streams[1].write(b"big\n")
        assert await streams[0].readexactly(8 * 1024 * 1024) == bytes(8 * 1024 * 1024)


@on_uvloop
async def test_client_that_sends_only_key_updates_is_ended(tmp_path: Path):
    async with place() as here:
        other = await here.connect(BETA)

        def flood() -> int:
            with key_updater(tmp_path, here.port) as client:
                return next((sent for sent in range(50_000) if not client.update()), 50_000)

        sent = await asyncio.create_task(asyncio.to_thread(flood))
        assert _EMPTY_RECORDS <= sent < 50_000  # the client notices the end after what the system took
        await wait_until_async(lambda: len(here.connections) == 1)
        assert await ask(other, b"still") == b"beta-corp-67890 still\n"


@on_uvloop
async def test_client_updates_its_keys_between_its_requests(tmp_path: Path):
    async with place() as here:

        def work() -> None:
            with key_updater(tmp_path, here.port) as client:
                for _ in range(3):
                    for number in range(_EMPTY_RECORDS // 2):
                        assert client.update()
                        assert client.ask(b"%d" % number) == b"acme-corp-12345 %d\n" % number
                assert [client.update() for _ in range(_EMPTY_RECORDS)] == [True] * _EMPTY_RECORDS
                assert client.ask(b"last") == b"acme-corp-12345 last\n"

        await asyncio.to_thread(work)


class PieceSender:
    """A TLS client that decides which bytes reach the system in one call."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = client_context(ACME).wrap_bio(self._incoming, self._outgoing, server_hostname="127.0.0.1")
        self._complete(self._tls.do_handshake)

    def _complete(self, step: Callable[[], Result]) -> Result:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                self._socket.sendall(self._outgoing.read())
                self._incoming.write(self._socket.recv(65_536))

    def ask(self, message: bytes, size: int) -> bytes:
        """Send a message in records of at most 16 KiB, `size` bytes at a time; return the line of the response."""
        for begin in range(0, len(message), 16_384):
            self._tls.write(message[begin : begin + 16_384])
        records = self._outgoing.read()
        for begin in range(0, len(records), size):
            self._socket.sendall(records[begin : begin + size])
            time.sleep(0.001)  # so that the server reads the pieces separately
        answer = b""
        while not answer.endswith(b"\n"):
            answer += self._complete(lambda: self._tls.read(65_536))
        return answer

    def close(self) -> None:
        self._socket.close()


@on_uvloop
@pytest.mark.parametrize(("length", "size"), [(10, 1), (10, 4), (100, 37), (40_000, 5_000), (40_000, 16_387)])
async def test_records_are_read_in_pieces_of_any_size(length: int, size: int):
    async with place() as here:

        def work() -> None:
            with closing(PieceSender(here.port)) as client:
                for number in range(3):
                    line = b"%d" % number * length
                    assert client.ask(line + b"\n", size) == b"acme-corp-12345 " + line + b"\n"

        await asyncio.to_thread(work)


@on_uvloop
async def test_record_that_is_too_large_ends_the_connection():
    async with place() as here:

        def work() -> bytes:
            with closing(PieceSender(here.port)) as client:
                assert client.ask(b"x\n", 100) == b"acme-corp-12345 x\n"
                client._socket.sendall(b"\x17\x03\x03\xff\xff" + bytes(1000))
                client._socket.settimeout(20)
                return client._socket.recv(1000)

        await asyncio.to_thread(work)
        await wait_until_async(lambda: len(here.connections) == 0)
