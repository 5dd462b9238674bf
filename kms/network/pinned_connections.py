"""Connections to servers that customers name: to addresses that were checked, and never for longer than agreed.

The address is checked on the socket's own side: a name is resolved once and what was checked is what is connected to,
so that a second answer of the customer's name server (DNS rebinding) leads nowhere. An answer has to be there in full
by its deadline, or a server that sends one byte a second would hold a thread of ours for hours.
"""

import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

Allows = Callable[[str], bool]


class AddressNotAllowed(NewConnectionError):
    """The host has addresses, and none that may be connected to."""


class _BoundedSocket(socket.socket):
    deadline: float | None = None

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.settimeout(_remaining(self.deadline, self.gettimeout()))
        return super().recv_into(*args, **kwargs)


class _BoundedTlsSocket(ssl.SSLSocket):
    deadline: float | None = None

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.settimeout(_remaining(self.deadline, self.gettimeout()))
        return super().recv_into(*args, **kwargs)


def _remaining(deadline: float | None, otherwise: float | None) -> float | None:
    if deadline is None:
        return otherwise
    if (left := deadline - time.monotonic()) <= 0:
        raise TimeoutError("timed out")
    return left


def tls_context(ca_pem: str | None) -> ssl.SSLContext:
    """Return a verifying context that trusts `ca_pem` alone, or the system's certificates when there is none.

    Raises ssl.SSLError when `ca_pem` holds no certificate.
    """
    context = ssl.create_default_context(cadata=ca_pem)
    context.sslsocket_class = _BoundedTlsSocket
    return context


def _connect(connection: HTTPConnection, allows: Allows) -> socket.socket:
    host, port, timeout = connection._dns_host, connection.port, float(connection.timeout or 0)  # noqa: SLF001 - as urllib3's own _new_conn does
    until = time.monotonic() + timeout
    try:
        found = _resolved(host.strip("[]"), port, timeout)
    except queue.Empty:
        raise ConnectTimeoutError(connection, "resolving the name timed out") from None
    except (OSError, UnicodeError) as unknown:
        raise NameResolutionError(host, connection, socket.gaierror(str(unknown))) from None
    allowed = [one for one in found if allows(str(one[4][0]))]
    if not allowed:
        raise AddressNotAllowed(connection, "not an address that may be connected to")
    failure: OSError = OSError("no address")
    for family, kind, protocol, _, address in allowed:
        connecting = _BoundedSocket(family, kind, protocol)
        try:
            connecting.settimeout(max(0.01, until - time.monotonic()))
            connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connecting.connect(address)
        except OSError as failed:
            connecting.close()
            failure = failed
        else:
            return connecting
    if isinstance(failure, TimeoutError):
        raise ConnectTimeoutError(connection, "connecting timed out")
    raise NewConnectionError(connection, failure.strerror or "connection failed")


def _resolved(host: str, port: int, timeout: float) -> list[Any]:
    """Return the addresses; raises queue.Empty after `timeout`.

    In a thread of its own, which is left behind then: the C library takes as long as the customer's name servers do.
    """
    found: queue.SimpleQueue[list[Any] | OSError | UnicodeError] = queue.SimpleQueue()

    def resolve() -> None:
        try:
            found.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as unknown:
            found.put(unknown)

    threading.Thread(target=resolve, name="resolver", daemon=True).start()
    answer = found.get(timeout=timeout)
    if isinstance(answer, Exception):
        raise answer
    return answer


def _answer_by(connection: HTTPConnection) -> None:
    if isinstance(connection.sock, _BoundedSocket | _BoundedTlsSocket) and isinstance(connection.timeout, int | float):
        connection.sock.deadline = time.monotonic() + connection.timeout


class _Connection(HTTPConnection):
    def __init__(self, *args: Any, allows: Allows, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._allows = allows

    def _new_conn(self) -> socket.socket:
        return _connect(self, self._allows)

    def getresponse(self) -> Any:
        _answer_by(self)
        return super().getresponse()


class _TlsConnection(HTTPSConnection):
    def __init__(self, *args: Any, allows: Allows, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._allows = allows

    def _new_conn(self) -> socket.socket:
        return _connect(self, self._allows)

    def getresponse(self) -> Any:
        _answer_by(self)
        return super().getresponse()


class BoundedPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class BoundedTlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TlsConnection
