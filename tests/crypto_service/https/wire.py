"""A raw connection, for requests that no correct client sends."""

import json
import ssl
from dataclasses import dataclass
from typing import Any, Self

RECEIVE = 65_536
CHUNKED = (
    b"POST /v1/encrypt HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
)


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Wire:
    def __init__(self, connection: ssl.SSLSocket) -> None:
        self.socket = connection
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def reply(self, *, bodiless: bool = False) -> Reply:
        """Read one complete response."""
        while b"\r\n\r\n" not in self._buffer:
            self._more()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode("ascii").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        length = 0 if bodiless else int(headers.get("content-length", "0"))
        while len(self._buffer) < length:
            self._more()
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        return Reply(int(first.split(" ")[1]), headers, body)

    def closed(self) -> bool:
        """Wait for the end of the connection; return False when data arrives first."""
        try:
            return not self._buffer and self.socket.recv(RECEIVE) == b""
        except (ConnectionResetError, ssl.SSLError):
            return True

    def quiet(self, seconds: float) -> bool:
        """Return whether nothing arrives within `seconds`."""
        before = self.socket.gettimeout()
        self.socket.settimeout(seconds)
        try:
            self._buffer += self.socket.recv(RECEIVE)
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(before)
        return False

    def _more(self) -> None:
        part = self.socket.recv(RECEIVE)
        if not part:
            raise EOFError
        self._buffer += part


def post(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers]
    return ("\r\n".join([*lines, f"Content-Length: {len(body)}"]) + "\r\n\r\n").encode() + body


def get(path: str, *headers: str, method: str = "GET") -> bytes:
    return ("\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *headers]) + "\r\n\r\n").encode()


def encrypt_body(plaintext: str = "aGVsbG8=", resource: str = "orders/1") -> bytes:
    return json.dumps({"plaintext": plaintext, "resource": resource}).encode()
