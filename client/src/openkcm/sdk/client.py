"""The Python client of the crypto service, for the customer's own services.

    with Client.from_folder("/etc/openkcm") as kcm:
        sealed = kcm.encrypt(b"card number", "orders/1234")
        assert kcm.decrypt(sealed, "orders/1234") == b"card number"

`AsyncClient` has the same methods as coroutines. Both keep connections open, retry requests where that is safe, raise
only `ClientError`, and fetch a renewed certificate after two thirds of the present one's lifetime. Threads may share a
`Client`, and tasks of one event loop an `AsyncClient`; neither survives a fork: create one in the child. Both need
httpx2 and cryptography, and nothing else of the server. See docs/crypto-api.md.
"""

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx2

from openkcm.contract.protected_fields import ProtectedField
from openkcm.sdk import protocol as calls
from openkcm.sdk.envelope import LocalKeys, LocalLimits
from openkcm.sdk.errors import (
    AccessRefused,
    CertificateUnusable,
    CiphertextRefused,
    ClientError,
    KeyVersionRetired,
    RequestRefused,
    RootKeyFailed,
    ServiceFailed,
    Unavailable,
)
from openkcm.sdk.identity import Identity, read_configuration
from openkcm.sdk.protocol import (
    DataKey,
    NoResponse,
    Outcome,
    Procedure,
    Reconnect,
    Response,
    Retry,
    Send,
    Step,
    Wait,
    perform,
    perform_all,
)

__all__ = [
    "AccessRefused",
    "AsyncClient",
    "CertificateUnusable",
    "CiphertextRefused",
    "Client",
    "ClientError",
    "DataKey",
    "Identity",
    "KeyVersionRetired",
    "LocalLimits",
    "Options",
    "RequestRefused",
    "Retry",
    "RootKeyFailed",
    "ServiceFailed",
    "Unavailable",
]

Result = TypeVar("Result")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Options:
    """Times are in seconds; `connections` are kept open for as long as `keep_seconds` without use."""

    connect_seconds: float = 3.0
    answer_seconds: float = 10.0
    connections: int = 32
    keep_seconds: float = 60.0
    retry: Retry = field(default_factory=Retry)
    local: LocalLimits = field(default_factory=LocalLimits)
    saw_date: Callable[[str], None] | None = None
    """Called with the Date header of every response, which reveals a wrong local clock."""


class _Core:
    """The common part of both clients: everything except waiting and I/O."""

    def __init__(self, url: str, identity: Identity, options: Options | None = None) -> None:
        """Connect to `url` (`https://host:port`) as `identity`; nothing is sent yet."""
        self._identity = identity
        self._options = options or Options()
        self._retry = self._options.retry
        self._local = LocalKeys(self._options.local)
        self._url = url

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str], options: Options | None = None) -> Self:
        """Return a client of the service whose files `openkcmctl service connect --out` wrote into `folder`.

        Raises: CertificateUnusable.
        """
        path = Path(folder)
        url = read_configuration(path).get("https")
        if not isinstance(url, str) or not _is_https(url):
            raise CertificateUnusable(
                "certificate_unusable", "client.toml names no https address", "connect the service again"
            )
        return cls(url, Identity.from_folder(path), options)

    def _settings(self) -> dict[str, Any]:
        options = self._options
        return {
            "base_url": self._url,
            "verify": self._identity.context,
            "timeout": httpx2.Timeout(options.answer_seconds, connect=options.connect_seconds),
            "limits": httpx2.Limits(
                max_connections=options.connections,
                max_keepalive_connections=options.connections,
                keepalive_expiry=options.keep_seconds,
            ),
            # Keys are transmitted: use no proxy and no netrc from the environment.
            "trust_env": False,
            "follow_redirects": False,
        }

    def _answered(self, response: httpx2.Response) -> Response:
        if self._options.saw_date is not None:
            self._options.saw_date(response.headers.get("date", ""))
        return Response(response.status_code, response.content, response.headers.get("retry-after", ""))

    def _current(self, procedure: Procedure[Result]) -> Procedure[Result]:
        """Renew the certificate if it is due, then run `procedure`; a failed renewal does not stop it."""
        if self._identity.claim_renewal():
            try:
                yield from self._renew()
            except ClientError as failed:
                _log.warning("certificate not renewed: %s", failed.code)
        return (yield from procedure)

    def _renew(self) -> Procedure[bool]:
        renewed = self._identity.reload()
        if not renewed:
            answer = yield from perform(calls.certificate(), self._retry)
            renewed = self._identity.install(answer)
        if renewed:
            yield Reconnect()
        return renewed


