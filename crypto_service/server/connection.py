"""What both fronts share: a connection that knows its caller, and the set of all that are open.

Both have time limits and bounds, because whoever can reach the port may open one. What a front builds on is
`Connection`: it overrides `received`, and may override `refused`.
"""

import asyncio
import socket
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
from crypto_service.server.connection_registry import ConnectionRegistry
from crypto_service.server.eager import Completed, start_eagerly
from openkcm.errors import OpenKcmError

Result = TypeVar("Result")
Step = tuple[Coroutine[Any, Any, Any], Callable[[Any], None], Context]

_EARLY_BYTES = 65_536
"""What may come before the caller is known; then reading pauses and TCP holds the rest back."""

log = structlog.get_logger()


class Connection(asyncio.Protocol):
    """One client's connection, from the end of its TLS handshake.

    Everything runs on the loop. `work` given to `run` is done one at a time, in order; while something has to wait,
    nothing more is read.
    """

    ANSWERS_REFUSAL: ClassVar[bool] = False
    """Whether `refused` sends something; the connection then waits for the client to speak before it is closed."""

    caller: ClientIdentity
    """Who it is: set, and `identified` true, before `received` is first called."""

    def __init__(self, parts: Dependencies, connections: ConnectionRegistry) -> None:
        self.parts = parts
        self.connections = connections
        self.identified = False
        self.tenant_mark = ""
        self.closing = False
        self.deadline = 0.0
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)  # set by the loop before anything else
        self._loop = connections.loop
        self._early = bytearray()
        self._refusal: OpenKcmError | None = None
        self._running = False
        self._queue: deque[Step] = deque()
        self._reading, self._writable, self._drained_by = True, True, 0.0
        self._patience = 0.0

    def received(self, data: bytes) -> None:
        """Take what the client sent; never called before `caller` is known, nor after `close`."""
        raise NotImplementedError

    async def refused(self, error: OpenKcmError, received: bytes) -> bytes:  # noqa: ARG002 - for whoever answers
        """Return what a client that will not be served is told; `received` is what it sent first."""
        return b""

    def send(self, data: bytes) -> None:
        """Send, unless the connection is closed already."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def awaiting(self, seconds: float | None) -> None:
        """Give the client `seconds` for the rest of a message, or with None until the idle limit to begin one.

        Saying the same again moves nothing, so a client cannot buy time byte by byte; None ends a message.
        """
        if seconds is None:
            self._patience, self.deadline = 0.0, self._loop.time() + self.connections.bounds.idle_seconds
        elif not self._patience:
            self._patience, self.deadline = seconds, self._loop.time() + seconds

    def run(self, work: Coroutine[Any, Any, Result], then: Callable[[Result], None]) -> None:
        """Do `work` and hand its result to `then`: at once if nothing is before it, and in order.

        `work` answers for the errors it knows; any that leaves it, or `then`, closes the connection.
        """
        if self.closing:
            work.close()
            return
        # Its context is its own from here to its end, in a task or not: what it sets disturbs no other request, and
        # what it undoes it undoes where it was set.
        context = copy_context()
        if self._running or self._queue or not self._writable:
            self._queue.append((work, then, context))
        else:
            self._do(work, then, context)
            self._proceed()

    async def current(self) -> ClientIdentity:
        """Return the caller as it is now; raises ClientNotAuthorized, TenantNotOperational, DatabaseUnavailable."""
        self.caller = caller = await self.parts.callers.refresh(self.caller)
        return caller

    def close(self) -> None:
        """End the connection after what was sent has gone out; work that has not begun is dropped."""
        if not self.closing:
            self.closing = True
            self.deadline = self._loop.time() + self.connections.bounds.close_seconds
            for work, _, _ in self._queue:
                work.close()
            self._queue.clear()
            self._transport.close()

    @property
    def certificate(self) -> bytes | None:
        """The client's certificate in DER, whose chain TLS has verified."""
        tls = self._transport.get_extra_info("ssl_object")
        return tls.getpeercert(binary_form=True) if tls else None

    @property
    def busy(self) -> bool:
        """Whether the service owes this client an answer; while it does, no deadline of the client's runs."""
        return self._running or bool(self._queue)

    def overdue(self, now: float) -> bool:
        """Whether the client has used up its time."""
        if not self._writable and now > self._drained_by:
            return True
        return now > self.deadline and (self.closing or not self.busy or not self.identified)

    def abort(self) -> None:
        """End the connection at once."""
        self.close()
        self._transport.abort()

    def retire(self) -> None:
        """Close now, or as soon as what the client was promised has been answered."""
        if self.busy:
            self.run(_nothing(), lambda _: self.close())
        else:
            self.close()

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.deadline = self._loop.time() + self.connections.bounds.identify_seconds
        certificate = self.certificate
        if not self.connections.enter(self) or certificate is None:
            self.abort()
            return
        # A client whose socket has Nagle's algorithm sends its request only when the end of its handshake is
        # acknowledged, and the kernel would put that off by 40 ms, because in TLS 1.3 we have nothing to say to it.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        peer = transport.get_extra_info("peername")
        address = str(peer[0]) if isinstance(peer, tuple) else ""
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
            self._flow()

    def pause_writing(self) -> None:
        self._writable = False
        self._drained_by = self._loop.time() + self.connections.bounds.message_seconds
        self._flow()

    def resume_writing(self) -> None:
        self._writable = True
        self._rearm()
        self._proceed()

    def connection_lost(self, _exc: Exception | None) -> None:
        self.closing = True
        for work, _, _ in self._queue:
            work.close()
        self._queue.clear()
        self.connections.leave(self)

    # Who is calling.

    async def _identify(self, certificate: bytes, address: str) -> ClientIdentity | OpenKcmError:
        try:
            return await self.parts.callers.identify(certificate, address)
        except OpenKcmError as refused:
            return refused

    def _identified(self, found: ClientIdentity | OpenKcmError) -> None:
        if self.closing:
            return
        if isinstance(found, ClientIdentity):
            self.caller = found
            if self.connections.join(self):
                self.identified = True
                self.awaiting(None)
                early, self._early = bytes(self._early), bytearray()
                if early:
                    self._receive(early)
                return
            found = TooManyRequests("the tenant has more connections open than it may")
        self._refusal = found
        if self._early or not self.ANSWERS_REFUSAL:
            self._refuse()

    def _refuse(self) -> None:
        """Answer once, to what has come by now, and close."""
        assert self._refusal is not None  # noqa: S101 - both callers have just looked
        refusal, self._refusal = self._refusal, None
        self.connections.refused += 1
        self.run(self.refused(refusal, bytes(self._early)), self._told)

    def _told(self, answer: bytes) -> None:
        self.send(answer)
        self.close()

    def recheck(self, outcome: ClientNotAuthorized | TenantNotOperational | ClientIdentity) -> None:
        """Take what the caller has become: refused means the end of this connection."""
        if isinstance(outcome, ClientIdentity):
            self.caller = replace(outcome, address=self.caller.address)  # it may have been asked for another's
        else:
            self.connections.refused += 1
            self.close()

    # Work, in order.

    def _receive(self, data: bytes) -> None:
        try:
            self.received(data)
        except Exception as unforeseen:  # noqa: BLE001 - it is logged; the loop must live
            self._fail(unforeseen)
        if self._writable and not self._patience and not self.closing:
            self.awaiting(None)

    def _proceed(self) -> None:
        """Do what waits in the queue. A loop and never a recursion: a client may send a thousand requests at once."""
        while self._queue and self._writable and not self._running:
            self._do(*self._queue.popleft())
        self._flow()

    def _do(self, work: Coroutine[Any, Any, Any], then: Callable[[Any], None], context: Context) -> None:
        self._running = True  # also while `then` runs: what it adds comes after everything that waits already
        try:
            begun = context.run(start_eagerly, work)
            if not isinstance(begun, Completed):
                self._go_on(begun, then, context)
                return
            then(begun.value)
        except Exception as unforeseen:  # noqa: BLE001 - it is logged; the loop must live
            self._fail(unforeseen)
        self._running = False

    def _go_on(self, work: Coroutine[Any, Any, Any], then: Callable[[Any], None], context: Context) -> None:
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
        except Exception as unforeseen:  # noqa: BLE001 - it is logged; the loop must live
            self._fail(unforeseen)
        self._running = False
        self._rearm()
        self._proceed()

    def _rearm(self) -> None:
        """Let the client's time run again from now, after it had to wait for us."""
        if not self.closing:
            patience, self._patience = self._patience, 0.0
            self.awaiting(patience or None)

    def _flow(self) -> None:
        """Read only while there is room: nothing waits, the client takes its answers, and we know who it is."""
        early = not self.identified and len(self._early) < _EARLY_BYTES
        wanted = self._writable and (early or not self.busy)
        if wanted is not self._reading and not self._transport.is_closing():
            self._reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _fail(self, error: Exception) -> None:
        if isinstance(error, OpenKcmError):
            log.warning("request not answered", code=error.code, front=type(self).__name__)
        else:
            log.error("connection failed", reference=uuid.uuid4().hex, front=type(self).__name__, exc_info=error)
        self.close()


async def _nothing() -> None:
    """Stand in the queue."""
