"""A server that makes TLS handshakes with a certificate of the test, and ends each connection afterwards."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from config.settings import LOOPBACK


@contextmanager
def server(certificate: Path | None, greeting: bytes = b"") -> Iterator[int]:
    """Yield the port of a server that makes a TLS handshake, or responds in plain text without a certificate.

    `greeting` is the response to a client of PostgreSQL, which first asks whether the server uses TLS.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if certificate is not None:
        context.load_cert_chain(certificate / "server.pem", certificate / "server.key")
        context.set_alpn_protocols(["h2", "postgresql"])

    def answer(connection: socket.socket) -> None:
        with suppress(OSError), connection:
            if greeting:
                connection.recv(8)
                connection.sendall(greeting)
            if certificate is None:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            else:
                with context.wrap_socket(connection, server_side=True) as encrypted:
                    encrypted.recv(1000)

    def serve() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listening.accept()[0],), daemon=True).start()

    with socket.create_server((LOOPBACK, 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
