"""Connections to servers that customers name: only to verified addresses, and only until a deadline.

A name is resolved once, and the socket connects to the verified address. A second response of the customer's name
server (DNS rebinding) therefore has no effect. The whole response must arrive before its deadline, because a server
that sends one byte a second would otherwise block a thread for hours.
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
    """The host has addresses, and none of them is allowed."""


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
    """Return a verifying context that trusts only `ca_pem`, or the system's CA certificates when it is None.

    Raises ssl.SSLError when `ca_pem` contains no certificate.
    """
    context = ssl.create_default_context(cadata=ca_pem)
    context.sslsocket_class = _BoundedTlsSocket
    return context


def _connect(connection: HTTPConnection, allows: Allows) -> socket.socket:
    host, port, timeout = connection._dns_host, connection.port, float(connection.timeout or 0)  # noqa: SLF001 - as urllib3's own _new_conn does
    until = time.monotonic() + timeout
    try:
        found = _resolve(host.strip("[]"), port, timeout)
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


def _resolve(host: str, port: int, timeout: float) -> list[Any]:
    """Return the addresses; raises queue.Empty after `timeout`.

    A separate thread resolves and is abandoned after the timeout, because the C library waits for the name servers.
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


def _set_deadline(connection: HTTPConnection) -> None:
    if isinstance(connection.sock, _BoundedSocket | _BoundedTlsSocket) and isinstance(connection.timeout, int | float):
        connection.sock.deadline = time.monotonic() + connection.timeout


class _Connection(HTTPConnection):
    def __init__(self, *args: Any, allows: Allows, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._allows = allows

    def _new_conn(self) -> socket.socket:
        return _connect(self, self._allows)

    def getresponse(self) -> Any:
        _set_deadline(self)
        return super().getresponse()


class _TlsConnection(HTTPSConnection):
    def __init__(self, *args: Any, allows: Allows, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._allows = allows

    def _new_conn(self) -> socket.socket:
        return _connect(self, self._allows)

    def getresponse(self) -> Any:
        _set_deadline(self)
        return super().getresponse()


class BoundedPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class BoundedTlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TlsConnection
