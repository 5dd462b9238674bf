"""Services of two tenants under load, and a marketplace that enables tenants; every error is recorded."""

import secrets
import select
import ssl
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from config.secrets import MARKETPLACE_TOKEN, WEBHOOK_SECRETS, read_secret
from crypto_service.kmip.codec.enums import Operation
from crypto_service.kmip.codec.fields import text
from crypto_service.kmip.codec.tags import Tag
from devstack.marketplace_simulator.client import MarketplaceClient
from openkcm.errors import OpenKcmError
from openkcm.sdk.client import Client
from tests.crypto_service.kmip.messages import batch_item
from tests.e2e.kmip_wire import activated_key, ask, value_of
from tests.e2e.wires import dial
from tests.production.topology.installation import REGION

_HTTPS_THREADS, _KMIP_THREADS = 6, 1
"""For each tenant. A KMIP service has one connection, and repeats no request: each loss of it is an error."""
_ENABLE_SECONDS = 10.0
_CONNECT_SECONDS = 3.0
_KEPT = 2_000
"""Ciphertexts of a thread that are decrypted again and again."""


class Target(Protocol):
    """An installation behind a load balancer."""

    folder: Path
    secrets: Path

    @property
    def kmip_address(self) -> str:
        """Return host and port of the KMIP service."""

    @property
    def marketplace_url(self) -> str: ...

    def operate(self, *words: str) -> dict[str, Any]:
        """Run a command and return its document."""


@dataclass(frozen=True)
class Failure:
    """A request without its correct response, as the application saw it after the retries of the SDK."""

    at: float
    what: str


@dataclass
class Service:
    """A connected service and the answers it has received: by operation of the audit stream."""

    tenant_id: str
    folder: Path
    answered: Counter[str] = field(default_factory=Counter)

    def tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.folder / "ca.pem")
        context.load_cert_chain(self.folder / "client.pem", self.folder / "client.key")
        return context


class Load:
    """`rate` requests per second in all; three quarters over HTTPS with the SDK, the others over KMIP."""

    def __init__(self, installed: Target, rate: float) -> None:
        self._installed, self._rate = installed, rate
        self.services = [self._connect(f"drill-{number}") for number in (1, 2)]
        self.failures: list[Failure] = []
        self.slowest: list[tuple[float, float]] = []
        """(time, seconds) of requests that took over a second."""
        self.enabled: list[str] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Send requests and events until the block ends."""
        threads = [threading.Thread(target=self._enable)]
        for service in self.services:
            threads += [threading.Thread(target=self._https, args=(service,)) for _ in range(_HTTPS_THREADS)]
            threads += [threading.Thread(target=self._kmip, args=(service,)) for _ in range(_KMIP_THREADS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def failures_since(self, moment: float) -> list[Failure]:
        """Return the failures of requests that ended after a moment of the monotonic clock."""
        return [one for one in list(self.failures) if one.at >= moment]

    def slowest_since(self, moment: float) -> float:
        """Return the seconds of the slowest request since then; 0 if each took less than a second."""
        return max((seconds for at, seconds in list(self.slowest) if at >= moment), default=0.0)

    def answered(self) -> int:
        """Return the number of requests with their correct response."""
        return sum(service.answered.total() for service in self.services)

    def _connect(self, tenant_id: str) -> Service:
        operate = self._installed.operate
        operate("enable", tenant_id, "--organization", "Drill", "--region", REGION, "--wait")
        folder = self._installed.folder / tenant_id
        operate("service", "connect", tenant_id, "--kind", "microservice", "--name", "app", "--out", str(folder))
        return Service(tenant_id, folder)

    def _https(self, service: Service) -> None:
        kept: list[tuple[str, str, bytes]] = []
        with Client.from_folder(service.folder) as client:

            def encrypt() -> None:
                plain, resource = secrets.token_bytes(24), f"orders/{secrets.token_hex(4)}"
                sealed = client.encrypt(plain, resource)
                kept.append((sealed, resource, plain))
                del kept[:-_KEPT]

            def decrypt() -> None:
                sealed, resource, plain = secrets.choice(kept)
                if client.decrypt(sealed, resource) != plain:
                    raise AssertionError("another plaintext")

            pause = _HTTPS_THREADS * len(self.services) / (self._rate * 0.75)
            while not self._stop.is_set():
                wanted = "decrypt" if kept and secrets.randbelow(2) else "encrypt"
                self._request(service, wanted, decrypt if wanted == "decrypt" else encrypt, pause)

    def _kmip(self, service: Service) -> None:
        connection: list[ssl.SSLSocket] = []
        known: list[tuple[str, bytes]] = []

        def connected() -> ssl.SSLSocket:
            # A client sees the end of an idle connection before it sends the next request.
            if connection and select.select([connection[0]], [], [], 0)[0]:
                connection.pop().close()
            if not connection:
                connection.append(self._dial(service))
                connection[0].settimeout(10)
            return connection[0]

        def get() -> None:
            kmip = connected()
            if not known:
                object_id = activated_key(kmip)
                known.append((object_id, _material(kmip, object_id)))
                self._count(service, "get")
            object_id, material = known[0]
            if _material(kmip, object_id) != material:
                raise AssertionError("another key")

        pause = _KMIP_THREADS * len(self.services) / (self._rate * 0.25)
        while not self._stop.is_set():
            if not self._request(service, "get", get, pause) and connection:
                connection.pop().close()
        if connection:
            connection[0].close()

    def _dial(self, service: Service) -> ssl.SSLSocket:
        """Connect, again while the port is closed, as `kmip.connectRetries` of MongoDB; no request is repeated."""
        until = time.monotonic() + _CONNECT_SECONDS
        while True:
            try:
                return dial(self._installed.kmip_address, service.tls())
            except ConnectionRefusedError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)

    def _request(self, service: Service, operation: str, send: Callable[[], None], pause: float) -> bool:
        began = time.monotonic()
        try:
            send()
        except Exception as failed:  # noqa: BLE001 - after any error the request has no correct response
            where = traceback.extract_tb(failed.__traceback__)[-1]
            what = f"{operation}: {type(failed).__name__} {failed} in {where.name}, line {where.lineno}"
            self.failures.append(Failure(time.monotonic(), what))
            done = False
        else:
            self._count(service, operation)
            done = True
        seconds = time.monotonic() - began
        if seconds > 1.0:
            self.slowest.append((time.monotonic(), seconds))
        self._stop.wait(max(0.0 if done else 0.25, pause - seconds))
        return done

    def _count(self, service: Service, operation: str) -> None:
        with self._lock:
            service.answered[operation] += 1

    def _enable(self) -> None:
        """Enable a tenant every ten seconds; an event is delivered again until the endpoint accepts it."""
        folder = self._installed.secrets
        client = MarketplaceClient(
            self._installed.marketplace_url,
            read_secret(folder, WEBHOOK_SECRETS),
            read_secret(folder, MARKETPLACE_TOKEN),
        )
        number = 0
        while not self._stop.wait(_ENABLE_SECONDS):
            number += 1
            tenant_id = f"enabled-{number}"
            while not self._stop.is_set():
                try:
                    client.enable(tenant_id, "Drill", REGION)
                except OpenKcmError:
                    self._stop.wait(1.0)
                else:
                    self.enabled.append(tenant_id)
                    break
        client.close()


def _material(kmip: Any, object_id: str) -> bytes:
    key = ask(kmip, batch_item(Operation.GET, text(Tag.UNIQUE_IDENTIFIER, object_id))).children()[-1]
    return bytes(value_of(key, Tag.KEY_BLOCK, Tag.KEY_VALUE, Tag.KEY_MATERIAL))
