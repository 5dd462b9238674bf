"""A connection with an identified caller, shared by both servers.

Time limits and sizes are bounded, because any client that reaches the port may open a connection. A server derives
from `Connection`: it overrides `received`, and may override `refused`.
"""

import asyncio
import fcntl
import socket
import sys
import termios
import time
import uuid
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from dataclasses import replace
from typing import Any, ClassVar, TypeVar, cast

import structlog

from core.errors.requests import TooManyRequests
from core.errors.services import ClientNotAuthorized
from core.errors.tenants import TenantNotOperational
from crypto_service.interfaces import ClientIdentity, Dependencies
from crypto_service.server.connection_registry import SMALL_BYTES, ConnectionRegistry
from crypto_service.server.eager import start_eagerly
from crypto_service.server.turns import UNIDENTIFIED
from openkcm.errors import OpenKcmError

Result = TypeVar("Result")
Step = tuple[Coroutine[Any, Any, Any], Callable[[Any], None], Context]

_PIECE_BYTES = 65_536
"""Bytes that are sent at once: TLS accepts a whole response at any time, so the rest must wait for the client here."""
_TRANSPORT_BYTES = 131_072
"""Bytes that the socket's transport may hold when TLS keeps what follows: its limit of 64 KiB, and one piece."""
_TLS_BYTES = 16_384
"""Bytes that TLS may hold: more than the last messages of a TLS 1.2 handshake, which it still has when a connection
begins, and whose end it would not report."""
_NOTHING = memoryview(b"")
_ESTABLISHED_SECONDS = 1.0
"""Age from which a connection counts as established: it does not belong to a client that connects for each request."""
_EARLY_BYTES = 65_536
"""Bytes accepted before the caller is identified; then reading pauses, and TCP flow control stops the client."""

log = structlog.get_logger()


