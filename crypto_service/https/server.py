"""The HTTPS server: requests in, responses out, in order; `routes` defines the operations.

It is fast because it does little. A request whose key is in memory completes without a task, and its response is sent
with one `send` after headers that were built beforehand.
"""

import time
from email.utils import formatdate
from functools import partial
from typing import Any, ClassVar, NamedTuple

import orjson

from core.correlation import correlation_id
from core.errors.requests import TooManyRequests
from core.errors.services import ClientNotAuthorized
from core.errors.tenants import TenantNotOperational
from core.tenants.lifecycle import State
from core.tracing.spans import SERVER, Tracer, parse
from crypto_service.correlation import new_correlation_id
from crypto_service.https import schemas as api
from crypto_service.https.discovery import describe, openapi
from crypto_service.https.heartbeats import BufferedHeartbeats
from crypto_service.https.lookups import DatabaseCertificates, DatabaseProtectedFields
from crypto_service.https.parser import HttpReader, Message, Routes
from crypto_service.https.problems import CONTENT_TYPE, Problem, from_error, no_such_path
from crypto_service.https.routes import CERTIFICATE, CRL, JSON, HandlerContext, routes
from crypto_service.interfaces import ClientIdentity, Dependencies
from crypto_service.server.connection import Connection, hold_position
from crypto_service.server.connection_registry import ConnectionRegistry
from openkcm.contract.client_files import Offer
from openkcm.errors import OpenKcmError

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_COMMON = b"\r\ncache-control: no-store\r\ndate: %b\r\nx-request-id: %b\r\ncontent-length: %d"
_OK = {
    media_type: b"HTTP/1.1 200 OK\r\ncontent-type: " + media_type.encode("ascii") + _COMMON
    for media_type in (JSON, CRL)
}
_PROBLEM = b"HTTP/1.1 %d %b\r\ncontent-type: " + CONTENT_TYPE.encode() + _COMMON
_CLOSE = b"\r\nconnection: close"
_END = b"\r\n\r\n"
_BYTES_PER_UNIT = 32_768
"""Bytes of a body that take about as long as a small request, which is the unit of the tenant's rate."""
_PARSED_AT_ONCE = 4_096
"""Bytes that are parsed before the requests in them are answered: a hundred small requests."""
_NOTHING = memoryview(b"")
_LINGER_SECONDS = 2.0
"""How long a client that is still sending a rejected body may read its response before the connection is reset."""


class _Reply(NamedTuple):
    data: bytes
    last: bool
    unread: bool
    answered: int = 0
    """Bytes of the request's body."""
    code: str = ""
    """The code of the rejection."""


class HttpsServer:
    """Creates one protocol for each connection."""

    def __init__(  # noqa: PLR0913, PLR0917 - the dependencies of the endpoints
        self,
        parts: Dependencies,
        connections: ConnectionRegistry,
        body_limit: int,
        certificates: DatabaseCertificates,
        heartbeats: BufferedHeartbeats,
        protections: DatabaseProtectedFields,
        offer: Offer,
        tracer: Tracer | None = None,
    ) -> None:
        self._parts = parts
        self._connections = connections
        self._body_limit = body_limit
        self._routes = routes()
        self._tracer = tracer
        discovery = partial(describe, offer, body_limit=body_limit)
        self._context = HandlerContext(
            parts.operations, certificates, heartbeats, protections, discovery, openapi(), parts.turns
        )

    def protocol(self) -> Connection:
        """Return the protocol of one connection, for a `TlsListener`."""
        needs = self._parts, self._connections, self._context, self._routes, self._body_limit
        return _HttpsConnection(*needs) if self._tracer is None else _TracedConnection(self._tracer, *needs)


