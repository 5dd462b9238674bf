"""The KMIP server: requests in, responses out, in order, on each connection."""

from core.errors.requests import TooManyRequests
from core.errors.services import ClientNotAuthorized
from core.tracing.spans import Tracer
from crypto_service.interfaces import Dependencies
from crypto_service.kmip.codec import framing, ttlv
from crypto_service.kmip.codec.enums import ResultReason
from crypto_service.kmip.codec.errors import reason_and_message
from crypto_service.kmip.dispatch import Dispatcher, Request, TracedDispatcher
from crypto_service.kmip.objects.store import ObjectStore
from crypto_service.server.connection import Connection, hold_position
from crypto_service.server.connection_registry import ConnectionRegistry
from openkcm.errors import OpenKcmError

_LARGE = 8_192
"""Bytes of a message that is decoded in steps, because that may take some milliseconds, and is not kept."""


class KmipServer:
    """`body_limit` is the maximum size of a message in bytes."""

    def __init__(
        self,
        parts: Dependencies,
        connections: ConnectionRegistry,
        objects: ObjectStore,
        body_limit: int,
        tracer: Tracer | None = None,
    ) -> None:
        self._parts = parts
        self._connections = connections
        self._dispatcher = Dispatcher(parts, objects) if tracer is None else TracedDispatcher(tracer, parts, objects)
        self._limit = body_limit

    def protocol(self) -> Connection:
        """Return the protocol of a new connection; for a `TlsListener`."""
        return KmipConnection(self._parts, self._connections, self._dispatcher, self._limit)


class KmipConnection(Connection):
    """A connection of a KMIP client. It survives a lock, because Ceph's gateway does not replace a closed one."""

    __slots__ = (
        "_answering",
        "_dispatcher",
        "_in_progress",
        "_last_request",
        "_limit",
        "_unread",
    )

    ANSWERS_REFUSAL = True
    SURVIVES_LOCK = True

    def __init__(
        self, parts: Dependencies, connections: ConnectionRegistry, dispatcher: Dispatcher, limit: int
    ) -> None:
        super().__init__(parts, connections)
        self._dispatcher = dispatcher
        self._limit = limit
        self._unread = bytearray()
        self._answering = False
        self._in_progress = 0
        self._last_request: tuple[bytes, Request] | None = None

    def received(self, data: bytes) -> None:
        if not self._unread and not self._answering and framing.is_whole(data, self._limit) and self.hold(len(data)):
            self._begin(data)  # nearly always: without a copy
            return
        self._unread += data
        if self.hold(len(self._unread) + self._in_progress):
            self._process_next()
        else:
            self._refuse_message()

    async def refused(self, error: OpenKcmError, received: bytes) -> bytes:
        return framing.refuse(received, framing.ErrorReply(*reason_and_message(error)))

    def _process_next(self) -> None:
        """Process the next complete message; one at a time, so that the rest stays undecoded and bounded."""
        if self._answering or self.closing or not self._unread:
            return
        try:
            size = framing.size_of(self._unread, self._limit)
        except framing.InvalidFrame:
            self.close()
            return
        if size is not None and size <= len(self._unread):
            with memoryview(self._unread) as unread:
                message = bytes(unread[:size])  # one copy, of up to a megabyte
            del self._unread[:size]
            self._begin(message)
        else:
            self.awaiting(self.connections.bounds.message_seconds)

    def _begin(self, message: bytes) -> None:
        self._answering, self._in_progress = True, len(message)
        if self._granted_seconds:
            self.awaiting(None)
        self.run(self._answer(message), self._answered)

    def _refuse_message(self) -> None:
        """Reject the message that is being received, after the responses to earlier ones."""
        refusal = TooManyRequests("the tenant's connections hold too many bytes of messages")
        answer = framing.refuse(bytes(self._unread), framing.ErrorReply(*reason_and_message(refusal)))
        self._unread.clear()
        self.run(hold_position(), lambda _: self._send_last(answer))

    def _send_last(self, answer: bytes) -> None:
        self.send(answer)
        self.close()

    async def _read(self, message: bytes) -> Request:
        if len(message) > _LARGE:
            turns, tenant_id = self.parts.turns, self.caller.tenant_id
            decoded = await turns.complete(tenant_id, ttlv.decode_in_steps(message))
            await turns.pause(tenant_id)
            return Request(decoded, len(message))
        request = Request(ttlv.decode(message), len(message))
        self._last_request = (message, request) if framing.asks_only(request.message) else None
        return request

    async def _answer(self, message: bytes) -> tuple[bytes, bool]:
        """Return the response, and whether the connection continues."""
        try:
            last = self._last_request  # clients request the same key repeatedly
            request = last[1] if last is not None and last[0] == message else await self._read(message)
            caller = self.caller if self.is_current() else await self.current()
            response = await self._dispatcher.answer(caller, request, caller.address)
            self.require_unbarred()
        except ttlv.TtlvError as refused:
            return framing.refuse(message, framing.ErrorReply(ResultReason.INVALID_MESSAGE, str(refused))), False
        except OpenKcmError as refused:
            answer = framing.refuse(message, framing.ErrorReply(*reason_and_message(refused)))
            return answer, not isinstance(refused, ClientNotAuthorized)
        return ttlv.encode(response), not self.ends_after_response()

    def _answered(self, answer: tuple[bytes, bool]) -> None:
        data, continues = answer
        self._answering, self._in_progress = False, 0
        self.hold(len(self._unread))
        if data:
            self.send(data)
        if not data or not continues:
            self.close()
        elif self._unread:
            self._process_next()
