"""The connection on which next to nothing is said: its end is a reason to ask, the lack of one is none to hurry."""

import socket
import threading
import time
from collections.abc import Callable
from queue import Queue

import pytest

from openkcm.field_encryption.service_client import HeldConnection, RevocationWatch

pytestmark = pytest.mark.integration  # the watch pauses between two tries
PATIENCE_SECONDS = 60
SERVED = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
REFUSED = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n"


class Process:
    """The other sides of the connections that a watch has opened, and how often it looked."""

    def __init__(self, *, reached: bool = True) -> None:
        self.reached, self.going_on = reached, True
        self.theirs: Queue[socket.socket] = Queue()
        self.tries, self.looks = Queue[float](), Queue[float]()
        self.watch = RevocationWatch(self._connect)
        self.watch.tell(self._look)
        self.watch.want()
        assert self.watch.thread is not None
        self.thread = self.watch.thread

    def _connect(self) -> HeldConnection:
        self.tries.put(time.monotonic())
        if not self.reached:
            raise ConnectionRefusedError
        ours, theirs = socket.socketpair()
        self.theirs.put(theirs)
        return HeldConnection(ours, "here")

    def _look(self) -> bool:
        self.looks.put(time.monotonic())
        return self.going_on

    def wait_look(self) -> float:
        return self.looks.get(timeout=PATIENCE_SECONDS)

    def wait_connected(self) -> socket.socket:
        return self.theirs.get(timeout=PATIENCE_SECONDS)


@pytest.fixture
def held() -> Callable[[float], tuple[HeldConnection, socket.socket, threading.Thread]]:
    def made(seconds: float) -> tuple[HeldConnection, socket.socket, threading.Thread]:
        ours, theirs = socket.socketpair()
        connection = HeldConnection(ours, "here", seconds)
        waiting = threading.Thread(target=connection.wait, daemon=True)
        waiting.start()
        return connection, theirs, waiting

    return made


def test_it_waits_while_it_is_served_and_asks_now_and_then(held):
    connection, theirs, waiting = held(2.0)  # an answer that is later than this ends the wait
    for _ in range(2):
        assert theirs.recv(1024).startswith(b"GET /healthz HTTP/1.1\r\nhost: here\r\n")
        theirs.sendall(SERVED)
    assert waiting.is_alive()
    theirs.close()
    waiting.join(PATIENCE_SECONDS)
    assert not waiting.is_alive()
    connection.close()


@pytest.mark.parametrize("answer", [REFUSED, b""])
def test_a_refusal_and_silence_end_the_wait(held, answer):
    connection, theirs, waiting = held(0.2)
    theirs.recv(1024)
    theirs.sendall(SERVED)
    theirs.recv(1024)
    theirs.sendall(answer)
    waiting.join(PATIENCE_SECONDS)
    assert not waiting.is_alive()
    connection.close()
    theirs.close()


def test_it_looks_once_connected_and_in_the_moment_of_its_end():
    process = Process()
    theirs = process.wait_connected()
    process.wait_look()
    theirs.sendall(SERVED)
    process.going_on = False
    ended = time.monotonic()
    theirs.close()
    assert process.wait_look() > ended, "it looked without a reason"
    process.thread.join(PATIENCE_SECONDS)
    assert not process.thread.is_alive()


def test_it_connects_again_as_long_as_there_is_a_reason():
    process = Process()
    for _ in range(2):
        process.wait_connected().close()
        process.wait_look()
        process.wait_look()
    assert process.thread.is_alive()
    process.going_on = False
    process.wait_connected().close()
    process.thread.join(PATIENCE_SECONDS)
    assert not process.thread.is_alive()


def test_an_unreachable_service_is_tried_with_pauses_and_is_no_reason_to_look():
    process = Process(reached=False)
    tries = [process.tries.get(timeout=PATIENCE_SECONDS) for _ in range(3)]
    assert process.looks.empty()
    assert tries[2] - tries[0] > 0.7
    process.reached, process.going_on = True, False
    process.thread.join(PATIENCE_SECONDS)
    process.wait_connected().close()
    assert process.looks.qsize() == 1


def test_a_watch_that_is_wanted_while_it_ends_continues():
    process = Process()
    theirs = process.wait_connected()
    process.wait_look()
    wanted = []

    def look() -> bool:
        """Find nothing in use; meanwhile, once, another thread gets a key."""
        if not wanted:
            wanted.append(process.watch.want())
        return False

    process.going_on = False
    process.watch.tell(look)
    theirs.close()
    process.wait_look()
    process.wait_connected().close()
    process.thread.join(PATIENCE_SECONDS)
    assert process.watch.thread is None
    process.watch.want()
    process.wait_connected().close()
