"""Connections on which many requests are sent before the first response is read."""

import json
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

from crypto_service.kmip.codec.ttlv import Item
from tests.crypto_service.https.wire import Reply, Wire
from tests.e2e.kmip_wire import receive

TIMEOUT_SECONDS = 30
_PIPELINED = 24
"""Pipelined requests: their responses fit into the socket buffers, so that no deadlock occurs."""


class KmipWire:
    def __init__(self, connection: ssl.SSLSocket) -> None:
        self.socket = connection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def all(self, messages: Sequence[bytes]) -> Iterator[Item]:
        """Send all messages and yield their responses in order."""
        for first in range(0, len(messages), _PIPELINED):
            some = messages[first : first + _PIPELINED]
            self.socket.sendall(b"".join(some))
            for _ in some:
                yield receive(self.socket)


class HttpsWire(Wire):
    def all(self, requests: Sequence[bytes]) -> Iterator[Reply]:
        """Send all requests and yield their responses in order."""
        for first in range(0, len(requests), _PIPELINED):
            some = requests[first : first + _PIPELINED]
            self.send(b"".join(some))
            for _ in some:
                yield self.reply()

    def ask(self, request: bytes) -> Any:
        """Send a request, which must succeed, and return the JSON of the response."""
        self.send(request)
        reply = self.reply()
        assert reply.status == 200, reply.body
        return reply.json


def post(path: str, body: Any, headers: Mapping[str, str] | None = None) -> bytes:
    """Return a request; a GET without a body."""
    data = b"" if body is None else json.dumps(body).encode()
    fields = {"host": "localhost", "content-length": str(len(data))} | (
        {} if body is None else {"content-type": "application/json"}
    )
    fields |= headers or {}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    method = "GET" if body is None else "POST"
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + data


def host_and_port(address: str) -> tuple[str, int]:
    """Return the parts of `host:port` or of a URL."""
    host, _, port = address.removeprefix("https://").rpartition(":")
    return host, int(port)


def dial(address: str, tls: ssl.SSLContext, session: ssl.SSLSession | None = None) -> ssl.SSLSocket:
    """Connect to `host:port` or a URL with any certificate or none."""
    host, port = host_and_port(address)
    plain = socket.create_connection((host, port), timeout=TIMEOUT_SECONDS)
    try:
        return tls.wrap_socket(plain, server_hostname=host, session=session)
    except BaseException:
        plain.close()
        raise
