"""Connections over which many requests are sent before the first answer is read."""

import json
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

from crypto_service.kmip.codec.ttlv import Item
from tests.crypto_service.https.wire import Reply, Wire
from tests.stories.kmip_wire import receive

PATIENCE_SECONDS = 30
_AT_ONCE = 24
"""Requests under way: their answers fit into the buffers between, so neither side waits for the other for ever."""


class KmipWire:
    def __init__(self, connection: ssl.SSLSocket) -> None:
        self.socket = connection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def all(self, messages: Sequence[bytes]) -> Iterator[Item]:
        """Send all messages and yield their answers in order."""
        for first in range(0, len(messages), _AT_ONCE):
            some = messages[first : first + _AT_ONCE]
            self.socket.sendall(b"".join(some))
            for _ in some:
                yield receive(self.socket)


class HttpsWire(Wire):
    def all(self, requests: Sequence[bytes]) -> Iterator[Reply]:
        """Send all requests and yield their answers in order."""
        for first in range(0, len(requests), _AT_ONCE):
            some = requests[first : first + _AT_ONCE]
            self.send(b"".join(some))
            for _ in some:
                yield self.reply()

    def ask(self, request: bytes) -> Any:
        """Return the JSON of the answer, which must be a success."""
        self.send(request)
        reply = self.reply()
        assert reply.status == 200, reply.body
        return reply.json


def post(path: str, body: Any, headers: Mapping[str, str] | None = None) -> bytes:
    """Return a request; a GET where there is no body."""
    data = b"" if body is None else json.dumps(body).encode()
    fields = {"host": "localhost", "content-length": str(len(data))} | (
        {} if body is None else {"content-type": "application/json"}
    )
    fields |= headers or {}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    method = "GET" if body is None else "POST"
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + data


def host_and_port(address: str) -> tuple[str, int]:
    """Return the parts of `host:port`, also in the form of a URL."""
    host, _, port = address.removeprefix("https://").rpartition(":")
    return host, int(port)


def dial(address: str, tls: ssl.SSLContext, session: ssl.SSLSession | None = None) -> ssl.SSLSocket:
    """Open a connection to `host:port`, also in the form of a URL, with any certificate or none."""
    host, port = host_and_port(address)
    plain = socket.create_connection((host, port), timeout=PATIENCE_SECONDS)
    try:
        return tls.wrap_socket(plain, server_hostname=host, session=session)
    except BaseException:
        plain.close()
        raise
