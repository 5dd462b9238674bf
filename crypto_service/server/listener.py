"""Accepting of connections: bounds what the event loop does not bound, connections before the end of their handshake.

Each occupies a descriptor and memory, and no caller is authenticated yet. Above the limit the oldest handshake of the
address with the most handshakes is ended, so that clients that send nothing give way to those that do. Handshakes have
only a share of the loop's time, so that they do not delay requests much. They have more while clients send requests
only on new connections: such a client makes a handshake for each request. A client whose handshake fails receives TLS's
alert, and the log has the reason.
"""

import asyncio
import socket
import ssl
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Self

import structlog

from crypto_service.server.connection_registry import ConnectionRegistry
from crypto_service.server.proxy_protocol import (
    Networks,
    ProxyHeaderMissing,
    ProxyHeaderUnexpected,
    begins_with_header,
    is_within,
    read_client_address,
)

if TYPE_CHECKING:
    from crypto_service.server.connection import Connection

_BACKLOG = 1024
_RECEIVED_BYTES = 65_536
"""What the system receives for a connection before the service reads it: the loop decrypts all of it at once."""
_ACCEPT_SECONDS = 0.0002
"""What a connection takes beside its handshake: to accept it, and to end it."""
_SHARE, _BURST_SECONDS = 0.08, 0.001
"""The share of the time that the handshakes of one port may take, and what they may take at once."""
_IN_USE_SECONDS = 0.1
"""How long after a request on an established connection only the share is granted."""
_WAIT_SECONDS = 0.001
_HEADER_BYTES, _RECORD_BYTES = 5, 5 + 16_384 + 256
"""The header of a TLS record, and the largest record (RFC 8446, sections 5.1 and 5.2)."""
_EMPTY_RECORDS = 32
"""Records without data that a client may send before the data that they are for: as OpenSSL limits other kinds."""
_LOGGED_PER_SECOND = 10
_MISMATCH_SECONDS = 60.0
"""The time between two warnings that a load balancer and this service do not agree about the PROXY protocol."""
_MISMATCHES = {
    ProxyHeaderMissing: "connections from a network of crypto_proxy_networks have no PROXY header: let the load "
    "balancer send version 2, or remove its network from the setting",
    ProxyHeaderUnexpected: "connections begin with a PROXY header, and their address is not in crypto_proxy_networks: "
    "add the network of the load balancer to the setting, or let it send no header",
}
_PAUSE_SECONDS = 0.1
"""Pause after the system had no descriptor or memory for a connection."""

_handshake: "ContextVar[tuple[socket.socket, _Budget]]" = ContextVar("handshake")

log = structlog.get_logger()


class _Budget:
    """The time that may still be used for handshakes now; negative when they have taken more than their share."""

    def __init__(self) -> None:
        self._seconds, self._at = _BURST_SECONDS, time.monotonic()

    def is_left(self) -> bool:
        now = time.monotonic()
        self._seconds = min(_BURST_SECONDS, self._seconds + (now - self._at) * _SHARE)
        self._at = now
        return self._seconds > 0

    def spend(self, seconds: float) -> None:
        self._seconds -= seconds

    def refill(self) -> None:
        self._seconds = _BURST_SECONDS


