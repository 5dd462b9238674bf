"""Slow clients are disconnected and oversized messages rejected, while other clients of the running stack are served.

Each framing rule has a test in tests/crypto_service/https and tests/crypto_service/kmip. These tests verify the
deployed limits: the deadlines and the memory of the serving processes, on both ports at the same time.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from socket import create_connection, socket
from time import monotonic
from typing import Self
from uuid import uuid4

import pytest

from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import ItemType
from tests.crypto_service.https.wire import RECEIVE
from tests.e2e.clients import OK, Program, data_key, get, start_program
from tests.e2e.connected import Service, connect
from tests.e2e.outages import children_of
from tests.e2e.stack import Stack
from tests.e2e.wires import host_and_port

EACH = 12
"""Connections of each slow kind on each port."""
HANDSHAKE_SECONDS, MESSAGE_SECONDS = 10, 30
LATE_SECONDS = 30
"""Additional time for a loaded machine."""
GROWTH_KIB = 65_536
FEWEST_ANSWERS = 10


@pytest.fixture
def healthy(stack: Stack, tenant: str, tmp_path: Path) -> Program:
    return start_program(stack, tenant, tmp_path, f"healthy-{uuid4().hex[:8]}")  # a name gets no second key


@pytest.fixture
def hostile(stack: Stack, tenant: str, tmp_path: Path) -> Service:
    return connect(stack, tenant, "microservice", f"hostile-{uuid4().hex[:8]}", tmp_path / "hostile")


class HealthyClient:
    """Sends requests on both ports until the block ends; every response must be a success."""

    def __init__(self, program: Program) -> None:
        self._program, self._stop = program, threading.Event()
        self._answers: list[str] = []
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._program.hang_up()
        assert set(self._answers) == {OK}

    def _ask(self) -> None:
        while len(self._answers) < FEWEST_ANSWERS or not self._stop.wait(0.01):
            self._answers += self._program.probe("data key", "Get").values()
            if len(self._answers) % 50 == 0:
                self._program.hang_up()  # new connections must be accepted as well


def _item(tag: int, kind: int, length: int) -> bytes:
    return tag.to_bytes(3) + bytes([kind]) + length.to_bytes(4)


_REQUEST = _item(Tag.REQUEST_MESSAGE, ItemType.STRUCTURE, 0)[:4]
_NESTED = b"".join(_item(Tag.REQUEST_MESSAGE, ItemType.STRUCTURE, 8 * level) for level in reversed(range(120_000)))
_HEAD = b"POST /v1/encrypt HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
OVERSIZED_MESSAGES = [
    ("kmip", _REQUEST + b"\xff\xff\xff\xf8" + bytes(64), ""),
    ("kmip", _REQUEST + (16).to_bytes(4) + _item(Tag.REQUEST_HEADER, 1, 2**32 - 8) + bytes(8), ""),
    ("kmip", _NESTED, ""),
    ("kmip", bytes(4096), ""),
    ("https", _HEAD + b"content-length: 1000000000000000\r\n\r\n{", "413"),
    ("https", _HEAD + b"transfer-encoding: chunked\r\n\r\nffffffff\r\n" + bytes(1_100_000), "413"),
    ("https", _HEAD + b"x: " + b"x" * 1_000_000 + b"\r\n\r\n", "431"),
    ("https", _HEAD + b"content-length: 200000\r\n\r\n" + b"[" * 200_000, "400"),
]
"""Port, message, and status of the response; on KMIP the connection closes without a response."""


def memory_of(stack: Stack) -> int:
    """Return the memory of the largest serving process in KiB."""
    pages = (Path(f"/proc/{pid}/statm").read_text(encoding="ascii") for pid in children_of(stack.pids()["crypto"]))
    return max(int(one.split()[1]) for one in pages) * 4


def status_of(service: Service, port: str, message: bytes) -> str:
    """Return the status of the response to a message; empty if the connection closes without a response."""
    with service.open(service.answer[port]) as connection:
        connection.settimeout(LATE_SECONDS)
        try:
            connection.sendall(message)
            return connection.recv(RECEIVE)[9:12].decode("latin-1")
        except TimeoutError:
            return "silence"
        except OSError:  # the connection closed before the message was sent completely
            return ""


def test_oversized_messages_are_rejected_and_take_no_memory(stack, healthy, hostile):
    for port, message, _ in OVERSIZED_MESSAGES:
        status_of(hostile, port, message)
    before = memory_of(stack)
    many = OVERSIZED_MESSAGES * 10
    with HealthyClient(healthy), ThreadPoolExecutor(4) as pool:
        for (port, message, wanted), status in zip(
            many, pool.map(lambda one: status_of(hostile, one[0], one[1]), many), strict=True
        ):
            # A client that is rejected while it sends may get a reset instead of a response.
            assert status == wanted or (not status and len(message) > RECEIVE), (port, message[:40])
    assert memory_of(stack) - before < GROWTH_KIB


def seconds_until_end(connection: socket, seconds: float) -> float:
    """Return the seconds until the other side closes the connection; infinity if it does not."""
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


def test_slow_clients_are_disconnected_and_others_are_served(healthy, hostile):
    """A client sends nothing, half a message, or one byte per second, which does not extend the deadline."""
    whole = {"https": data_key("record/1"), "kmip": get(healthy.object_id)}

    def dial(port: str, kind: str) -> socket:
        address = hostile.answer[port]
        if kind == "nothing":
            return create_connection(host_and_port(address), timeout=LATE_SECONDS)
        connection = hostile.open(address)
        connection.sendall(whole[port][:20])
        return connection

    kinds = {"nothing": HANDSHAKE_SECONDS, "half a message": MESSAGE_SECONDS, "byte by byte": MESSAGE_SECONDS}
    with HealthyClient(healthy):
        waiting = [(kind, dial(port, kind)) for port in whole for kind in kinds for _ in range(EACH)]
        stop = threading.Event()

        def trickle() -> None:
            slow = [connection for kind, connection in waiting if kind == "byte by byte"]
            while not stop.wait(1):
                for connection in slow:
                    try:
                        connection.sendall(b"a")
                    except OSError:
                        continue

        trickling = threading.Thread(target=trickle)
        trickling.start()
        with ThreadPoolExecutor(len(waiting)) as pool:
            ended = list(pool.map(lambda one: seconds_until_end(one[1], kinds[one[0]] + LATE_SECONDS), waiting))
        stop.set()
        trickling.join()
    for (kind, connection), after in zip(waiting, ended, strict=True):
        connection.close()
        assert after < kinds[kind] + LATE_SECONDS, kind
