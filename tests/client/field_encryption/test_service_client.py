"""The held connection: its end causes a check of the keys, its absence does not."""

import socket
import threading
import time
from collections.abc import Callable
from queue import Queue

import pytest

from openkcm.field_encryption.service_client import HeldConnection, RevocationWatch
from tests.client.field_encryption.stand import no_thread

pytestmark = pytest.mark.integration  # the watch pauses between two attempts
PATIENCE_SECONDS = 60
SERVED = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
REFUSED = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n"


class Process:
    """The server sides of a watch's connections, and its checks."""

    def __init__(self, *, reachable: bool = True) -> None:
        self.reachable, self.is_needed = reachable, True
        self.server: Queue[socket.socket] = Queue()
        self.tries, self.checks = Queue[float](), Queue[float]()
        self.watch = RevocationWatch(self._connect)
        self.watch.subscribe(self._check)
        self.watch.start()
        assert self.watch.thread is not None
        self.thread = self.watch.thread

    def _connect(self) -> HeldConnection:
        self.tries.put(time.monotonic())
        if not self.reachable:
            raise ConnectionRefusedError
        client, server = socket.socketpair()
        self.server.put(server)
        return HeldConnection(client, "here")

    def _check(self) -> bool:
        self.checks.put(time.monotonic())
        return self.is_needed

    def wait_check(self) -> float:
        return self.checks.get(timeout=PATIENCE_SECONDS)

    def wait_connected(self) -> socket.socket:
        return self.server.get(timeout=PATIENCE_SECONDS)


@pytest.fixture
def held() -> Callable[[float], tuple[HeldConnection, socket.socket, threading.Thread]]:
    def create(seconds: float) -> tuple[HeldConnection, socket.socket, threading.Thread]:
        client, server = socket.socketpair()
        connection = HeldConnection(client, "here", seconds)
        waiting = threading.Thread(target=connection.wait, daemon=True)
        waiting.start()
        return connection, server, waiting

    return create


def test_held_connection_polls_while_it_is_served(held):
    connection, server, waiting = held(2.0)  # a later response ends the wait
    for _ in range(2):
        assert server.recv(1024).startswith(b"GET /healthz HTTP/1.1\r\nhost: here\r\n")
        server.sendall(SERVED)
    assert waiting.is_alive()
    server.close()
    waiting.join(PATIENCE_SECONDS)
    assert not waiting.is_alive()
    connection.close()


@pytest.mark.parametrize("answer", [REFUSED, b""])
def test_rejection_or_missing_response_ends_the_wait(held, answer):
    connection, server, waiting = held(0.2)
    server.recv(1024)
    server.sendall(SERVED)
    server.recv(1024)
    server.sendall(answer)
    waiting.join(PATIENCE_SECONDS)
    assert not waiting.is_alive()
    connection.close()
    server.close()


def test_watch_checks_after_connecting_and_after_the_connection_ends():
    process = Process()
    server = process.wait_connected()
    process.wait_check()
    server.sendall(SERVED)
    process.is_needed = False
    ended = time.monotonic()
    server.close()
    assert process.wait_check() > ended, "it checked before the end"
    process.thread.join(PATIENCE_SECONDS)
    assert not process.thread.is_alive()


def test_watch_reconnects_while_it_is_needed():
    process = Process()
    for _ in range(2):
        process.wait_connected().close()
        process.wait_check()
        process.wait_check()
    assert process.thread.is_alive()
    process.is_needed = False
    process.wait_connected().close()
    process.thread.join(PATIENCE_SECONDS)
    assert not process.thread.is_alive()


def test_unreachable_service_is_retried_with_pauses_and_without_a_check():
    process = Process(reachable=False)
    tries = [process.tries.get(timeout=PATIENCE_SECONDS) for _ in range(3)]
    assert process.checks.empty()
    assert tries[2] - tries[0] > 0.7
    process.reachable, process.is_needed = True, False
    process.thread.join(PATIENCE_SECONDS)
    process.wait_connected().close()
    assert process.checks.qsize() == 1


def test_watch_that_got_no_thread_is_started_by_the_next_call(monkeypatch):
    checked = threading.Event()
    client, server = socket.socketpair()
    watch = RevocationWatch(lambda: HeldConnection(client, "here"))
    watch.subscribe(lambda: bool(checked.set()))  # nothing is needed: the watch ends
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        watch.start()
    assert watch.thread is None
    watch.start()
    assert checked.wait(PATIENCE_SECONDS)
    server.close()


def test_watch_started_while_it_ends_continues():
    process = Process()
    server = process.wait_connected()
    process.wait_check()
    started = []

    def callback() -> bool:
        """Report that no key is in use; once, another thread gets a key meanwhile."""
        if not started:
            started.append(process.watch.start())
        return False

    process.is_needed = False
    process.watch.subscribe(callback)
    server.close()
    process.wait_check()
    process.wait_connected().close()
    process.thread.join(PATIENCE_SECONDS)
    assert process.watch.thread is None
    process.watch.start()
    process.wait_connected().close()
