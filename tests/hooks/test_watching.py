"""The connection on which nothing is said: its end is a reason to ask, and the lack of one is none to hurry."""

import socket
import time
from queue import Queue

from hooks import watching

PATIENCE_SECONDS = 10


class Line:
    """The other sides of the connections that a watch has opened, and how often it looked."""

    def __init__(self, *, reached: bool = True) -> None:
        self.reached, self.going_on = reached, True
        self.theirs: Queue[socket.socket] = Queue()
        self.tried, self.looks = 0, Queue[float]()
        self.thread = watching.watch(self._connect, self._look)

    def _connect(self) -> socket.socket:
        self.tried += 1
        if not self.reached:
            raise ConnectionRefusedError
        ours, theirs = socket.socketpair()
        self.theirs.put(theirs)
        return ours

    def _look(self) -> bool:
        self.looks.put(time.monotonic())
        return self.going_on

    def wait_look(self) -> float:
        return self.looks.get(timeout=PATIENCE_SECONDS)


def test_it_looks_once_connected_and_in_the_moment_of_its_end():
    line = Line()
    theirs = line.theirs.get(timeout=PATIENCE_SECONDS)
    line.wait_look()
    theirs.sendall(b"what nobody asked for")
    time.sleep(0.1)
    assert line.looks.empty()
    line.going_on = False
    ended = time.monotonic()
    theirs.close()
    assert line.wait_look() - ended < 0.5
    line.thread.join(PATIENCE_SECONDS)
    assert not line.thread.is_alive()


def test_it_connects_again_as_long_as_there_is_a_reason():
    line = Line()
    for _ in range(2):
        line.theirs.get(timeout=PATIENCE_SECONDS).close()
        line.wait_look()
        line.wait_look()
    assert line.thread.is_alive()
    line.going_on = False
    line.theirs.get(timeout=PATIENCE_SECONDS).close()
    line.thread.join(PATIENCE_SECONDS)
    assert not line.thread.is_alive()


def test_silence_is_no_reason_to_look_and_none_to_hurry():
    line = Line(reached=False)
    time.sleep(1.2)
    assert line.looks.empty()
    assert 1 <= line.tried <= 4
    line.reached, line.going_on = True, False
    line.thread.join(PATIENCE_SECONDS)
    line.theirs.get(timeout=PATIENCE_SECONDS).close()
    assert line.looks.qsize() == 1
