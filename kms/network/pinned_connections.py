"""Connections to servers that customers name: only to verified addresses, and only until a deadline.

A name is resolved once, and the socket connects to the verified address. A second response of the customer's name
server (DNS rebinding) therefore has no effect. A connection with its handshake has one deadline, and each request and
each response has one.
"""

import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from kms.network.bounded_sockets import BoundedSocket, bound, connect, resolve

Allows = Callable[[str], bool]


class AddressNotAllowed(NewConnectionError):
    """The host has addresses, and none of them is allowed."""


def tls_context(ca_pem: str | None) -> ssl.SSLContext:
    """Return a verifying context that trusts only `ca_pem`, or the system's CA certificates when it is None.

    Raises ssl.SSLError when `ca_pem` contains no certificate.
    """
    return bound(ssl.create_default_context(cadata=ca_pem))


def _connect(connection: HTTPConnection, allows: Allows) -> socket.socket:
    host, port, timeout = connection._dns_host, connection.port, float(connection.timeout or 0)  # noqa: SLF001 - as urllib3's own _new_conn does
    until = time.monotonic() + timeout
    try:
        found = resolve(host.strip("[]"), port, until)
    except TimeoutError:
        raise ConnectTimeoutError(connection, "resolving the name timed out") from None
    except OSError as unknown:
        raise NameResolutionError(host, connection, socket.gaierror(str(unknown))) from None
    allowed = [one for one in found if allows(str(one[4][0]))]
    if not allowed:
        raise AddressNotAllowed(connection, "not an address that may be connected to")
    try:
        return connect(allowed, until)
    except TimeoutError:
        raise ConnectTimeoutError(connection, "connecting timed out") from None
    except OSError as failed:
        raise NewConnectionError(connection, failed.strerror or "connection failed") from None


def _set_deadline(connection: HTTPConnection) -> None:
    if isinstance(connection.sock, BoundedSocket) and isinstance(connection.timeout, int | float):
        connection.sock.deadline = time.monotonic() + connection.timeout


class _Connection(HTTPConnection):
    def __init__(self, *args: Any, allows: Allows, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._allows = allows

    def _new_conn(self) -> socket.socket:
        return _connect(self, self._allows)

    def request(self, *args: Any, **kwargs: Any) -> None:
        _set_deadline(self)
        super().request(*args, **kwargs)

    def getresponse(self) -> Any:
        _set_deadline(self)
        return super().getresponse()


class _TlsConnection(HTTPSConnection):
    def __init__(self, *args: Any, allows: Allows, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._allows = allows

    def _new_conn(self) -> socket.socket:
        return _connect(self, self._allows)

    def request(self, *args: Any, **kwargs: Any) -> None:
        _set_deadline(self)
        super().request(*args, **kwargs)

    def getresponse(self) -> Any:
        _set_deadline(self)
        return super().getresponse()


class BoundedPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class BoundedTlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TlsConnection
