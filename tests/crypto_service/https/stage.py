"""The HTTPS server on a real uvloop with real mTLS, in a dedicated thread, for tests that connect as clients."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self, TypeVar

import uvloop

from core.tracing.spans import Tracer
from crypto_service.https.server import HttpsServer
from crypto_service.interfaces import ClientIdentity, Dependencies
from crypto_service.keys.operations import CryptoOperations
from crypto_service.server.connection_registry import ConnectionLimits, ConnectionRegistry
from crypto_service.server.limits import TenantLimits
from crypto_service.server.listener import TlsListener, listen
from crypto_service.server.tls import server_context
from openkcm.contract.client_files import Offer
from tests.crypto_service.authority import Leaf, server_identity, service_leaf, write_folder
from tests.crypto_service.https.core import MemoryCertificates, MemoryCore, MemoryHeartbeats, MemoryProtections

Result = TypeVar("Result")
TENANT = "acme-corp-12345"
OTHER_TENANT = "globex-67890"
SERVICE = "orders"
BODY_LIMIT = 65_536
_SECONDS = 30.0


class Stage:
    """A running server with one admitted service; its core MUST be used only on the thread of the loop."""

    def __init__(
        self,
        folder: Path,
        bounds: ConnectionLimits | None = None,
        rate: int = 1_000_000,
        places: int = 256,
        tracer: Tracer | None = None,
    ) -> None:
        self._bounds = bounds
        self._tracer = tracer
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)  # a failed close must not block the end
        self._limits = TenantLimits(rate, places)
        self.core = MemoryCore()
        self.certificates = MemoryCertificates(self.core)
        self.heartbeats = MemoryHeartbeats(self.core)
        self.protections = MemoryProtections()
        self.leaf = service_leaf(TENANT, SERVICE)
        self.caller = self.core.admit(self.leaf, TENANT, SERVICE)
        self.root = folder
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self.on_loop(self._open)
        self.folder = self.connect_folder("service", TENANT, self.leaf)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_SECONDS)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.close()

    def _open(self) -> None:
        core = self.core
        parts = Dependencies(core, CryptoOperations(core, core, core), core, self._limits, core, core, core)
        self.connections = ConnectionRegistry(parts, self._bounds)
        self._server = HttpsServer(
            parts,
            self.connections,
            BODY_LIMIT,
            self.certificates,
            self.heartbeats,
            self.protections,
            Offer("https://localhost:0", "localhost:5696"),
            self._tracer,
        )
        [listening] = listen("127.0.0.1", 0)
        self.port = listening.getsockname()[1]
        context = server_context(server_identity(), ("http/1.1",))
        self._listener = TlsListener(self.connections, self._server.protocol, context, [listening])

    async def _close(self) -> None:
        self._listener.close()
        await self.connections.drain(1.0)
        self.connections.stop()

    def on_loop(self, work: Callable[[], Result]) -> Result:
        """Run `work` on the loop's thread and return its result."""

        async def do() -> Result:
            return work()

        return asyncio.run_coroutine_threadsafe(do(), self._loop).result(_SECONDS)

    def connect_folder(self, name: str, tenant_id: str, leaf: Leaf) -> Path:
        return write_folder(self.root / name, tenant_id, leaf, self.port)

    def service(self, tenant_id: str, service: str) -> tuple[ClientIdentity, Path]:
        """Admit another service and return it with its folder."""
        leaf = service_leaf(tenant_id, service)
        caller = self.on_loop(lambda: self.core.admit(leaf, tenant_id, service))
        return caller, self.connect_folder(f"{tenant_id}-{service}", tenant_id, leaf)

    def tls(self, folder: Path | None = None) -> ssl.SSLContext:
        folder = folder or self.folder
        context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
        context.load_cert_chain(folder / "client.pem", folder / "client.key")
        return context

    def dial(self, folder: Path | None = None) -> ssl.SSLSocket:
        """Open a connection for raw bytes."""
        plain = socket.create_connection(("127.0.0.1", self.port), _SECONDS)
        return self.tls(folder).wrap_socket(plain, server_hostname="localhost")
