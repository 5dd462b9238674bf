"""The HTTPS front: requests in, answers out, in order; what they mean lies in `endpoints`.

Fast because little happens: the parser calls `http_reader`, a request whose key is in memory is driven to its end
without a task, and its answer leaves in one `send` behind headers that were built beforehand.
"""

import asyncio
import time
from email.utils import formatdate
from functools import partial
from typing import ClassVar, NamedTuple

import orjson

from core.correlation import correlation_id
from core.errors.services import ClientNotAuthorized
from core.errors.tenants import TenantNotOperational
from crypto_service.correlation import new_correlation_id
from crypto_service.https import schemas as api
from crypto_service.https.discovery import describe, openapi
from crypto_service.https.heartbeats import BufferedHeartbeats
from crypto_service.https.lookups import DatabaseCertificates, DatabaseProtectedFields
from crypto_service.https.parser import HttpReader, Message, Routes
from crypto_service.https.problems import CONTENT_TYPE, Problem, from_error, no_such_path
from crypto_service.https.routes import CERTIFICATE, CRL, JSON, HandlerContext, routes
from crypto_service.interfaces import ClientIdentity, Dependencies
from crypto_service.server.connection import Connection
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
_PIPELINED_AT_ONCE = 20
"""Requests that came in one piece and are answered before others get a turn: about a millisecond."""
_LINGER_SECONDS = 2.0
"""How long a client that is still sending a refused body may read its answer before the connection is reset."""


class _Reply(NamedTuple):
    data: bytes
    last: bool
    unread: bool


class HttpsServer:
    """Makes one protocol for each connection."""

    def __init__(  # noqa: PLR0913, PLR0917 - what the endpoints work with
        self,
        parts: Dependencies,
        connections: ConnectionRegistry,
        body_limit: int,
        certificates: DatabaseCertificates,
        heartbeats: BufferedHeartbeats,
        protections: DatabaseProtectedFields,
        offer: Offer,
    ) -> None:
        self._parts = parts
        self._connections = connections
        self._body_limit = body_limit
        self._routes = routes()
        discovery = partial(describe, offer, body_limit=body_limit)
        self._desk = HandlerContext(parts.operations, certificates, heartbeats, protections, discovery, openapi())

    def protocol(self) -> asyncio.Protocol:
        """Return the protocol of one connection, for `loop.create_server`."""
        return _HttpsConnection(self._parts, self._connections, self._desk, self._routes, self._body_limit)


class _HttpsConnection(Connection):
    ANSWERS_REFUSAL: ClassVar[bool] = True

    def __init__(
        self,
        parts: Dependencies,
        connections: ConnectionRegistry,
        desk: HandlerContext,
        routes: Routes,
        body_limit: int,
    ) -> None:
        super().__init__(parts, connections)
        self._desk = desk
        self._reader = HttpReader(routes, body_limit)
        self._message_seconds = connections.bounds.message_seconds
        self._lingering = False

    def received(self, data: bytes) -> None:
        if self._lingering:
            return
        reader = self._reader
        for number, message in enumerate(reader.feed(data), 1):
            self.run(self._answer(message), self._sent)
            if not number % _PIPELINED_AT_ONCE:
                self.run(asyncio.sleep(0), _go_on)
        if self._lingering:
            return
        if reader.within:
            self.awaiting(self._message_seconds)
            if reader.expected:
                reader.expected = False
                self.run(_nothing(), lambda _: self.send(_CONTINUE))
        else:
            self.awaiting(None)

    async def refused(self, error: OpenKcmError, received: bytes) -> bytes:
        """Return the refusal; to a locked tenant's service its own certificate, if that was what it asked for."""
        closed = error if isinstance(error, TenantNotOperational) else None
        asked = None if closed is None else next(iter(self._reader.feed(received)), None)
        if closed is None or asked is None:
            return _render(from_error(error), new_correlation_id(), last=True)
        correlation_id.set(asked.correlation_id)
        answer: bytes | Problem
        try:
            answer = await self._admitted(asked, await self._locked(closed, asked))
        except OpenKcmError as refused:
            answer = from_error(refused)
        return _render(answer, asked.correlation_id, last=True, head_only=asked.head_only)

    async def _locked(self, closed: TenantNotOperational, message: Message) -> ClientIdentity:
        """Return who asks for its certificate and is refused for its tenant's lock alone; raises `closed` otherwise.

        The certificate is not secret and decrypts nothing while the tenant is locked. Without it a lock that lasts
        longer than a certificate would leave the service with an expired one, which does not authenticate the next
        request for one.
        """
        if message.endpoint is None or message.endpoint.name != CERTIFICATE:
            raise closed
        try:
            return await self.parts.callers.locked(self.certificate or b"")
        except ClientNotAuthorized:  # it is more than locked, or is no longer
            raise closed from None

    async def _asking(self, message: Message) -> ClientIdentity:
        """Return who asks on a connection that was open before its tenant was locked, until `recheck` closes it."""
        try:
            return await self.current()
        except TenantNotOperational as closed:
            return await self._locked(closed, message)

    def _sent(self, reply: _Reply) -> None:
        self.send(reply.data)
        if reply.unread:
            self._lingering = True
            self.awaiting(None)
            self.awaiting(_LINGER_SECONDS)
        elif reply.last:
            self.close()

    async def _answer(self, message: Message) -> _Reply:
        correlation_id.set(message.correlation_id)
        last = not message.keep_alive
        answer: bytes | Problem
        try:
            answer = await self._admitted(message, await self._asking(message))
        except Exception as refused:  # noqa: BLE001 - what is not listed becomes a reference into the log
            answer = from_error(refused)
            last = last or isinstance(refused, ClientNotAuthorized)
        media_type = JSON if message.endpoint is None else message.endpoint.media_type
        data = _render(answer, message.correlation_id, last=last, head_only=message.head_only, media_type=media_type)
        return _Reply(data, last, message.unread)

    async def _admitted(self, message: Message, caller: ClientIdentity) -> bytes | Problem:
        """Answer within the tenant's limits, which what is refused costs too."""
        limits, tenant_id = self.parts.limits, caller.tenant_id
        limits.enter(tenant_id)
        holds = True
        try:
            endpoint = message.endpoint
            if message.refusal is not None or endpoint is None:
                return message.refusal or no_such_path()
            request = None if endpoint.request is None else api.parse(endpoint.request, message.body)
            if endpoint.batch_of is not None and isinstance(request, api.BatchRequest) and len(request.items) > 1:
                # A batch costs its items, which are known only now. They are done one after the other: one place.
                limits.leave(tenant_id)
                holds = False
                limits.enter(tenant_id, len(request.items) - 1)
                holds = True
            answer = await endpoint.act(self._desk, caller, request)
            return answer if isinstance(answer, bytes) else orjson.dumps(answer)
        finally:
            if holds:
                limits.leave(tenant_id)


def _go_on(_: None) -> None:
    """Nothing is to be done after a pause."""


async def _nothing() -> None:
    """Stand in the queue, so that what is sent after it keeps its place."""


def _render(
    answer: bytes | Problem, request_id: str, *, last: bool, head_only: bool = False, media_type: str = JSON
) -> bytes:
    """Return head and body of an answer; to a HEAD the head that GET would have had."""
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
    """The Date of answers, made once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._line = b""

    def line(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second, self._line = second, formatdate(second, usegmt=True).encode("ascii")
        return self._line


_clock = _Clock()