class _BoundedTls(ssl.SSLObject):
    """Sends the alert of a failed handshake, and ends a connection that makes TLS work without sending data.

    The event loop drops the alert (RFC 8446, section 6.2) with the connection. A handshake raises ProxyHeaderUnexpected
    instead of the error of TLS where that is the reason.

    For each KeyUpdate (RFC 8446, section 4.6.3) TLS derives keys, and it processes all that it has in one call, so a
    client that sends only these would take the time of all tenants. Here TLS gets one record at a time, and those
    without data are counted.
    """

    _sslobj: Any
    _incoming: ssl.MemoryBIO
    _outgoing: ssl.MemoryBIO
    _first: bytes
    _received: bytes
    """What the client has sent and TLS does not have yet, from `_begin` on."""
    _begin: int
    _empty_records: int
    """Records without data, less one for each with data."""

    @classmethod
    def _create(cls, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *arguments: Any, **options: Any) -> Self:
        made: Self = super()._create(incoming, outgoing, *arguments, **options)  # type: ignore[misc]  # typeshed omits it
        made._incoming, made._outgoing, made._first = incoming, outgoing, b""
        made._received, made._begin, made._empty_records = b"", 0, 0
        return made

    def read(self, size: int = 1024, buffer: Any = None) -> Any:
        """Return the data of the next record; `size` MUST be at least that of a record.

        Without a buffer, TLS is asked for the record's size: it first allocates what it is asked for, and the event
        loop asks for 256 KiB.

        Raises:
            ssl.SSLWantReadError: the next record is not complete.
            ssl.SSLError: TLS rejects the record, or the client has sent too many records without data.
        """
        if received := self._incoming.read():
            self._received, self._begin = self._received[self._begin :] + received, 0
        while (end := _end_of_record(self._received, self._begin)) is not None:
            record = end - self._begin
            self._incoming.write(self._received[self._begin : end])
            self._begin = end
            if end == len(self._received):
                self._received, self._begin = b"", 0
            try:
                data = self._sslobj.read(record) if buffer is None else self._sslobj.read(size, buffer)
            except ssl.SSLWantReadError:
                self._empty_records += 1
                if self._empty_records > _EMPTY_RECORDS:
                    raise ssl.SSLError("too many TLS records without data") from None
            else:
                if self._empty_records:
                    self._empty_records -= 1
                return data
        return self._sslobj.read(size) if buffer is None else self._sslobj.read(size, buffer)

    def pending(self) -> int:
        """Return the number of bytes that TLS or the next complete record has: the event loop reads until it is 0."""
        waiting = int(self._sslobj.pending())
        if self._received and (end := _end_of_record(self._received, self._begin)) is not None:
            waiting += end - self._begin
        return waiting

    def do_handshake(self) -> None:
        accepted, budget = _handshake.get()
        began = time.perf_counter()
        if not self._first and self._incoming.pending:
            self._first = self._incoming.read()
            self._incoming.write(self._first)
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError:
            alert = self._outgoing.read()
            if alert:
                with suppress(OSError):
                    accepted.send(alert)
            if begins_with_header(self._first):
                raise ProxyHeaderUnexpected("unexpected header of the PROXY protocol") from None
            raise
        finally:
            budget.spend(time.perf_counter() - began)


def _end_of_record(received: bytes, begin: int) -> int | None:
    """Return where the TLS record at `begin` ends (RFC 8446, section 5.1); None if it is not complete.

    If it is too large to be one, the end is that of `received`: TLS rejects it.
    """
    if len(received) - begin < _HEADER_BYTES:
        return None
    size = _HEADER_BYTES + (received[begin + 3] << 8 | received[begin + 4])
    if size > _RECORD_BYTES:
        return len(received)
    return begin + size if begin + size <= len(received) else None


def listen(host: str, port: int) -> Sequence[socket.socket]:
    """Return a listening socket for each address of `host`; several processes may share them. Raise OSError."""
    found = []
    for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE):
        # create_server takes host and port also of an IPv6 address.
        listening = socket.create_server(address[:2], family=family, backlog=_BACKLOG, reuse_port=True)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVED_BYTES)
        listening.settimeout(0)
        found.append(listening)
    return found


