"""A closed loop of requests over kept connections, as light as Python allows and the same for every server.

One thread drives all connections: each sends its request, waits for the whole answer and sends the next.
What the generator itself costs is paid by both sides of a comparison and makes the faster one look slower.
"""

import re
import select
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.report import spread

_RECEIVE_BYTES = 16384
_PATIENCE_SECONDS = 20.0
_CONTENT_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)\r\n")
_TTLV_HEADER_BYTES = 8


@dataclass(frozen=True)
class Target:
    """Whom to ask what. `size` returns how long the answer that begins like this is, None while that cannot be told."""

    port: int
    request: bytes
    size: Callable[[bytes], int | None]
    accepted: Callable[[bytes], bool]
    tls: ssl.SSLContext
    host: str = "127.0.0.1"
    server_name: str = "localhost"


@dataclass
class Load:
    """What was measured; latencies are in milliseconds."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Requests a second."""
        return len(self.latencies) / self.seconds

    def summary(self) -> dict[str, float]:
        return {"requests/s": round(self.rate), **spread(self.latencies)}


def http_size(begin: bytes) -> int | None:
    """Return the length of an HTTP answer with a Content-Length."""
    end = begin.find(b"\r\n\r\n")
    if end < 0:
        return None
    found = _CONTENT_LENGTH.search(begin, 0, end + 2)
    if found is None:
        raise RuntimeError(f"an answer without a length: {begin[:200]!r}")
    return end + 4 + int(found[1])


def http_ok(answer: bytes) -> bool:
    return answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 201"))


def ttlv_size(begin: bytes) -> int | None:
    """Return the length of a KMIP message."""
    if len(begin) < _TTLV_HEADER_BYTES:
        return None
    return _TTLV_HEADER_BYTES + int.from_bytes(begin[4:8], "big")


class _Connection:
    def __init__(self, target: Target) -> None:
        self._target = target
        raw = socket.create_connection((target.host, target.port), timeout=_PATIENCE_SECONDS)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = target.tls.wrap_socket(raw, server_hostname=target.server_name)
        # `read` and `write` of a TLS socket lie one call above OpenSSL, `recv` and `sendall` three or more. A request
        # is one record, and its answer has gone before the next is written, so no write finds the socket full.
        self._read, self._write = self.socket.read, self.socket.write
        self._begun = 0.0
        self.answer = b""

    def send(self) -> None:
        self.answer = b""
        self._begun = time.perf_counter()
        self._write(self._target.request)

    def receive(self) -> float | None:
        """Take what is there; return the latency when the answer is whole."""
        target = self._target
        while True:
            try:
                part = self._read(_RECEIVE_BYTES)
            except ssl.SSLWantReadError:
                return None
            if not part:
                raise RuntimeError(f"the server closed the connection after {self.answer[:200]!r}")
            answer = self.answer = self.answer + part if self.answer else part
            size = target.size(answer)
            if size is not None and len(answer) >= size:
                taken = 1000 * (time.perf_counter() - self._begun)
                if not target.accepted(answer):
                    raise RuntimeError(f"refused: {answer[:300]!r}")
                return taken


def ask(target: Target, connections: int, seconds: float) -> Load:
    """Ask over `connections` connections for `seconds`, after a tenth of that to warm up."""
    return _ask_alone(target, seconds) if connections == 1 else _ask_in_turns(target, connections, seconds)


def _ask_alone(target: Target, seconds: float) -> Load:
    """Ask over one connection, which waits in the kernel for its answer as a client's thread does."""
    only, load = _Connection(target), Load()
    only.socket.settimeout(None)  # with a time limit each call would ask the kernel twice
    begun = time.perf_counter() + seconds / 10
    end = begun + seconds
    try:
        while (now := time.perf_counter()) < end:
            only.send()
            while (taken := only.receive()) is None:
                pass
            if now >= begun:
                load.latencies.append(taken)
    finally:
        only.socket.close()
    load.seconds = time.perf_counter() - begun
    return load


def _ask_in_turns(target: Target, connections: int, seconds: float) -> Load:
    """Ask over many connections; one epoll tells whose answer has come."""
    crowd = [_Connection(target) for _ in range(connections)]
    poll = select.epoll()
    by_number = {}
    for one in crowd:
        one.socket.setblocking(False)  # noqa: FBT003 - its API
        by_number[one.socket.fileno()] = one
        poll.register(one.socket.fileno(), select.EPOLLIN)
        one.send()
    load = Load()
    begun = time.perf_counter() + seconds / 10
    end = begun + seconds
    try:
        while (now := time.perf_counter()) < end:
            for number, _ in poll.poll(_PATIENCE_SECONDS):
                one = by_number[number]
                taken = one.receive()
                if taken is not None:
                    if now >= begun:
                        load.latencies.append(taken)
                    one.send()
    finally:
        poll.close()
        for one in crowd:
            one.socket.close()
    load.seconds = time.perf_counter() - begun
    return load


def one(target: Target) -> bytes:
    """Ask once and return the answer."""
    connection = _Connection(target)
    connection.send()
    while connection.receive() is None:
        pass
    connection.socket.close()
    return connection.answer


def ask_connecting(target: Target, seconds: float) -> Load:
    """Ask again and again, each time over a connection of its own."""
    load = Load()
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        since = time.perf_counter()
        one(target)
        load.latencies.append(1000 * (time.perf_counter() - since))
    load.seconds = time.perf_counter() - begun
    return load
