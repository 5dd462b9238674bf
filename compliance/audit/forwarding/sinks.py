"""Where an audit stream is forwarded to: an HTTPS endpoint, or a syslog server. What each takes as acknowledgement.

HTTPS: a 2xx to the batch. Syslog has no acknowledgement of its own, so each batch is a connection, closed in order: we
say that nothing more comes and wait until the receiver has said the same, which over TLS only a program that has read
everything before it can (`close_notify`; RFC 5425, section 4.4, makes it answer). What it does with it then is its own.
"""

import http.client
import socket
import ssl
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Protocol
from urllib.parse import SplitResult, urlsplit

from compliance.audit.forwarding.batches import Batch
from core.errors.compliance import DestinationRefused, ForwardingRefused, ReceiverUnavailable
from openkcm.errors import FileRefused

_SECONDS = 10.0
_LATER = frozenset({408, 425, 429})
"""Refusals of HTTP that are about now, not about what was sent."""
_LONGEST_TOKEN = 8192


class Receiver(Protocol):
    def deliver(self, batch: Batch) -> None:
        """Return when the batch is acknowledged.

        Raises: ReceiverUnavailable, and it may have arrived all the same; ForwardingRefused when that stays so.
        """
        ...

    def close(self) -> None:
        """Close what is open towards it; it can be used again."""
        ...


def open_receiver(to: str, token_file: Path | None, ca_file: Path | None) -> Receiver:
    """Return the receiver at an address; nothing is connected yet.

    Raises: DestinationRefused; FileRefused for a file that is not what it should be. No message quotes what is in one.
    """
    where = _parsed(to)
    if where.scheme != "https" and token_file is not None:
        raise DestinationRefused("syslog takes no token", "leave out --token-file")
    match where.scheme:
        case "https":
            return _Https(where, _context(ca_file), None if token_file is None else _token(token_file))
        case "syslog+tls":
            return _Syslog(str(where.hostname), where.port or 6514, _context(ca_file))
        case _:
            return _Syslog(str(where.hostname), where.port or 514, None)


def _parsed(to: str) -> SplitResult:
    try:
        where = urlsplit(to)
        host, _port = where.hostname, where.port
    except ValueError:
        raise DestinationRefused from None
    if where.scheme not in {"https", "syslog+tls", "syslog+tcp"} or not host or not to.isprintable():
        raise DestinationRefused
    if where.username is not None or where.password is not None or where.query or where.fragment:
        raise DestinationRefused("an address is no place for secrets", "give the token in a file with --token-file")
    if where.scheme == "syslog+tcp" and not _is_this_machine(host):
        raise DestinationRefused("records do not leave this machine in plain text", "use syslog+tls://HOST:PORT")
    return where


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name may mean anything
        return False


def _context(ca_file: Path | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError):
        raise FileRefused(f"{ca_file} holds no certificate authority", "give its certificate in PEM") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _token(file: Path) -> str:
    try:
        with file.open(encoding="ascii") as opened:
            token = opened.read(_LONGEST_TOKEN + 1).strip()
    except (OSError, UnicodeDecodeError):
        raise FileRefused(f"{file} cannot be read", "a token is one line of ASCII") from None
    if not token or len(token) > _LONGEST_TOKEN or not token.isprintable() or " " in token:
        raise FileRefused(f"{file} holds no token", "a token is one line of ASCII")
    return token


@dataclass
class _Https:
    where: SplitResult
    context: ssl.SSLContext
    token: str | None = field(repr=False)
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
        if status < 500 and status not in _LATER:  # a redirect as well: a token goes to the address it was given for
            raise ForwardingRefused(f"{self.where.hostname} answered {status}")
        raise ReceiverUnavailable(f"{self.where.hostname} answered {status}")

    def _post(self, body: bytes, headers: dict[str, str]) -> int:
        if self.connection is None:
            host, port = str(self.where.hostname), self.where.port or 443
            self.connection = http.client.HTTPSConnection(host, port, timeout=_SECONDS, context=self.context)
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

    def deliver(self, batch: Batch) -> None:
        try:
            self._send(batch.frames)
        except (OSError, EOFError) as failed:  # ssl's errors are of these, a reset connection too
            raise ReceiverUnavailable(f"{self.host}: {type(failed).__name__}") from None

    def close(self) -> None:
        """Each batch has a connection of its own."""

    def _send(self, frames: Sequence[bytes]) -> None:
        with socket.create_connection((self.host, self.port), _SECONDS) as plain:
            if self.context is None:
                plain.sendall(b"".join(frames))
                plain.shutdown(socket.SHUT_WR)
                _until_closed(plain)
                return
            with closing(self.context.wrap_socket(plain, server_hostname=self.host)) as secure:
                secure.sendall(b"".join(frames))
                secure.unwrap()  # sends our close_notify, and raises unless the receiver's comes back


def _until_closed(plain: socket.socket) -> None:
    """Wait until the other side has closed too; raises when it was torn down instead."""
    for _ in range(1024):
        if not plain.recv(65536):
            return
    raise EOFError
