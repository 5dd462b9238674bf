"""Sockets that wait only until a deadline.

The timeout of a socket limits one call, so a server that sends one byte at a time could hold a thread for hours. Here
all calls together end at the deadline: TLS handshake, sending, receiving and closing.
"""

import queue
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any, cast

_LEAST_SECONDS = 0.01
"""Time to connect to an address when the deadline has nearly passed: a local server accepts within it."""


class BoundedSocket(socket.socket):
    """`deadline` is a time of the monotonic clock, in seconds; calls that would wait longer raise TimeoutError."""

    deadline: float | None = None

    def gettimeout(self) -> float | None:
        """Return the seconds that are left; `SSLContext.wrap_socket` limits the handshake to them."""
        if self.deadline is None:
            return super().gettimeout()
        if (left := self.deadline - time.monotonic()) <= 0:
            raise TimeoutError("timed out")
        return left

    def recv(self, *args: Any) -> bytes:
        self._limit()
        return super().recv(*args)

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self._limit()
        return super().recv_into(*args, **kwargs)

    def send(self, *args: Any) -> int:
        self._limit()
        return super().send(*args)

    def sendall(self, *args: Any) -> None:
        self._limit()
        super().sendall(*args)

    def _limit(self) -> None:
        self.settimeout(self.gettimeout())


class BoundedTlsSocket(BoundedSocket, ssl.SSLSocket):
    """The same over TLS: the `sslsocket_class` of a context."""

    def unwrap(self) -> socket.socket:
        self._limit()
        return super().unwrap()


def resolve(host: str, port: int, deadline: float) -> Sequence[Any]:
    """Return the addresses as `getaddrinfo` does; raises TimeoutError, or another OSError without an address.

    A separate thread resolves and is abandoned at the deadline, because the C library waits for the name servers.
    """
    found: queue.SimpleQueue[list[Any] | OSError] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            found.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except OSError as unknown:
            found.put(unknown)
        except UnicodeError as invalid:
            found.put(socket.gaierror(str(invalid)))

    threading.Thread(target=look_up, name="resolver", daemon=True).start()
    try:
        answer = found.get(timeout=max(0.0, deadline - time.monotonic()))
    except queue.Empty:
        raise TimeoutError("resolving the name timed out") from None
    if isinstance(answer, OSError):
        raise answer
    return answer


def connect(addresses: Sequence[Any], deadline: float) -> BoundedSocket:
    """Connect to the first of `addresses`, from `resolve`, that accepts; raises the OSError of the last one."""
    failure = OSError("no address")
    for family, kind, protocol, _, address in addresses:
        connecting = BoundedSocket(family, kind, protocol)
        try:
            connecting.settimeout(max(_LEAST_SECONDS, deadline - time.monotonic()))
            connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connecting.connect(address)
        except OSError as failed:
            connecting.close()
            failure = failed
        else:
            connecting.deadline = deadline
            return connecting
    raise failure


def open_connection(host: str, port: int, deadline: float, context: ssl.SSLContext | None) -> BoundedSocket:
    """Return a connection, over TLS with a `context` from `bound`; raises OSError."""
    plain = connect(resolve(host, port, deadline), deadline)
    if context is None:
        return plain
    with closing(plain):  # the TLS socket has taken its descriptor
        secure = cast("BoundedTlsSocket", context.wrap_socket(plain, server_hostname=host))
    secure.deadline = deadline
    return secure


def bound(context: ssl.SSLContext) -> ssl.SSLContext:
    """Let the sockets of a context have deadlines; return the context."""
    context.sslsocket_class = BoundedTlsSocket
    return context