class _HttpsConnection(Connection):
    __slots__ = (
        "_context",
        "_lingering",
        "_message_seconds",
        "_parsing",
        "_pending",
        "_reader",
        "_unparsed",
    )

    ANSWERS_REFUSAL: ClassVar[bool] = True

    def __init__(
        self,
        parts: Dependencies,
        connections: ConnectionRegistry,
        context: HandlerContext,
        routes: Routes,
        body_limit: int,
    ) -> None:
        super().__init__(parts, connections)
        self._context = context
        self._reader = HttpReader(routes, body_limit)
        self._message_seconds = connections.bounds.message_seconds
        self._lingering = self._parsing = False
        self._unparsed = _NOTHING
        self._pending = 0

    def received(self, data: bytes) -> None:
        if self._lingering:
            return
        message = None if self._unparsed or not self.answers_next() else self._reader.recognise(data)
        if message is not None:
            self._answer_next(message)
            reads = self.busy()  # otherwise the response is sent
        else:
            # Not copied unless something waits: a body of a megabyte arrives in a few pieces.
            self._unparsed = memoryview(bytes(self._unparsed) + data if self._unparsed else data)
            reads = self._parse()
        if reads and not self.hold(self._held()):
            self._lingering = True
            refusal = from_error(TooManyRequests("the tenant's connections hold too many bytes of requests"))
            answer = _render(refusal, new_correlation_id(), last=True)
            self.run(hold_position(), lambda _: self._sent(_Reply(answer, last=True, unread=True)))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._reader.close()

    def _parse(self) -> bool:
        """Parse what can be answered now, because a client may send a thousand requests at once.

        Return whether more is read.
        """
        if self._parsing:  # called for a request that could be answered at once
            return True
        self._parsing, reader = True, self._reader
        while self._unparsed and self.answers_next() and not self._lingering:
            size = max(_PARSED_AT_ONCE, reader.missing)
            part, self._unparsed = self._unparsed[:size], self._unparsed[size:]
            for message in reader.feed(part):
                self._answer_next(message)
        self._parsing = False
        if not self._unparsed:
            self._unparsed = _NOTHING  # an empty view keeps all bytes that it was made of
        if self._lingering or self._unparsed:
            return not self._lingering
        if reader.within:
            self.awaiting(self._message_seconds)
            if reader.expected:
                reader.expected = False
                self.run(hold_position(), lambda _: self.send(_CONTINUE, complete=False))
        else:
            self.awaiting(None)
        return True

    def _answer_next(self, message: Message) -> None:
        self._pending += len(message.body)
        self.run(self._answer(message), self._sent)

    def _held(self) -> int:
        return self._reader.held + self._pending + memoryview(self._unparsed.obj).nbytes

    async def refused(self, error: OpenKcmError, received: bytes) -> bytes:
        """Return the rejection; for a service of a locked tenant its own certificate, if it requested that."""
        asked = next(iter(self._reader.feed(received)), None) if isinstance(error, TenantNotOperational) else None
        if asked is None:
            head_only = received.startswith(b"HEAD ")
            return _render(from_error(error), new_correlation_id(), last=True, head_only=head_only)
        correlation_id.set(asked.correlation_id)
        answer: bytes | Problem
        try:
            caller = await self._locked(asked)
            answer = from_error(error) if caller is None else await self._answer_within_limits(asked, caller)
        except OpenKcmError as refused:
            answer = from_error(refused)
        return _render(answer, asked.correlation_id, last=True, head_only=asked.head_only)

    async def _locked(self, message: Message) -> ClientIdentity | None:
        """Return a caller that requests its certificate and is rejected only because its tenant is locked, else None.

        The certificate is not secret and decrypts nothing while the tenant is locked. Without it, a lock that lasts
        longer than a certificate would leave the service with an expired certificate, which cannot authenticate the
        request for the next one.
        """
        if message.endpoint is None or message.endpoint.name != CERTIFICATE:
            return None
        try:
            return await self.parts.callers.locked(self.certificate or b"")
        except ClientNotAuthorized:  # another reason applies too, or the lock has ended
            return None

    async def _current_caller(self, message: Message) -> ClientIdentity:
        """Return the caller; a connection opened before its tenant was locked remains until `recheck` closes it."""
        try:
            return await self.current()
        except TenantNotOperational:
            caller = await self._locked(message)
            if caller is None:
                raise
            return caller

    def _sent(self, reply: _Reply) -> None:
        data, last, unread, answered, _ = reply
        self.send(data, complete=not unread)
        self._pending -= answered
        if self._unparsed:
            self._parse()
        if self._message_bytes:
            self.hold(self._held())
        if unread:
            self._lingering = True
            self.awaiting(None)
            self.awaiting(_LINGER_SECONDS)
        elif last:
            self.close()

    async def _answer(self, message: Message) -> _Reply:
        correlation_id.set(message.correlation_id)
        last = not message.keep_alive
        answer: bytes | Problem
        try:
            caller = self.caller if self.is_current() else await self._current_caller(message)
            answer = await self._answer_within_limits(message, caller)
            if caller.tenant_state is not State.LOCKED:
                self.require_unbarred()
        except Exception as refused:  # noqa: BLE001 - an unlisted error becomes a reference to the log
            answer = from_error(refused)
            last = last or isinstance(refused, ClientNotAuthorized)
        last = last or self.ends_after_response()
        media_type = JSON if message.endpoint is None else message.endpoint.media_type
        data = _render(answer, message.correlation_id, last=last, head_only=message.head_only, media_type=media_type)
        return _Reply(data, last, message.unread, len(message.body), answer.code if isinstance(answer, Problem) else "")

    async def _answer_within_limits(self, message: Message, caller: ClientIdentity) -> bytes | Problem:
        """Answer within the tenant's limits, which also count rejected requests."""
        limits, tenant_id = self.parts.limits, caller.tenant_id
        cost = 1 + len(message.body) // _BYTES_PER_UNIT
        limits.enter(tenant_id, cost)
        try:
            endpoint = message.endpoint
            if message.refusal is not None or endpoint is None:
                return message.refusal or no_such_path()
            request = None if endpoint.request is None else api.parse(endpoint.request, message.body)
            if endpoint.batch_of is not None and isinstance(request, api.BatchRequest) and len(request.items) > 1:
                # A batch costs its items, whose number is known only now. They run in sequence: one concurrent request.
                limits.charge(tenant_id, len(request.items) - 1, cost)
            answer = await endpoint.act(self._context, caller, request)
            return answer if isinstance(answer, bytes) else orjson.dumps(answer)
        finally:
            limits.leave(tenant_id)