class Connection(asyncio.Protocol):
    """One client's connection, from the end of its TLS handshake.

    Everything runs on the loop. `work` passed to `run` is done one at a time, in order; while work waits, the
    connection reads nothing more.
    """

    # Slots, because Python finds attributes slowly in an object with more than thirty of them.
    __slots__ = (
        "_barred",
        "_drained_by",
        "_early",
        "_end_by",
        "_established_at",
        "_granted_seconds",
        "_has_responded",
        "_idle_seconds",
        "_loop",
        "_message_bytes",
        "_queue",
        "_reading",
        "_refusal",
        "_room",
        "_running",
        "_tenant_id",
        "_transport",
        "_turns",
        "_unread_bytes",
        "_unsent",
        "_waits",
        "caller",
        "client_address",
        "closing",
        "connections",
        "deadline",
        "held",
        "identified",
        "parts",
        "tenant_mark",
    )

    ANSWERS_REFUSAL: ClassVar[bool] = False
    """Whether `refused` sends a response; the connection then waits for data from the client before it closes."""

    SURVIVES_LOCK: ClassVar[bool] = False
    """Whether the connection answers errors while its tenant is locked, instead of ending after pending responses."""

    caller: ClientIdentity
    """The client; set, and `identified` true, before `received` is first called."""

    def __init__(self, parts: Dependencies, connections: ConnectionRegistry) -> None:
        self.parts = parts
        self.connections = connections
        self.identified = False
        self.tenant_mark = ""
        self.held = 0
        self.closing = False
        self.deadline = 0.0
        self.client_address = ""
        """The address of the client when a load balancer reported it, otherwise empty."""
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)  # set by the loop before anything else
        self._loop = connections.loop
        self._idle_seconds = connections.bounds.idle_seconds
        self._turns, self._tenant_id = parts.turns, UNIDENTIFIED
        self._early = bytearray()
        self._refusal: OpenKcmError | None = None
        self._barred: TenantNotOperational | None = None
        self._running = self._waits = self._has_responded = False
        self._queue: deque[Step] = deque()
        self._reading = True
        self._drained_by = self._end_by = 0.0
        self._room, self._unsent = _PIECE_BYTES, _NOTHING
        """The bytes that `send` may pass on at once, 0 while the client does not read; and those that wait for it."""
        self._message_bytes = self._unread_bytes = 0
        self._granted_seconds = self._established_at = 0.0

    def received(self, data: bytes) -> None:
        """Process data from the client; never called before `caller` is set, nor after `close`."""
        raise NotImplementedError

    async def refused(self, error: OpenKcmError, received: bytes) -> bytes:  # noqa: ARG002 - for subclasses
        """Return the response to a rejected client; `received` is what it has sent so far."""
        return b""

    def send(self, data: bytes, *, complete: bool = True) -> None:
        """Send, unless the connection is already closed; `complete` for the response to a complete request."""
        if complete and not self._has_responded and self.identified:
            self._has_responded = True
            self.connections.first_answers += 1
        if not self._transport.is_closing():
            if len(data) <= self._room:
                self._transport.write(data)
            else:
                self._send_in_pieces(data)

    def awaiting(self, seconds: float | None) -> None:
        """Set the deadline: `seconds` for the rest of a message, or with None the idle limit until the next begins.

        A repeated call does not extend the deadline, so a client cannot gain time byte by byte; None ends a message.
        """
        if seconds is None:
            self._granted_seconds, self.deadline = 0.0, self._loop.time() + self._idle_seconds
        elif not self._granted_seconds:
            self._granted_seconds, self.deadline = seconds, self._loop.time() + seconds

    def run(self, work: Coroutine[Any, Any, Result], then: Callable[[Result], None]) -> None:
        """Do `work` and pass its result to `then`: immediately if the queue is empty, otherwise in order.

        `work` must handle the errors it expects; any error that leaves it, or `then`, closes the connection.
        """
        if self.closing:
            work.close()
            return
        # One context from start to end, with or without a task: variables that it sets do not affect other requests,
        # and it resets them in the context in which it set them.
        context = copy_context()
        if self._running or self._queue or not self._room or not self._turns.has_time(self._tenant_id):
            self._queue.append((work, then, context))
        else:
            self._start(work, then, context)
        if not self._running and (self._queue or not self._reading):
            self._run_queue()

    def hold(self, size: int) -> bool:
        """Hold `size` bytes of messages from now on, beside the responses that the client does not read.

        Return False when the tenant has no room; then the message must be rejected.
        """
        self._message_bytes = size
        size += self._unread_bytes
        return (size <= SMALL_BYTES and not self.held) or self.connections.hold(self, size)

    async def current(self) -> ClientIdentity:
        """Return the caller as it is now.

        Raises: ClientNotAuthorized, TenantNotOperational, DatabaseUnavailable, AuditUnavailable; TooManyRequests for
        the requests of a locked tenant above its rate, because each rejection is recorded.
        """
        if self._barred is not None:
            self.parts.limits.enter(self.caller.tenant_id)
            self.parts.limits.leave(self.caller.tenant_id)
        self.caller = caller = await self.parts.callers.refresh(self.caller)
        self._barred = None
        return caller

    def is_current(self) -> bool:
        """Whether `current` would return the caller as it is, without I/O."""
        return self._barred is None and self.parts.callers.is_current(self.caller)

    def require_unbarred(self) -> None:
        """Raise TenantNotOperational if the tenant was locked since `current`: a pending result is not sent."""
        if self._barred is not None:
            raise self._barred.with_traceback(None)

    def close(self) -> None:
        """Close the connection after sent data is flushed; queued work that has not begun is dropped."""
        if not self.closing:
            self.closing = True
            now, bounds = self._loop.time(), self.connections.bounds
            self._end_by = now + bounds.close_seconds
            if self._room:  # otherwise the time for the response has begun
                self._drained_by = now + bounds.message_seconds
            for work, _, _ in self._queue:
                work.close()
            self._queue.clear()
            if self._unsent:
                self._transport.write(self._unsent)
            self._transport.close()

    @property
    def certificate(self) -> bytes | None:
        """The client's certificate in DER; TLS has verified its chain."""
        tls = self._transport.get_extra_info("ssl_object")
        return tls.getpeercert(binary_form=True) if tls else None

    def busy(self) -> bool:
        """Whether a response is pending; until it is sent, no deadline of the client runs."""
        return self._running or bool(self._queue)

    def answers_next(self) -> bool:
        """Whether work that is passed to `run` now would be the next that is done."""
        return not self._queue

    def end_if_overdue(self, now: float) -> None:
        """End the connection if the client has exceeded its deadline."""
        if now > self._drained_by and (self.closing or not self._room):
            self.abort()
        elif self.closing:
            if self._is_sending():
                self._end_by = now + self.connections.bounds.close_seconds
            elif now > self._end_by:
                self.abort()
        elif now > self.deadline and not (self.busy() and self.identified):
            self.close()

    def abort(self) -> None:
        """Close the connection immediately."""
        self._unsent = _NOTHING
        self.close()
        self._transport.abort()

    def ends_after_response(self) -> bool:
        """Whether the client should use another connection, which may reach another instance."""
        return self.connections.is_ending or self.parts.journal.is_failing

    def retire(self) -> None:
        """Close now, or as soon as pending responses are sent."""
        if self.busy():
            self.run(hold_position(), lambda _: self.close())
        else:
            self.close()

    # Called by the loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(_TLS_BYTES)
        now = self._loop.time()
        self._established_at, self.deadline = now + _ESTABLISHED_SECONDS, now + self.connections.bounds.identify_seconds
        certificate = self.certificate
        if not self.connections.enter(self) or certificate is None:
            self.abort()
            return
        # A client whose socket uses Nagle's algorithm sends its request only after the end of its handshake is
        # acknowledged. The kernel would delay that by 40 ms, because in TLS 1.3 the server sends nothing at this point.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        peer = transport.get_extra_info("peername")
        address = self.client_address or (str(peer[0]) if isinstance(peer, tuple) else "")
        self.run(self._identify(certificate, address), self._identified)

    def data_received(self, data: bytes) -> None:
        if self.closing:
            return
        if self.identified:
            self._receive(data)
            return
        self._early += data
        if self._refusal is not None:
            self._refuse()
        elif len(self._early) >= _EARLY_BYTES:
            self._update_reading()

    def eof_received(self) -> None:
        # After this call TLS sends only what it has, also if the client only sends nothing more (RFC 8446, 6.1).
        self.close()

    def pause_writing(self) -> None:
        if not self._unread_bytes:
            self._drained_by = self._loop.time() + self.connections.bounds.message_seconds
        self._room = 0
        self._hold_unread()
        self._update_reading()

    def resume_writing(self) -> None:
        self._room = _PIECE_BYTES
        self._write_unsent()
        if self._room:
            self._unread_bytes = 0
            self.hold(self._message_bytes)
            self._restart_deadline()
            self._run_queue()

    def connection_lost(self, _exc: Exception | None) -> None:
        self.closing = True
        for work, _, _ in self._queue:
            work.close()
        self._queue.clear()
        self.connections.leave(self)

    # Identification of the caller.

    async def _identify(self, certificate: bytes, address: str) -> ClientIdentity | OpenKcmError:
        try:
            return await self.parts.callers.identify(certificate, address)
        except OpenKcmError as refused:
            return refused

    def _identified(self, found: ClientIdentity | OpenKcmError) -> None:
        if self.closing:
            return
        if isinstance(found, ClientIdentity):
            self.caller, self._tenant_id = found, found.tenant_id
            if self.connections.join(self):
                self.identified = True
                self.awaiting(None)
                early, self._early = bytes(self._early), bytearray()
                if early:
                    self._receive(early)
                return
            found = TooManyRequests("the tenant has reached its limit of open connections")
        self._refusal = found
        if self._early or not self.ANSWERS_REFUSAL:
            self._refuse()

    def _refuse(self) -> None:
        """Respond once, to the data received so far, and close."""
        assert self._refusal is not None  # noqa: S101 - both callers have just checked
        refusal, self._refusal = self._refusal, None
        self.connections.refused += 1
        self.run(self.refused(refusal, bytes(self._early)), self._send_refusal)

    def _send_refusal(self, answer: bytes) -> None:
        self.send(answer)
        self.close()

    def recheck(self, outcome: ClientNotAuthorized | TenantNotOperational | ClientIdentity) -> None:
        """Apply the new state of the caller: a rejection closes this connection, unless it survives a lock."""
        if isinstance(outcome, ClientIdentity):
            self.caller = replace(outcome, address=self.caller.address)  # the result may be from another connection
            return
        self.connections.refused += 1
        if isinstance(outcome, ClientNotAuthorized):
            self.close()
            return
        self._barred = outcome
        if not self.SURVIVES_LOCK:
            self.retire()

    # Responses that the client does not read immediately.

    def _send_in_pieces(self, data: bytes) -> None:
        self._unsent = memoryview(bytes(self._unsent) + data if self._unsent else data)
        self._write_unsent()
        if self._unread_bytes:
            self._hold_unread()

    def _write_unsent(self) -> None:
        """Pass on what waits, until the client reads no more."""
        while self._room and self._unsent and not self._transport.is_closing():
            piece = self._unsent[:_PIECE_BYTES]
            self._unsent = self._unsent[_PIECE_BYTES:] or _NOTHING  # an empty view keeps what it was made of
            self._transport.write(piece)

    def _hold_unread(self) -> None:
        """Count what the client has not read: a client that does not read must not fill the memory."""
        unsent = memoryview(self._unsent.obj).nbytes
        self._unread_bytes = unsent + self._transport.get_write_buffer_size() + _TRANSPORT_BYTES
        if not self.hold(self._message_bytes):
            self.abort()

    def _is_sending(self) -> bool:
        """Return whether the client has not acknowledged all that was sent; the transport sends when the system can."""
        connected = self._transport.get_extra_info("socket")
        if connected is None or connected.fileno() < 0:
            return False
        waiting = fcntl.ioctl(connected.fileno(), termios.TIOCOUTQ, bytes(4))
        return int.from_bytes(waiting, sys.byteorder) > 0

    # Work, in order.

    def _receive(self, data: bytes) -> None:
        now = self._loop.time()
        if now >= self._established_at:
            self.connections.used_at = now
        try:
            self.received(data)
        except Exception as unexpected:  # noqa: BLE001 - logged; the loop must continue
            self._fail(unexpected)
        if self._room and not self._granted_seconds and not self.closing:
            self.deadline = now + self._idle_seconds
        if len(data) > SMALL_BYTES and not self.closing:
            self._turns.receive(self._tenant_id, len(data))
            if not self._waits and not self._turns.has_time(self._tenant_id):
                self._wait_turn()
                self._update_reading()

    def _run_queue(self) -> None:
        """Do the queued work. A loop, not a recursion: a client may send a thousand requests at once."""
        while self._queue and self._room and not self._running and not self._waits:
            if self._turns.has_time(self._tenant_id):
                self._start(*self._queue.popleft())
            else:
                self._wait_turn()
        self._update_reading()

    def _wait_turn(self) -> None:
        """Do nothing, and read nothing, until the tenant's next turn."""
        self._waits = True
        self._turns.call_next(self._tenant_id, self._take_turn)

    def _take_turn(self) -> None:
        self._waits = False
        if not self.closing:
            # At least one piece of work, so that each turn of a connection makes progress.
            if self._queue and self._room and not self._running:
                self._start(*self._queue.popleft())
            else:
                self._turns.use_up(self._tenant_id)  # it reads, in the next iteration
            self._run_queue()

    def _start(self, work: Coroutine[Any, Any, Any], then: Callable[[Any], None], context: Context) -> None:
        self._running = True  # also while `then` runs: work that it adds follows all queued work
        began = time.perf_counter()
        try:
            result, rest = context.run(start_eagerly, work)
            if rest is not None:
                self._start_task(rest, then, context)
                return
            then(result)
        except Exception as unexpected:  # noqa: BLE001 - logged; the loop must continue
            self._fail(unexpected)
        finally:
            self._turns.use(self._tenant_id, time.perf_counter() - began)
        self._running = False

    def _start_task(self, work: Coroutine[Any, Any, Any], then: Callable[[Any], None], context: Context) -> None:
        task = self._loop.create_task(work, context=context)
        self.connections.tasks.add(task)
        task.add_done_callback(lambda done: self._done(done, then))

    def _done(self, task: "asyncio.Task[Any]", then: Callable[[Any], None]) -> None:
        self.connections.tasks.discard(task)
        if task.cancelled():
            self.abort()
            return
        try:
            then(task.result())
        except Exception as unexpected:  # noqa: BLE001 - logged; the loop must continue
            self._fail(unexpected)
        self._running = False
        self._restart_deadline()
        self._run_queue()

    def _restart_deadline(self) -> None:
        """Restart the client's deadline now, after the client had to wait for the service."""
        if not self.closing:
            granted, self._granted_seconds = self._granted_seconds, 0.0
            self.awaiting(granted or None)

    def _update_reading(self) -> None:
        """Read only while nothing is queued, the client reads its responses, and early data of a new client fits."""
        early = not self.identified and len(self._early) < _EARLY_BYTES
        wanted = self._room > 0 and not self._waits and (early or not self.busy())
        if wanted is not self._reading and not self._transport.is_closing():
            self._reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _fail(self, error: Exception) -> None:
        if isinstance(error, OpenKcmError):
            log.warning("request not answered", code=error.code, server=type(self).__name__)
        else:
            log.error("connection failed", reference=uuid.uuid4().hex, server=type(self).__name__, exc_info=error)
        self.close()


async def hold_position() -> None:
    """Hold a position in the queue, so that responses keep their order."""
