"""Clients that take their time, or announce what would fill the memory, are let go; everybody else is served."""

import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from socket import create_connection, socket
from statistics import median
from time import monotonic
from typing import Self

import pytest

from crypto.kmip.items import ItemType
from crypto.kmip.tags import Tag
from tests.crypto.https.wire import RECEIVE
from tests.stories.clients import OK, Program, data_key, get
from tests.stories.connected import Service, connect
from tests.stories.outages import children_of
from tests.stories.stack import Stack

EACH = 12
"""Connections of each slow kind on each port."""
HANDSHAKE_SECONDS, MESSAGE_SECONDS = 10, 30
LATE_SECONDS = 5
"""What a busy machine may add."""
GROWTH_KIB = 65_536


@pytest.fixture(scope="module")
def healthy(stack, acme, tmp_path_factory) -> Iterator[Program]:
    program = Program(connect(stack, acme, "microservice", "healthy", tmp_path_factory.mktemp("healthy") / "kcm"))
    program.settle()
    yield program
    program.hang_up()


@pytest.fixture(scope="module")
def hostile(stack, acme, tmp_path_factory) -> Service:
    return connect(stack, acme, "microservice", "hostile", tmp_path_factory.mktemp("hostile") / "kcm")


class Watch:
    """The healthy client, asking on both ports all the time while something goes on."""

    def __init__(self, program: Program) -> None:
        self._program, self._stop = program, threading.Event()
        self.answers: list[str] = []
        self.milliseconds: list[float] = []
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._stop.wait(0.01):
            began = monotonic()
            self.answers += self._program.probe("data key", "Get").values()
            self.milliseconds.append((monotonic() - began) * 1000)
            if len(self.answers) % 50 == 0:
                self._program.hang_up()  # new connections must get through, too

    def assert_was_served(self) -> None:
        found = sorted(self.milliseconds)
        p99 = found[len(found) * 99 // 100]
        print(f"{len(found)} times served, p50 {median(found):.1f} ms, p99 {p99:.1f} ms, most {found[-1]:.1f} ms")  # noqa: T201 - a measurement
        assert set(self.answers) == {OK}
        assert median(found) < 250
        assert found[-1] < LATE_SECONDS * 1000


def nested(levels: int) -> bytes:
    """Return structures within structures, each of which holds the next and nothing else."""
    return b"".join(_item(Tag.REQUEST_MESSAGE, ItemType.STRUCTURE, 8 * level) for level in reversed(range(levels)))


def _item(tag: int, kind: int, length: int) -> bytes:
    return tag.to_bytes(3) + bytes([kind]) + length.to_bytes(4)


_REQUEST = _item(Tag.REQUEST_MESSAGE, ItemType.STRUCTURE, 0)[:4]
_HEAD = b"POST /v1/encrypt HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
BOMBS = {
    "kmip": {
        "a length of 4 GiB": (_REQUEST + b"\xff\xff\xff\xf8" + bytes(64), ""),
        "a length of 2 GiB": (_REQUEST + b"\x7f\xff\xff\xf8" + bytes(64), ""),
        "an item longer than its message": (
            _REQUEST + (16).to_bytes(4) + _item(Tag.REQUEST_HEADER, 1, 2**32 - 8) + bytes(8),
            "",
        ),
        "the deepest message": (nested(120_000), ""),
        "not KMIP": (b"GET / HTTP/1.1\r\n\r\n" * 4, ""),
        "nothing but zeros": (bytes(4096), ""),
    },
    "https": {
        "a body of a petabyte": (_HEAD + b"content-length: 1000000000000000\r\n\r\n{", "413"),
        "a length beyond every number": (_HEAD + b"content-length: " + b"9" * 400 + b"\r\n\r\n", "400"),
        "a negative length": (_HEAD + b"content-length: -1\r\n\r\n", "400"),
        "two lengths": (_HEAD + b"content-length: 4\r\ncontent-length: 40\r\n\r\n{}{}", "400"),
        "a length and chunks": (
            _HEAD + b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            "400",
        ),
        "a chunk of 4 GiB": (_HEAD + b"transfer-encoding: chunked\r\n\r\nffffffff\r\n" + bytes(1_100_000), "413"),
        "a chunk without end": (_HEAD + b"transfer-encoding: chunked\r\n\r\n" + b"f" * 100_000, "400"),
        "a header of a megabyte": (_HEAD + b"x: " + b"x" * 1_000_000 + b"\r\n\r\n", "431"),
        "very many headers": (_HEAD + b"x: y\r\n" * 20_000 + b"\r\n", "431"),
        "a target without end": (b"GET /" + b"x" * 500_000, "431"),
        "the deepest JSON": (_HEAD + b"content-length: 200000\r\n\r\n" + b"[" * 200_000, "400"),
        "not HTTP": (bytes(4096), "400"),
    },
}
"""By port: what is sent, and the status it is answered with; on KMIP the connection just ends."""


def memory_of(stack: Stack) -> int:
    """Return the most that one serving process holds, in KiB."""
    pages = (Path(f"/proc/{pid}/statm").read_text(encoding="ascii") for pid in children_of(stack.pids()["crypto"]))
    return max(int(one.split()[1]) for one in pages) * 4


def ends(connection: socket, seconds: float) -> float:
    """Return after how many seconds the other side has ended the connection; what it says before is read over."""
    began = monotonic()
    while (left := began + seconds - monotonic()) > 0:
        connection.settimeout(left)
        try:
            if not connection.recv(RECEIVE):
                return monotonic() - began
        except TimeoutError:
            break
        except OSError:
            return monotonic() - began
    return float("inf")


def comes_to(connection: socket, bomb: bytes) -> str:
    """Return the status that a bomb is answered with; empty when the connection ends without an answer."""
    connection.settimeout(LATE_SECONDS)
    try:
        connection.sendall(bomb)
        return connection.recv(RECEIVE)[9:12].decode("latin-1")
    except TimeoutError:
        return "silence"
    except OSError:  # it ended before all of it was sent
        return ""


@pytest.mark.parametrize("front", BOMBS)
def test_what_announces_more_than_there_may_be_is_refused_at_once_and_takes_no_memory(stack, healthy, hostile, front):
    def throw(bomb: bytes) -> str:
        with hostile.open(hostile.answer[front]) as connection:
            return comes_to(connection, bomb)

    for bomb, _ in BOMBS[front].values():
        throw(bomb)
    before = memory_of(stack)
    many = [*BOMBS[front].items()] * 20
    with Watch(healthy) as watch, ThreadPoolExecutor(4) as crowd:
        for (name, (bomb, wanted)), answer in zip(many, crowd.map(lambda one: throw(one[1][0]), many), strict=True):
            # Who is refused while he still sends may find the connection reset and no answer.
            assert answer == wanted or (not answer and len(bomb) > RECEIVE), name
    watch.assert_was_served()
    assert memory_of(stack) - before < GROWTH_KIB


def test_whoever_takes_his_time_is_let_go_and_nobody_waits_for_him(healthy, hostile):
    """Half a handshake, half a head, half a body: silent, or one byte after the other, which buys no time."""
    whole = {"https": data_key("record/1"), "kmip": get(healthy.object_id)}

    def plainly(front: str) -> socket:
        host, _, port = hostile.answer[front].removeprefix("https://").rpartition(":")
        return create_connection((host, int(port)), timeout=LATE_SECONDS)

    def greeting(front: str) -> socket:
        connection = plainly(front)
        connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        return connection

    def beginning(front: str) -> ssl.SSLSocket:
        connection = hostile.open(hostile.answer[front])
        connection.sendall(whole[front][:20])
        return connection

    def most_of_it(front: str) -> ssl.SSLSocket:
        connection = hostile.open(hostile.answer[front])
        connection.sendall(whole[front][:-10])
        return connection

    kinds: dict[Callable[[str], socket], tuple[int, bool]] = {
        plainly: (HANDSHAKE_SECONDS, False),
        greeting: (HANDSHAKE_SECONDS, False),
        beginning: (MESSAGE_SECONDS, True),
        most_of_it: (MESSAGE_SECONDS, False),
    }
    with Watch(healthy) as watch:
        began = monotonic()
        waiting = [
            (kind.__name__, opened, seconds, trickles, kind(front))
            for front in whole
            for kind, (seconds, trickles) in kinds.items()
            for opened in [monotonic()]
            for _ in range(EACH)
        ]
        stop = threading.Event()

        def trickle() -> None:
            """Send a byte of each message every second."""
            slow = [connection for _, _, _, trickles, connection in waiting if trickles]
            sent = 20
            while not stop.wait(1):
                for connection in slow:
                    try:
                        connection.sendall(b"a")
                    except OSError:
                        continue
                sent += 1

        trickling = threading.Thread(target=trickle)
        trickling.start()
        with ThreadPoolExecutor(len(waiting)) as crowd:
            ended = list(crowd.map(lambda one: ends(one[4], one[2] + LATE_SECONDS), waiting))
        stop.set()
        trickling.join()
        for (name, _, seconds, _, connection), after in zip(waiting, ended, strict=True):
            assert after < seconds + LATE_SECONDS, name
            connection.close()
    print(f"{len(waiting)} slow clients were let go after at most {max(ended):.1f} s of {monotonic() - began:.1f} s")  # noqa: T201 - a measurement
    watch.assert_was_served()
