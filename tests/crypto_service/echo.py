"""A server that returns each line with the tenant id, over real TLS, and clients with certificates."""

import asyncio
import contextlib
import functools
import hashlib
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import uvloop
from cryptography import x509

from core.tenants.lifecycle import State
from crypto_service.interfaces import ClientIdentity, Dependencies
from crypto_service.server.connection import Connection
from crypto_service.server.connection_registry import ConnectionLimits, ConnectionRegistry
from crypto_service.server.executor import FairExecutor
from crypto_service.server.limits import TenantLimits
from crypto_service.server.listener import TlsListener, listen
from crypto_service.server.proxy_protocol import Networks
from crypto_service.server.tls import server_context
from openkcm.errors import OpenKcmError
from tests.crypto_service import authority
from tests.crypto_service.core.world import Changes

request_name: ContextVar[bytes] = ContextVar("request_name", default=b"")
ACME, BETA = "acme-corp-12345", "beta-corp-67890"


class FakeCallers:
    """Trusts the leaf's DNS name, raises `refusals`, and, with `waits`, responds only after `open` is set.

    Each request reads its caller, unless `all_current`.
    """

    def __init__(self) -> None:
        self.refusals: dict[str, OpenKcmError] = {}
        self.open = asyncio.Event()
        self.open.set()
        self.waits = self.all_current = False
        self.asked = 0

    async def identify(self, certificate_der: bytes, address: str) -> ClientIdentity:
        self.asked += 1
        if self.waits:
            await self.open.wait()
        leaf = x509.load_der_x509_certificate(certificate_der)
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        tenant = names.get_values_for_type(x509.DNSName)[0].partition(".")[0]
        serial = hashlib.sha256(certificate_der).hexdigest()
        caller = ClientIdentity(tenant, "orders", f"L2-{tenant}-primary", "eu-west-1", serial, State.ACTIVE, address)
        return await self.refresh(caller)

    def is_current(self, caller: ClientIdentity) -> bool:  # noqa: ARG002 - one answer for all
        return self.all_current

    async def refresh(self, caller: ClientIdentity) -> ClientIdentity:
        self.asked += 1
        if caller.tenant_id in self.refusals:
            raise self.refusals[caller.tenant_id]
        return caller


class Echo(Connection):
    """Returns each line. `wait` waits for `go`, `boom` raises, `big` returns 8 MiB, `busy` takes half a millisecond."""

    go: asyncio.Event

    def __init__(self, parts: Dependencies, connections: ConnectionRegistry) -> None:
        super().__init__(parts, connections)
        self._buffer = b""

    def received(self, data: bytes) -> None:
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            self.run(self._answer(line), self.send)
        self.awaiting(self.connections.bounds.message_seconds if self._buffer else None)

    async def _answer(self, line: bytes) -> bytes:
        caller = await self.current()
        if line == b"wait":
            await self.go.wait()
        if line.startswith(b"named"):
            assert request_name.get() == b""
            token = request_name.set(line)
            if line.endswith(b"wait"):
                await self.go.wait()
            named = request_name.get()
            request_name.reset(token)  # raises in a context in which it was not set
            return caller.tenant_id.encode() + b" " + named + b"\n"
        if line == b"busy":
            end = time.perf_counter() + 0.0005
            while time.perf_counter() < end:
                pass
        if line == b"boom":
            raise KeyError("secret of the request")
        if line == b"big":
            return bytes(8 * 1024 * 1024)
        return caller.tenant_id.encode() + b" " + line + b"\n"


class PoliteEcho(Echo):
    ANSWERS_REFUSAL = True

    async def refused(self, error: OpenKcmError, received: bytes) -> bytes:
        if received == b"wait\n":
            await self.go.wait()
        return error.code.encode() + b" " + received


@dataclass
class Place:
    """A server on a loopback port, and the state that a test changes."""

    callers: FakeCallers
    journal: Any
    changes: Changes
    connections: ConnectionRegistry
    threads: FairExecutor
    listener: TlsListener
    port: int
    made: list[Echo]
    streams: list[asyncio.StreamWriter] = field(default_factory=list)

    async def connect(self, tenant: str = ACME) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=client_context(tenant))
        self.streams.append(writer)
        return reader, writer


@functools.cache
def client_context(tenant: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=authority.root().pem)
    leaf = authority.service_leaf(tenant, "orders")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "client.pem"
        file.write_text(leaf.key_pem + leaf.pem + authority.tenant_authority(tenant).pem, encoding="ascii")
        context.load_cert_chain(file)
    return context


@contextlib.asynccontextmanager
async def place(
    bounds: ConnectionLimits | None = None,
    server_class: type[Echo] = Echo,
    rate: int = 1_000_000,
    proxies: Networks = (),
) -> AsyncIterator[Place]:
    callers, changes = FakeCallers(), Changes()
    nothing, journal = cast("Any", None), SimpleNamespace(is_failing=False)
    threads = FairExecutor(2)
    parts = Dependencies(callers, nothing, cast("Any", journal), TenantLimits(rate, 100), threads, threads, changes)
    connections = ConnectionRegistry(parts, bounds or ConnectionLimits(check_seconds=0.02))
    made: list[Echo] = []
    Echo.go = asyncio.Event()

    def protocol() -> Echo:
        made.append(server_class(parts, connections))
        return made[-1]

    [listening] = listen("127.0.0.1", 0)
    listener = TlsListener(connections, protocol, server_context(authority.server_identity()), [listening], proxies)
    here = Place(callers, journal, changes, connections, threads, listener, listening.getsockname()[1], made)
    try:
        yield here
    finally:
        listener.close()
        await connections.drain(0.5)
        connections.stop()
        threads.close()
        for stream in here.streams:
            stream.close()
            with contextlib.suppress(OSError, ssl.SSLError):
                await asyncio.wait_for(stream.wait_closed(), 5)


def on_uvloop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test on the event loop implementation of the service."""

    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(asyncio.wait_for(test(**fixtures), 60))

    return run


async def ask(streams: tuple[asyncio.StreamReader, asyncio.StreamWriter], line: bytes) -> bytes:
    reader, writer = streams
    writer.write(line + b"\n")
    return await asyncio.wait_for(reader.readline(), 30)


async def is_closed(reader: asyncio.StreamReader) -> bool:
    try:
        return await asyncio.wait_for(reader.read(), 30) == b""
    except ConnectionError:
        return True
