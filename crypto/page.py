"""A few bytes of HTTP for the parent's loop: GET of a short page, one request a connection, loopback only."""

import selectors
import socket
import time
from collections.abc import Callable
from contextlib import suppress

_PATIENCE_SECONDS = 2.0
_MOST_AT_ONCE = 64
_LONGEST_REQUEST = 8192
_REASONS = {200: "OK", 404: "Not Found", 503: "Service Unavailable"}


class Page:
    def __init__(
        self,
        selector: selectors.BaseSelector,
        address: tuple[str, int],
        answer: Callable[[bytes], tuple[int, bytes]],
    ) -> None:
        """`answer` is given a path and returns status and text; raises OSError when the address is taken."""
        self._selector = selector
        self._answer = answer
        self._open: dict[socket.socket, tuple[float, bytearray]] = {}
        self._listener = socket.create_server(address, backlog=_MOST_AT_ONCE)
        self._listener.settimeout(0)
        selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def drop_late(self) -> None:
        """Close the connections that have used up their time."""
        now = time.monotonic()
        for connection in [one for one, (began, _) in self._open.items() if now - began > _PATIENCE_SECONDS]:
            self._drop(connection)

    def _accept(self) -> None:
        with suppress(OSError):
            connection, _ = self._listener.accept()
            connection.settimeout(0)
            if len(self._open) >= _MOST_AT_ONCE:
                connection.close()
                return
            self._open[connection] = (time.monotonic(), bytearray())
            self._selector.register(connection, selectors.EVENT_READ, lambda: self._read(connection))

    def _read(self, connection: socket.socket) -> None:
        received = self._open[connection][1]
        try:
            data = connection.recv(_LONGEST_REQUEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        received += data
        if b"\r\n\r\n" in received:
            method, _, rest = bytes(received).partition(b" ")
            status, text = self._answer(rest.split(b" ", 1)[0]) if method == b"GET" else (404, b"only GET\n")
            head = f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
            head += f"Content-Length: {len(text)}\r\nConnection: close\r\n\r\n"
            # A page is a few kilobytes, which the socket's buffer takes whole.
            with suppress(OSError):
                connection.sendall(head.encode() + text)
            self._drop(connection)
        elif not data or len(received) > _LONGEST_REQUEST:
            self._drop(connection)

    def _drop(self, connection: socket.socket) -> None:
        del self._open[connection]
        self._selector.unregister(connection)
        connection.close()