class Client(_Core):
    """The blocking client."""

    def __init__(self, url: str, identity: Identity, options: Options | None = None) -> None:
        super().__init__(url, identity, options)
        self._http = httpx2.Client(**self._settings())
        self._replaced: list[httpx2.Client] = []
        self._swap = threading.Lock()

    def encrypt(self, plaintext: bytes, resource: str) -> str:
        """Return a ciphertext that decrypts only for this service and `resource` (1 to 512 characters)."""
        return self._do(perform(calls.encrypt(plaintext, resource), self._retry))

    def decrypt(self, ciphertext: str, resource: str) -> bytes:
        """Return the plaintext; raises CiphertextRefused."""
        return self._do(perform(calls.decrypt(ciphertext, resource), self._retry))

    def rewrap(self, ciphertext: str, resource: str) -> str:
        """Re-encrypt a ciphertext or a wrapped data key with the service's active key."""
        return self._do(perform(calls.rewrap(ciphertext, resource), self._retry))

    def new_data_key(self, resource: str) -> DataKey:
        """Return a new data key, plain and wrapped; store `wrapped` beside the data and discard `plaintext` soon."""
        return self._do(perform(calls.new_data_key(resource, wrapped_only=False), self._retry))

    def new_wrapped_data_key(self, resource: str) -> str:
        """Return a new data key in wrapped form; `open_data_key` returns its plaintext."""
        return self._do(perform(calls.new_data_key(resource, wrapped_only=True), self._retry)).wrapped

    def open_data_key(self, wrapped: str, resource: str) -> bytes:
        """Return the plaintext of a wrapped data key; raises CiphertextRefused."""
        return self._do(perform(calls.open_data_key(wrapped, resource), self._retry))

    def encrypt_many(self, items: Sequence[tuple[bytes, str]]) -> list[str | ClientError]:
        """Encrypt (plaintext, resource) pairs; a rejected item is replaced by its error."""
        return self._do(perform_all(calls.encrypt_many(items), self._retry))

    def decrypt_many(self, items: Sequence[tuple[str, str]]) -> list[bytes | ClientError]:
        """Decrypt (ciphertext, resource) pairs; a rejected item is replaced by its error."""
        return self._do(perform_all(calls.decrypt_many(items), self._retry))

    def rewrap_many(self, items: Sequence[tuple[str, str]]) -> list[str | ClientError]:
        """Re-encrypt (ciphertext, resource) pairs; a rejected item is replaced by its error."""
        return self._do(perform_all(calls.rewrap_many(items), self._retry))

    def new_data_keys(self, resources: Sequence[str]) -> list[DataKey | ClientError]:
        """Create a data key for each resource; a rejected item is replaced by its error."""
        return self._do(perform_all(calls.new_data_keys(resources), self._retry))

    def encrypt_local(self, plaintext: bytes, resource: str) -> bytes:
        """Encrypt any size in this process with a cached data key, usually without a request."""
        return self._do(self._local.encrypt(plaintext, resource, self._retry))

    def decrypt_local(self, message: bytes, resource: str) -> bytes:
        """Decrypt a message of `encrypt_local`; raises CiphertextRefused."""
        return self._do(self._local.decrypt(message, resource, self._retry))

    def discover(self) -> dict[str, Any]:
        """Return the discovery document: operations, addresses, limits, and the authenticated service."""
        return self._do(perform(calls.discover(), self._retry))

    def newest_certificate(self) -> dict[str, Any]:
        """Return the service's newest certificate with its chain; the one in use stays."""
        return self._drive(perform(calls.certificate(), self._retry))

    def heartbeat(self, report: Mapping[str, Any]) -> dict[str, Any]:
        """Report the agent's state and the service's own encryption; see docs/crypto-api.md."""
        return self._drive(perform(calls.heartbeat(report), self._retry))

    def protection(self) -> tuple[ProtectedField, ...]:
        """Return the fields that the service's programs must encrypt, as configured by the administrators."""
        return self._do(perform(calls.protection(), self._retry))

    def renew_certificate(self) -> bool:
        """Install the newest certificate now, which is automatic at 2/3 of the lifetime; False if it is in use."""
        return self._drive(self._renew())

    def close(self) -> None:
        """Close the connections and drop the cached data keys."""
        self._local.forget()
        for http in (self._http, *self._replaced):
            http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _do(self, procedure: Procedure[Result]) -> Result:
        return self._drive(self._current(procedure))

    def _drive(self, procedure: Procedure[Result]) -> Result:
        outcome: Outcome = None
        while True:
            try:
                step = procedure.send(outcome)
            except StopIteration as end:
                result: Result = end.value
                return result
            outcome = self._take(step)

    def _take(self, step: Step) -> Outcome:
        if isinstance(step, Send):
            return self._send(step)
        if isinstance(step, Wait):
            time.sleep(step.seconds)
        else:
            self._reconnect()
        return None

    def _reconnect(self) -> None:
        """Keep the old connections for threads that use them; the next renewal closes them."""
        with self._swap:
            unused, self._replaced = self._replaced, [self._http]
            self._http = httpx2.Client(**self._settings())
        for http in unused:
            http.close()

    def _send(self, step: Send) -> Outcome:
        try:
            answer = self._http.request(step.method, step.path, content=step.content, headers=_headers())
            return self._answered(answer)
        except httpx2.TransportError as failed:
            return NoResponse(type(failed).__name__)


