"""Connections over which many requests are sent before the first answer is read."""

import json
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

from crypto.kmip import ttlv
from crypto.kmip.items import Item
from tests.crypto.https.wire import Reply, Wire

PATIENCE_SECONDS = 30
_RECEIVE = 65_536
_HEADER = 8
_AT_ONCE = 24
"""Requests under way: their answers fit into the buffers between, so neither side waits for the other for ever."""


class KmipWire:
    def __init__(self, connection: ssl.SSLSocket) -> None:
        self.socket = connection
        self._buffer = bytearray()

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
                yield self.answer()

    def answer(self) -> Item:
        size = _HEADER
        while len(self._buffer) < size:
            received = self.socket.recv(_RECEIVE)
            if not received:
                raise ConnectionResetError
            self._buffer += received
            if len(self._buffer) >= _HEADER:
                size = _HEADER + int.from_bytes(self._buffer[4:_HEADER])
        message = bytes(self._buffer[:size])
        del self._buffer[:size]
        return ttlv.decode(message)


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


def dial(address: str, tls: ssl.SSLContext) -> ssl.SSLSocket:
    """Open a connection to `host:port`, also in the form of a URL, with any certificate or none."""
    host, _, port = address.removeprefix("https://").rpartition(":")
    plain = socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS)
    try:
        return tls.wrap_socket(plain, server_hostname=host)
    except BaseException:
        plain.close()
        raise