class _TracedConnection(_HttpsConnection):
    """Records a span for each request; a separate class, so that requests cost nothing without tracing."""

    __slots__ = ("_tracer",)

    def __init__(self, tracer: Tracer, *needs: Any) -> None:
        super().__init__(*needs)
        self._tracer = tracer

    async def _answer(self, message: Message) -> _Reply:
        name = "unknown" if message.endpoint is None else message.endpoint.name
        with self._tracer.span(f"https {name}", SERVER, parse(message.traceparent), inherits=False) as span:
            span.attributes["openkcm.tenant_id"] = self.caller.tenant_id
            reply = await super()._answer(message)
            span.error = reply.code
            return reply


def _render(
    answer: bytes | Problem, request_id: str, *, last: bool, head_only: bool = False, media_type: str = JSON
) -> bytes:
    """Return head and body of a response; for HEAD only the head that GET would return."""
    date, name = _clock.line(), request_id.encode("ascii")
    if isinstance(answer, bytes):
        body = answer
        head = _OK[media_type] % (date, name, len(body))
    else:
        body = orjson.dumps(answer.document())
        head = _PROBLEM % (answer.status, answer.status.phrase.encode("ascii"), date, name, len(body))
        if answer.retry_after is not None:
            head += b"\r\nretry-after: %d" % answer.retry_after
        if answer.allow:
            head += b"\r\nallow: " + answer.allow.encode("ascii")
    if last:
        head += _CLOSE
    return head + _END if head_only else head + _END + body


class _Clock:
    """The Date header of responses, formatted once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._line = b""

    def line(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second, self._line = second, formatdate(second, usegmt=True).encode("ascii")
        return self._line


_clock = _Clock()