class TlsListener:
    """Serves `sockets` until `close`; MUST be created on the running loop."""

    def __init__(
        self,
        connections: ConnectionRegistry,
        protocol: Callable[[], "Connection"],
        context: ssl.SSLContext,
        sockets: Sequence[socket.socket],
        proxies: Networks = (),
    ) -> None:
        """Connections from `proxies` must begin with a header of the PROXY protocol, all others must not."""
        self._proxies = proxies
        self.refused = 0
        """Handshakes that failed, exceeded their time or were ended at the limit."""
        self.proxy_mismatches = 0
        """Those that failed because a load balancer and this service do not agree about the PROXY protocol."""
        self._connections, self._protocol, self._context, self._sockets = connections, protocol, context, sockets
        context.sslobject_class = _BoundedTls
        self._loop = asyncio.get_running_loop()
        self._handshakes: defaultdict[str, OrderedDict[asyncio.Task[None], None]] = defaultdict(OrderedDict)
        """The handshakes of each address, the oldest first."""
        self._count = 0
        self._budget, self._first_answers = _Budget(), 0
        self._logged_at, self._logged, self._mismatch_logged_at = 0.0, 0, float("-inf")
        for listening in sockets:
            self._loop.add_reader(listening, self._accept, listening)

    @property
    def handshakes(self) -> int:
        """The number of connections whose handshake has not ended."""
        return self._count

    def close(self) -> None:
        """Accept no more connections; handshakes that have begun continue."""
        for listening in self._sockets:
            if listening.fileno() >= 0:
                self._loop.remove_reader(listening)
                listening.close()

    def _accept(self, listening: socket.socket) -> None:
        """Accept one connection; the loop calls again while others wait."""
        if self._are_new_connections_used():
            self._budget.refill()
        if not self._budget.is_left():
            self._pause(listening, _WAIT_SECONDS)
            return
        try:
            accepted, address = listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as failed:
            self._make_room(listening, failed)
            return
        self._budget.spend(_ACCEPT_SECONDS)
        accepted.settimeout(0)
        self._begin(accepted, str(address[0]))

    def _are_new_connections_used(self) -> bool:
        """Return whether a new connection received its first response meanwhile, and no established one is in use."""
        connections = self._connections
        former, self._first_answers = self._first_answers, connections.first_answers
        return former != connections.first_answers and self._loop.time() - connections.used_at > _IN_USE_SECONDS

    def _make_room(self, listening: socket.socket, failed: OSError) -> None:
        log.error("connection not accepted", reason=failed.strerror, handshakes=self._count)
        if self._count:
            self._end_oldest()
        self._pause(listening, _PAUSE_SECONDS)

    def _pause(self, listening: socket.socket, seconds: float) -> None:
        self._loop.remove_reader(listening)
        self._loop.call_later(seconds, self._resume, listening)

    def _resume(self, listening: socket.socket) -> None:
        if listening.fileno() >= 0:
            self._loop.add_reader(listening, self._accept, listening)

    def _begin(self, accepted: socket.socket, address: str) -> None:
        if self._count >= self._connections.bounds.handshakes:
            self._end_oldest()
        task = self._loop.create_task(self._handshake(accepted, address))
        self._count += 1
        self._handshakes[address][task] = None
        self._connections.tasks.add(task)
        task.add_done_callback(lambda done: self._ended(done, accepted, address))

    def _end_oldest(self) -> None:
        """End the oldest handshake of the address that has the most."""
        handshakes = max(self._handshakes.values(), key=len)
        handshakes.popitem(last=False)[0].cancel()
        self._count -= 1

    def _ended(self, task: "asyncio.Task[None]", accepted: socket.socket, address: str) -> None:
        self._connections.tasks.discard(task)
        if task.cancelled():  # possibly before it began; a transport that has the socket closes it itself
            accepted.close()
            self._refuse(address, "too many handshakes")
        handshakes = self._handshakes[address]
        if task in handshakes:
            del handshakes[task]
            self._count -= 1
        if not handshakes:
            del self._handshakes[address]

    async def _handshake(self, accepted: socket.socket, address: str) -> None:
        _handshake.set((accepted, self._budget))
        client = ""
        try:
            if is_within(address, self._proxies):
                async with asyncio.timeout(self._connections.bounds.handshake_seconds):
                    client = await read_client_address(accepted) or ""
            await self._loop.connect_accepted_socket(
                lambda: self._made(client),
                accepted,
                ssl=self._context,
                ssl_handshake_timeout=self._connections.bounds.handshake_seconds,
                ssl_shutdown_timeout=self._connections.bounds.message_seconds,
            )
        except ssl.SSLError as failed:
            self._refuse(client or address, failed.reason or "TLS error")
        except OSError as failed:  # includes the end of the time limit and of the connection
            accepted.close()  # unless a transport had it, which has closed it
            if isinstance(failed, ProxyHeaderMissing) or (isinstance(failed, ProxyHeaderUnexpected) and not client):
                self._report_mismatch(_MISMATCHES[type(failed)])
            self._refuse(client or address, failed.strerror or str(failed) or type(failed).__name__)

    def _made(self, client: str) -> "Connection":
        made = self._protocol()
        made.client_address = client
        return made

    def _report_mismatch(self, hint: str) -> None:
        self.proxy_mismatches += 1
        now = time.monotonic()
        if now - self._mismatch_logged_at > _MISMATCH_SECONDS:
            self._mismatch_logged_at = now
            log.warning("PROXY protocol does not match", refused=self.proxy_mismatches, hint=hint)

    def _refuse(self, address: str, reason: str) -> None:
        self.refused += 1
        now = time.monotonic()
        if now - self._logged_at > 1:
            self._logged_at, self._logged = now, 0
        self._logged += 1
        if self._logged <= _LOGGED_PER_SECOND:
            log.warning("handshake failed", address=address, reason=reason, failed=self.refused)
