"""Real receivers of an audit stream that can be restarted, reject batches and fail in the middle of a batch."""

import datetime as dt
import json
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from tests.crypto_service.authority import key_pem, pem, signed


@dataclass(frozen=True)
class Identity:
    """A self-signed certificate for 127.0.0.1."""

    pem: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.pem, self.key)
        return context


def make_identity(folder: Path, name: str = "receiver") -> Identity:
    key, start = ec.generate_private_key(ec.SECP256R1()), dt.datetime.now(dt.UTC) - dt.timedelta(minutes=5)
    extensions = (
        (x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), False),
        (x509.BasicConstraints(ca=True, path_length=None), True),
    )
    certificate = signed(name, key.public_key(), None, key, *extensions, start=start, life=dt.timedelta(days=1))
    made = Identity(folder / f"{name}.pem", folder / f"{name}.key")
    made.pem.write_text(pem(certificate))
    made.key.write_text(key_pem(key))
    return made


@dataclass
class HttpsReceiver:
    """Stores the batches that it acknowledged with 200; `statuses` replaces the statuses of the next responses.

    The operating system chooses the port at the first start; a restart keeps the port.
    """

    identity: Identity
    port: int = 0
    taken: list[tuple[str, list[dict[str, Any]]]] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    statuses: list[int] = field(default_factory=list)
    lost: int = 0
    """Number of the next batches that are stored without a response; the connection is closed instead."""

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}/audit"

    def numbers(self) -> list[int]:
        return [one["seq"] for _, batch in self.taken for one in batch]

    @contextmanager
    def running(self) -> Iterator[None]:
        outer = self

        connections: list[Any] = []

        class Take(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.tokens.add(self.headers.get("authorization", ""))
                status = outer.statuses.pop(0) if outer.statuses else 200
                if status == 200:
                    outer.taken.append((self.headers["idempotency-key"], list(map(json.loads, body.splitlines()))))
                if outer.lost:
                    outer.lost -= 1
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            # Closing waits for the handlers, because a late one would write into the output of another test.
            daemon_threads = False

            def process_request(self, request: Any, client_address: Any) -> None:
                connections.append(request)
                super().process_request(request, client_address)

        server = Server(("127.0.0.1", self.port), Take)
        self.port = server.server_port
        server.socket = self.identity.context().wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
        try:
            yield
        finally:
            server.shutdown()
            for connection in connections:  # a stopped server must not respond on open connections
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            server.server_close()


@dataclass
class SyslogReceiver:
    """Reads frames by their length; resets its connection once after `dies_after` messages."""

    identity: Identity | None
    port: int = 0
    messages: list[bytes] = field(default_factory=list)
    dies_after: int | None = None

    @property
    def url(self) -> str:
        return f"syslog+{'tcp' if self.identity is None else 'tls'}://127.0.0.1:{self.port}"

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(message.partition(b"\xef\xbb\xbf")[2]) for message in self.messages]

    def numbers(self) -> list[int]:
        return [one["seq"] for one in self.records()]

    @contextmanager
    def running(self) -> Iterator[None]:
        outer = self

        class Take(StreamRequestHandler):
            def handle(self) -> None:
                with suppress(OSError):  # a handshake or a connection that failed
                    outer._take(self.request)

        server = ThreadingTCPServer(("127.0.0.1", self.port), Take)
        self.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()

    def _take(self, plain: socket.socket) -> None:
        """Read from a blocking socket: a server of asyncio responds to a `close_notify` before its program reads."""
        if self.identity is None:
            self._read(plain)
            return
        with self.identity.context().wrap_socket(plain, server_side=True) as secure:
            if self._read(secure):
                secure.unwrap()

    def _read(self, connection: socket.socket) -> bool:
        """Store messages until the sender has sent its last; return False when the receiver resets the connection."""
        with connection.makefile("rb") as stream:
            while length := b"".join(iter(lambda: stream.read(1).strip(), b"")):
                self.messages.append(stream.read(int(length)))
                if self.dies_after is not None and len(self.messages) >= self.dies_after:
                    self.dies_after = None
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    connection.close()  # here, because the server would first shut the connection down in order
                    return False
        return True
