"""The connection on which next to nothing is said: its end is a reason to ask, the lack of one is none to hurry."""

import socket
import threading
import time
from collections.abc import Callable
from queue import Queue

import pytest

from hooks.watching import Held, Watch

PATIENCE_SECONDS = 10
SERVED = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
REFUSED = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n"


class Process:
    """The other sides of the connections that a watch has opened, and how often it looked."""

    def __init__(self, *, reached: bool = True) -> None:
        self.reached, self.going_on = reached, True
        self.theirs: Queue[socket.socket] = Queue()
        self.tried, self.looks = 0, Queue[float]()
        self.watch = Watch(self._connect)
        self.watch.tell(self._look)
        self.watch.want()
        assert self.watch.thread is not None
        self.thread = self.watch.thread

    def _connect(self) -> Held:
        self.tried += 1
        if not self.reached:
            raise ConnectionRefusedError
        ours, theirs = socket.socketpair()
        self.theirs.put(theirs)
        return Held(ours, "here")

    def _look(self) -> bool:
        self.looks.put(time.monotonic())
        return self.going_on

    def wait_look(self) -> float:
        return self.looks.get(timeout=PATIENCE_SECONDS)

    def wait_connected(self) -> socket.socket:
        return self.theirs.get(timeout=PATIENCE_SECONDS)


@pytest.fixture
def held() -> Callable[[], tuple[Held, socket.socket, threading.Thread]]:
    def made() -> tuple[Held, socket.socket, threading.Thread]:
        ours, theirs = socket.socketpair()
        connection = Held(ours, "here", 0.2)
        waiting = threading.Thread(target=connection.wait, daemon=True)
        waiting.start()
        return connection, theirs, waiting

    return made


def test_it_waits_while_it_is_served_and_asks_now_and_then(held):
    connection, theirs, waiting = held()
    for _ in range(4):
        assert theirs.recv(1024).startswith(b"GET /healthz HTTP/1.1\r\nhost: here\r\n")
        theirs.sendall(SERVED)
    assert waiting.is_alive()
    theirs.close()
    waiting.join(PATIENCE_SECONDS)
    assert not waiting.is_alive()
    connection.close()


@pytest.mark.parametrize("answer", [REFUSED, b""])
def test_a_refusal_and_silence_end_the_wait(held, answer):
    connection, theirs, waiting = held()
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
    time.sleep(0.1)
    assert process.looks.empty()
    process.going_on = False
    ended = time.monotonic()
    theirs.close()
    assert process.wait_look() - ended < 0.5
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


def test_silence_is_no_reason_to_look_and_none_to_hurry():
    process = Process(reached=False)
    time.sleep(1.2)
    assert process.looks.empty()
    assert 1 <= process.tried <= 4
    process.reached, process.going_on = True, False
    process.thread.join(PATIENCE_SECONDS)
    process.wait_connected().close()
    assert process.looks.qsize() == 1


def test_whoever_wants_it_while_it_is_about_to_end_has_it_go_on():
    process = Process()
    theirs = process.wait_connected()
    process.wait_look()
    wanted = []

    def look() -> bool:
        """Find nothing in use; meanwhile, once, somebody else is given a key."""
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
