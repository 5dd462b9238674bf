"""An HTTP proxy on loopback that forwards everything to the server behind it, except requests with a configured fault.

    proxy = FaultProxy.start(aws.url)
    with proxy.spoiling(answering(429, {"__type": "ThrottlingException"}), only="Decrypt"):
        ...
    proxy.stop(); proxy.start_again(); proxy.seen

`only` is searched in the request line, X-Amz-Target and the body. Each request is recorded before its fault.
"""

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import urllib3

from core.errors.keys import RootKeyServerError, RootKeyTimeout, RootKeyUnreachable

Fault = Callable[[BaseHTTPRequestHandler], None]
_NOT_PASSED = {"connection", "transfer-encoding", "content-length", "keep-alive", "accept-encoding"}


@dataclass(frozen=True)
class Seen:
    """A received request, for tests of what the platform sends."""

    line: str
    headers: Mapping[str, str]
    body: bytes

    def matches(self, only: str) -> bool:
        return only in self.line or only in self.headers.get("X-Amz-Target", "") or only.encode() in self.body


def answering(status: int, body: Any = b"", **headers: str) -> Fault:
    """Return a fault that responds in place of the server."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    def fault(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return fault


def hanging(seconds: float) -> Fault:
    """Return a fault that closes the connection after a time without a response."""

    def fault(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(seconds)
        hanging_up(handler)

    return fault


def dripping(seconds: float) -> Fault:
    """Return a fault that sends a byte every fifth of a second, so that no timeout of a single read ends it."""
    return _endless(seconds, b"HTTP/1.1 200 OK\r\nX-Drip: ", b".", pause=0.2)


def flooding(seconds: float) -> Fault:
    """Return a fault that sends an endless response without a pause, so that no single read waits."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return _endless(seconds, head, b"1;" + b"x" * 60_000 + b"\r\n.\r\n", pause=0)


def _endless(seconds: float, head: bytes, piece: bytes, *, pause: float) -> Fault:
    def fault(handler: BaseHTTPRequestHandler) -> None:
        until = time.monotonic() + seconds
        handler.wfile.write(head)
        try:
            while time.monotonic() < until:
                handler.wfile.write(piece)
                time.sleep(pause)
        except OSError:
            pass
        handler.close_connection = True

    return fault


def hanging_up(handler: BaseHTTPRequestHandler) -> None:
    """Close the connection without a response."""
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


COMMON = [
    (answering(502, b"<html>Bad Gateway</html>"), RootKeyServerError),
    (answering(200, b"<html>hello</html>"), RootKeyServerError),
    (answering(200, b"x" * 70_000), RootKeyServerError),
    (answering(307, b"", Location="http://169.254.169.254/"), RootKeyUnreachable),
    (hanging(60), RootKeyTimeout),
    (dripping(60), RootKeyTimeout),
    (flooding(60), RootKeyTimeout),
    (hanging_up, RootKeyUnreachable),
]
"""Faults with the same error for each provider, and the error."""


@dataclass
class FaultProxy:
    behind: str
    tls: ssl.SSLContext | None = None
    port: int = 0
    connections: int = 0
    delay_seconds: float = 0.0
    """Time before each request is passed on."""
    seen: list[Seen] = field(default_factory=list)
    _server: ThreadingHTTPServer | None = None
    _faults: list[tuple[Fault, str]] = field(default_factory=list)

    @classmethod
    def start(cls, behind: str, tls: ssl.SSLContext | None = None) -> "FaultProxy":
        proxy = cls(behind, tls)
        proxy.start_again()
        return proxy

    @classmethod
    @contextmanager
    def running(cls, behind: str, tls: ssl.SSLContext | None = None) -> Iterator["FaultProxy"]:
        """Run a proxy until the block ends."""
        proxy = cls.start(behind, tls)
        try:
            yield proxy
        finally:
            proxy.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def spoiling(self, fault: Fault, only: str = "") -> Iterator[None]:
        """Apply a fault to the requests that contain `only`, until the block ends."""
        self._faults.append((fault, only))
        try:
            yield
        finally:
            self._faults.remove((fault, only))

    def stop(self) -> None:
        """Refuse new connections and close the existing ones."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def start_again(self) -> None:
        self._server = _Listener(self, ("127.0.0.1", self.port), _handler(self))
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def fault_for(self, seen: Seen) -> Fault | None:
        self.seen.append(seen)
        return next((fault for fault, only in reversed(self._faults) if seen.matches(only)), None)


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, proxy: FaultProxy, *args: Any) -> None:
        self._proxy = proxy
        self._open: set[Any] = set()
        super().__init__(*args)

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        self._proxy.connections += 1
        if self._proxy.tls is not None:
            connection = self._proxy.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        super().server_close()
        for connection in list(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that close the connection, which many tests expect."""


def _handler(proxy: FaultProxy) -> type[BaseHTTPRequestHandler]:
    pool = urllib3.PoolManager(retries=False, timeout=30, maxsize=32)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = proxy.fault_for(Seen(self.requestline, dict(self.headers.items()), body))
            if fault is not None:
                fault(self)
                return
            time.sleep(proxy.delay_seconds)
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _NOT_PASSED}
            answer = pool.request(
                self.command, f"{proxy.behind}{self.path}", body=body, headers=headers, redirect=False
            )
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in _NOT_PASSED:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.data)))
            self.end_headers()
            self.wfile.write(answer.data)

        do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_LIST = _pass  # noqa: N815 - names of the base class

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
