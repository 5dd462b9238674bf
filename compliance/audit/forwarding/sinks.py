"""Receivers of a forwarded audit stream: an HTTPS endpoint or a syslog server, and their acknowledgements.

HTTPS: a 2xx response to the batch. Syslog has no acknowledgement, so each batch uses one connection with an orderly
close: the sender closes and waits until the receiver closes too. Over TLS a receiver can do that only after it has read
all data (`close_notify`; RFC 5425, section 4.4, requires the response). It does not prove that the data was stored.

The delivery of a batch has one deadline, so that a receiver that reads or responds byte by byte counts as unavailable.
"""

import http.client
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Protocol
from urllib.parse import SplitResult, urlsplit

from compliance.audit.forwarding.batches import Batch
from core.errors.compliance import DestinationRefused, ForwardingRefused, ReceiverUnavailable
from kms.network.bounded_sockets import BoundedSocket, BoundedTlsSocket, bound, open_connection
from openkcm.errors import FileRefused

_SECONDS = 20.0
"""Time to deliver one batch, from the connection to the acknowledgement."""
_LATER = frozenset({408, 425, 429})
"""HTTP client errors that are temporary."""
_LONGEST_TOKEN = 8192


class Receiver(Protocol):
    def deliver(self, batch: Batch) -> None:
        """Return when the receiver has acknowledged the batch.

        Raises:
            ReceiverUnavailable: temporary failure; the batch may have arrived.
            ForwardingRefused: permanent failure.
        """
        ...

    def close(self) -> None:
        """Close the connection; the receiver can be used again."""
        ...


def open_receiver(to: str, token_file: Path | None, ca_file: Path | None, seconds: float = _SECONDS) -> Receiver:
    """Return the receiver at an address, without a connection to it; `seconds` limit the delivery of a batch.

    Raises:
        DestinationRefused: the address is invalid.
        FileRefused: the token or CA file is invalid. The message does not contain its content.
    """
    where = _parsed(to)
    if where.scheme != "https" and token_file is not None:
        raise DestinationRefused("syslog does not support a token", "omit --token-file")
    match where.scheme:
        case "https":
            return _Https(where, _context(ca_file), None if token_file is None else _token(token_file), seconds)
        case "syslog+tls":
            return _Syslog(str(where.hostname), where.port or 6514, _context(ca_file), seconds)
        case _:
            return _Syslog(str(where.hostname), where.port or 514, None, seconds)


def _parsed(to: str) -> SplitResult:
    try:
        where = urlsplit(to)
        host, _port = where.hostname, where.port
    except ValueError:
        raise DestinationRefused from None
    if where.scheme not in {"https", "syslog+tls", "syslog+tcp"} or not host or not to.isprintable():
        raise DestinationRefused
    if where.username is not None or where.password is not None or where.query or where.fragment:
        raise DestinationRefused("the address must not contain secrets", "pass the token in a file with --token-file")
    if where.scheme == "syslog+tcp" and not _is_this_machine(host):
        raise DestinationRefused("syslog+tcp is allowed on this machine only", "use syslog+tls://HOST:PORT")
    return where


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a host name can resolve to any address
        return False


def _context(ca_file: Path | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError):
        raise FileRefused(f"{ca_file} contains no CA certificate", "provide the CA certificate in PEM") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return bound(context)


def _token(file: Path) -> str:
    try:
        with file.open(encoding="ascii") as stream:
            token = stream.read(_LONGEST_TOKEN + 1).strip()
    except (OSError, UnicodeDecodeError):
        raise FileRefused(f"{file} cannot be read", "store the token as one line of ASCII") from None
    if not token or len(token) > _LONGEST_TOKEN or not token.isprintable() or " " in token:
        raise FileRefused(f"{file} contains no valid token", "store the token as one line of ASCII")
    return token


@dataclass
class _Https:
    where: SplitResult
    context: ssl.SSLContext
    token: str | None = field(repr=False)
    seconds: float
    connection: http.client.HTTPSConnection | None = None

    def deliver(self, batch: Batch) -> None:
        headers = {"content-type": "application/jsonl", "idempotency-key": batch.key}
        if self.token is not None:
            headers["authorization"] = f"Bearer {self.token}"
        try:
            status = self._post("".join(batch.lines).encode(), headers)
        except (OSError, http.client.HTTPException) as failed:
            self.close()
            raise ReceiverUnavailable(f"{self.where.hostname}: {type(failed).__name__}") from None
        if 200 <= status < 300:
            return
        self.close()
        if status < 500 and status not in _LATER:  # also a redirect, because the token is for this address only
            raise ForwardingRefused(f"{self.where.hostname} answered {status}")
        raise ReceiverUnavailable(f"{self.where.hostname} answered {status}")

    def _post(self, body: bytes, headers: dict[str, str]) -> int:
        deadline = time.monotonic() + self.seconds
        if self.connection is None:
            host, port = str(self.where.hostname), self.where.port or 443
            connection = http.client.HTTPSConnection(host, port, context=self.context)
            connection.sock = open_connection(host, port, deadline, self.context)
            self.connection = connection
        elif isinstance(self.connection.sock, BoundedSocket):
            self.connection.sock.deadline = deadline
        self.connection.request("POST", self.where.path or "/", body, headers)
        with self.connection.getresponse() as answer:
            answer.read(65536)
            if answer.will_close or not answer.isclosed():
                self.close()
            return answer.status

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None


@dataclass
class _Syslog:
    host: str
    port: int
    context: ssl.SSLContext | None
    seconds: float

    def deliver(self, batch: Batch) -> None:
        try:
            self._send(batch.frames)
        except (OSError, EOFError) as failed:  # includes TLS errors and a reset connection
            raise ReceiverUnavailable(f"{self.host}: {type(failed).__name__}") from None

    def close(self) -> None:
        """Do nothing: each batch has its own connection."""

    def _send(self, frames: Sequence[bytes]) -> None:
        deadline = time.monotonic() + self.seconds
        with open_connection(self.host, self.port, deadline, self.context) as connection:
            connection.sendall(b"".join(frames))
            if isinstance(connection, BoundedTlsSocket):
                connection.unwrap()  # sends close_notify, and raises unless the receiver sends its close_notify
            else:
                connection.shutdown(socket.SHUT_WR)
                _until_closed(connection)


def _until_closed(plain: socket.socket) -> None:
    """Wait until the receiver closes the connection; raises if the connection is reset."""
    for _ in range(1024):
        if not plain.recv(65536):
            return
    raise EOFError
