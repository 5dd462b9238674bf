"""A service that never stops asking, in a process of its own: an open loop at a fixed rate, every answer on record.

Each connection has a clock of its own. What is late is asked at once, so that the rate holds whatever the server does;
a connection that was closed is opened anew. `CLOCK_MONOTONIC` is one clock for all processes of a
machine, so a time read here can be held against one read by whoever takes the key away.
"""

import base64
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.kmip_messages import succeeded

_ROOT = Path(__file__).parents[1]
_ANSWER_SECONDS = 15.0
_RECEIVE = 65_536
_TTLV_HEADER = 8

Outcome = Literal["ok", "refused", "closed"]
"""A success; an answer that says no; no answer, because the connection was closed or not to be had."""


@dataclass(frozen=True)
class Front:
    """One way into the crypto service, and the requests that go there in turn."""

    name: str
    protocol: Literal["http", "ttlv"]
    port: int
    folder: Path
    """With `ca.pem`, `client.pem` and `client.key`."""
    requests: tuple[bytes, ...]

    def dump(self) -> dict[str, Any]:
        requests = [base64.b64encode(request).decode() for request in self.requests]
        return {**vars(self), "folder": str(self.folder), "requests": requests}

    @classmethod
    def load(cls, dumped: dict[str, Any]) -> "Front":
        requests = tuple(base64.b64decode(request) for request in dumped["requests"])
        return cls(**{**dumped, "folder": Path(dumped["folder"]), "requests": requests})


@dataclass(frozen=True)
class Answered:
    """One request: seconds of the machine's monotonic clock."""

    front: str
    sent: float
    at: float
    outcome: Outcome


class Steady:
    """What the process has seen so far; `new` returns what came since it was asked last."""

    def __init__(self, file: Path) -> None:
        self._file = file.open(encoding="ascii")
        self._rest = ""

    def new(self) -> list[Answered]:
        *lines, self._rest = (self._rest + self._file.read()).split("\n")
        return [_parsed(line) for line in lines]

    def close(self) -> None:
        self._file.close()


@contextmanager
def asking(fronts: Sequence[Front], rate: float, connections: int, file: Path) -> Iterator[Steady]:
    """Ask `rate` times a second in all over `connections` to each front, until the block ends."""
    process = _start(fronts, file, {"rate": rate, "connections": connections})
    seen = Steady(file)
    try:
        while file.stat().st_size == 0 and process.poll() is None:
            time.sleep(0.05)
        yield seen
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(2 * _ANSWER_SECONDS)
        seen.close()


def ask_fast(fronts: Sequence[Front], times: int, connections: int, file: Path) -> list[Answered]:
    """Ask each front `times` times as fast as it answers, and return what came of it."""
    process = _start(fronts, file, {"times": times, "connections": connections})
    process.communicate()
    seen = Steady(file)
    try:
        return seen.new()
    finally:
        seen.close()


def _start(fronts: Sequence[Front], file: Path, how: dict[str, Any]) -> "subprocess.Popen[bytes]":
    with file.open("wb") as output:
        # A session of its own shares its part of the processors with nothing else of the benchmark (autogroup).
        process = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=output, cwd=_ROOT, start_new_session=True
        )
    assert process.stdin is not None
    process.stdin.write(json.dumps({**how, "fronts": [front.dump() for front in fronts]}).encode() + b"\n")
    process.stdin.flush()
    return process


def _parsed(line: str) -> Answered:
    front, sent, at, outcome = line.split()
    return Answered(front, float(sent), float(at), outcome)  # type: ignore[arg-type]  # what `_main` wrote


# ── the process ──────────────────────────────────────────────────────────────────────────────────────────────────────


class _Connection:
    """Opened when it is needed."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._tls = ssl.create_default_context(cafile=front.folder / "ca.pem")
        self._tls.load_cert_chain(front.folder / "client.pem", front.folder / "client.key")
        self._open: ssl.SSLSocket | None = None
        self._turn = 0

    def ask(self) -> Outcome:
        request = self._front.requests[self._turn % len(self._front.requests)]
        self._turn += 1
        kept = self._open is not None
        outcome = self._once(request)
        # What was closed meanwhile, as it may be, says nothing about this request.
        return self._once(request) if outcome == "closed" and kept else outcome

    def _once(self, request: bytes) -> Outcome:
        try:
            if self._open is None:
                plain = socket.create_connection(("127.0.0.1", self._front.port), timeout=_ANSWER_SECONDS)
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._open = self._tls.wrap_socket(plain, server_hostname="localhost")
            self._open.sendall(request)
            return self._http() if self._front.protocol == "http" else self._ttlv()
        except OSError:  # ssl.SSLError is one
            if self._open is not None:
                self._open.close()
            self._open = None
            return "closed"

    def _http(self) -> Outcome:
        head, _, body = self._until(lambda data: b"\r\n\r\n" in data).partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        missing = int(fields.get(b"content-length", b"0")) - len(body)
        if missing > 0:
            self._until(lambda data: len(data) >= missing)
        return "ok" if head.split(b" ")[1] == b"200" else "refused"

    def _ttlv(self) -> Outcome:
        answer = self._until(
            lambda data: len(data) >= _TTLV_HEADER and len(data) >= _TTLV_HEADER + int.from_bytes(data[4:_TTLV_HEADER])
        )
        return "ok" if succeeded(answer) else "refused"

    def _until(self, enough: Callable[[bytes], bool]) -> bytes:
        assert self._open is not None
        data = b""
        while not enough(data):
            received = self._open.recv(_RECEIVE)
            if not received:
                raise ConnectionResetError
            data += received
        return data


def _never_wait_for_a_processor() -> None:
    """Go before everything on this machine, where that is allowed: whoever asks stands for another machine.

    What is asked now and then takes little; who asks as fast as it can does not do this.
    """
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


def _main() -> None:
    wanted = json.loads(sys.stdin.readline())
    if "rate" in wanted:
        _never_wait_for_a_processor()
    fronts, each = [Front.load(front) for front in wanted["fronts"]], wanted["connections"]
    lock, stop = threading.Lock(), threading.Event()

    def ask(front: Front, connection: _Connection) -> None:
        sent = time.monotonic()
        outcome = connection.ask()
        line = f"{front.name} {sent:.6f} {time.monotonic():.6f} {outcome}\n"
        with lock, suppress(BrokenPipeError):
            sys.stdout.write(line)
            sys.stdout.flush()

    def steadily(front: Front, number: int) -> None:
        pause = len(fronts) * each / wanted["rate"]
        connection, due = _Connection(front), time.monotonic() + pause * number / each
        while not stop.wait(max(0.0, due - time.monotonic())):
            ask(front, connection)
            due += pause

    def fast(front: Front, number: int) -> None:
        connection = _Connection(front)
        for _ in range(wanted["times"] // each + (number < wanted["times"] % each)):
            ask(front, connection)

    work = steadily if "rate" in wanted else fast
    threads = [threading.Thread(target=work, args=(front, number)) for front in fronts for number in range(each)]
    for thread in threads:
        thread.start()
    if "rate" in wanted:
        sys.stdin.read()  # its end is the end of the work
        stop.set()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    _main()