class AsyncClient(_Core):
    """The asynchronous client; see `Client` for the methods."""

    def __init__(self, url: str, identity: Identity, options: Options | None = None) -> None:
        super().__init__(url, identity, options)
        self._http = httpx2.AsyncClient(**self._settings())
        self._replaced: list[httpx2.AsyncClient] = []

    async def encrypt(self, plaintext: bytes, resource: str) -> str:
        return await self._do(perform(calls.encrypt(plaintext, resource), self._retry))

    async def decrypt(self, ciphertext: str, resource: str) -> bytes:
        return await self._do(perform(calls.decrypt(ciphertext, resource), self._retry))

    async def rewrap(self, ciphertext: str, resource: str) -> str:
        return await self._do(perform(calls.rewrap(ciphertext, resource), self._retry))

    async def new_data_key(self, resource: str) -> DataKey:
        return await self._do(perform(calls.new_data_key(resource, wrapped_only=False), self._retry))

    async def new_wrapped_data_key(self, resource: str) -> str:
        return (await self._do(perform(calls.new_data_key(resource, wrapped_only=True), self._retry))).wrapped

    async def open_data_key(self, wrapped: str, resource: str) -> bytes:
        return await self._do(perform(calls.open_data_key(wrapped, resource), self._retry))

    async def encrypt_many(self, items: Sequence[tuple[bytes, str]]) -> list[str | ClientError]:
        return await self._do(perform_all(calls.encrypt_many(items), self._retry))

    async def decrypt_many(self, items: Sequence[tuple[str, str]]) -> list[bytes | ClientError]:
        return await self._do(perform_all(calls.decrypt_many(items), self._retry))

    async def rewrap_many(self, items: Sequence[tuple[str, str]]) -> list[str | ClientError]:
        return await self._do(perform_all(calls.rewrap_many(items), self._retry))

    async def new_data_keys(self, resources: Sequence[str]) -> list[DataKey | ClientError]:
        return await self._do(perform_all(calls.new_data_keys(resources), self._retry))

    async def encrypt_local(self, plaintext: bytes, resource: str) -> bytes:
        return await self._do(self._local.encrypt(plaintext, resource, self._retry))

    async def decrypt_local(self, message: bytes, resource: str) -> bytes:
        return await self._do(self._local.decrypt(message, resource, self._retry))

    async def discover(self) -> dict[str, Any]:
        return await self._do(perform(calls.discover(), self._retry))

    async def newest_certificate(self) -> dict[str, Any]:
        return await self._drive(perform(calls.certificate(), self._retry))

    async def heartbeat(self, report: Mapping[str, Any]) -> dict[str, Any]:
        return await self._drive(perform(calls.heartbeat(report), self._retry))

    async def protection(self) -> tuple[ProtectedField, ...]:
        return await self._do(perform(calls.protection(), self._retry))

    async def renew_certificate(self) -> bool:
        return await self._drive(self._renew())

    async def close(self) -> None:
        self._local.forget()
        for http in (self._http, *self._replaced):
            await http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _do(self, procedure: Procedure[Result]) -> Result:
        return await self._drive(self._current(procedure))

    async def _drive(self, procedure: Procedure[Result]) -> Result:
        outcome: Outcome = None
        while True:
            try:
                step = procedure.send(outcome)
            except StopIteration as end:
                result: Result = end.value
                return result
            outcome = await self._take(step)

    async def _take(self, step: Step) -> Outcome:
        if isinstance(step, Send):
            return await self._send(step)
        if isinstance(step, Wait):
            await asyncio.sleep(step.seconds)
        else:
            unused, self._replaced = self._replaced, [self._http]
            self._http = httpx2.AsyncClient(**self._settings())
            for http in unused:
                await http.aclose()
        return None

    async def _send(self, step: Send) -> Outcome:
        try:
            answer = await self._http.request(step.method, step.path, content=step.content, headers=_headers())
            return self._answered(answer)
        except httpx2.TransportError as failed:
            return NoResponse(type(failed).__name__)


def _is_https(url: str) -> bool:
    try:
        return httpx2.URL(url).scheme == "https"
    except httpx2.InvalidURL:
        return False


_HEADERS = {"content-type": "application/json", "user-agent": "openkcm-client/1"}


def _headers() -> dict[str, str]:
    """Return the headers of a request, with the traceparent of the application's current OpenTelemetry span.

    Only an application that has loaded OpenTelemetry has such a span, so the client does not depend on it.
    """
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return _HEADERS
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return _HEADERS
    return _HEADERS | {"traceparent": f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"}
