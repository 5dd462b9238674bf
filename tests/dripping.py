"""A server that begins a correct response and then sends one byte at a time, so that no timeout of one read ends it."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

_PAUSE_SECONDS = 0.1
_DRIPPING_SECONDS = 30.0
TLS_RECORD = b"\x16\x03\x03\x40\x00"
"""The header of a TLS handshake record of 16 KiB (RFC 8446, section 5.1), of which the rest arrives byte by byte."""


@contextmanager
def dripping_server(*replies: bytes, drip: bytes = b".", tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """Yield the port of a server that sends one of `replies` on connect and one after each request, then `drip`s."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    threading.Thread(target=_answer, args=(connection, replies, drip, tls), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


def _answer(connection: socket.socket, replies: Sequence[bytes], drip: bytes, tls: ssl.SSLContext | None) -> None:
    if tls is not None:
        try:
            connection = tls.wrap_socket(connection, server_side=True)
        except OSError:
            return
    with suppress(OSError), connection as peer:
        first, *others = replies
        peer.sendall(first)
        for reply in others:
            peer.recv(1_000_000)
            peer.sendall(reply)
        until = time.monotonic() + _DRIPPING_SECONDS
        while time.monotonic() < until:
            peer.sendall(drip)
            time.sleep(_PAUSE_SECONDS)
