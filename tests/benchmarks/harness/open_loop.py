"""Load of a service in a separate process: an open loop at a fixed rate, with a record of every response.

Each connection has its own schedule. A late request is sent at once, so that the rate does not depend on the server; a
closed connection is opened again. `CLOCK_MONOTONIC` is one clock for all processes of a machine, so these times are
comparable with those of the process that disables the key.
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

from tests.benchmarks.harness.kmip_messages import succeeded

_ROOT = Path(__file__).parents[3]
_ANSWER_SECONDS = 15.0
_PRIORITY = 10
_RECEIVE = 65_536
_TTLV_HEADER = 8

Outcome = Literal["ok", "refused", "closed"]
"""A success; an error response; no response, because the connection was closed or could not be opened."""


@dataclass(frozen=True)
class Listener:
    """A listener of the crypto service, and its requests in turn."""

    name: str
    protocol: Literal["http", "ttlv"]
    port: int
    folder: Path
    """Contains `ca.pem`, `client.pem` and `client.key`."""
    requests: tuple[bytes, ...]

    def dump(self) -> dict[str, Any]:
        requests = [base64.b64encode(request).decode() for request in self.requests]
        return {**vars(self), "folder": str(self.folder), "requests": requests}

    @classmethod
    def load(cls, dumped: dict[str, Any]) -> "Listener":
        requests = tuple(base64.b64decode(request) for request in dumped["requests"])
        return cls(**{**dumped, "folder": Path(dumped["folder"]), "requests": requests})


@dataclass(frozen=True)
class Answered:
    """One request; times are seconds of the machine's monotonic clock."""

    listener: str
    sent: float
    at: float
    outcome: Outcome


class Steady:
    """The results of the process so far; `new` returns those since its last call."""

    def __init__(self, file: Path) -> None:
        self._file = file.open(encoding="ascii")
        self._rest = ""

    def new(self) -> list[Answered]:
        *lines, self._rest = (self._rest + self._file.read()).split("\n")
        return [_parsed(line) for line in lines]

    def close(self) -> None:
        self._file.close()


@contextmanager
def asking(listeners: Sequence[Listener], rate: float, connections: int, file: Path) -> Iterator[Steady]:
    """Send `rate` requests per second in total over `connections` to each listener, until the block ends."""
    process = _start(listeners, file, {"rate": rate, "connections": connections})
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


def ask_fast(listeners: Sequence[Listener], times: int, connections: int, file: Path) -> list[Answered]:
    """Send `times` requests to each listener without pauses, and return the results."""
    process = _start(listeners, file, {"times": times, "connections": connections})
    process.communicate()
    seen = Steady(file)
    try:
        return seen.new()
    finally:
        seen.close()


def _start(listeners: Sequence[Listener], file: Path, how: dict[str, Any]) -> "subprocess.Popen[bytes]":
    with file.open("wb") as output:
        # A new session has a separate share of the processors (autogroup of the scheduler).
        process = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=output, cwd=_ROOT, start_new_session=True
        )
    assert process.stdin is not None
    process.stdin.write(json.dumps({**how, "listeners": [listener.dump() for listener in listeners]}).encode() + b"\n")
    process.stdin.flush()
    return process


def _parsed(line: str) -> Answered:
    listener, sent, at, outcome = line.split()
    return Answered(listener, float(sent), float(at), outcome)  # type: ignore[arg-type]  # written by `_main`


# ── the process ──────────────────────────────────────────────────────────────────────────────────────────────────────


class _Connection:
    """A connection that is opened when it is needed."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._tls = ssl.create_default_context(cafile=listener.folder / "ca.pem")
        self._tls.load_cert_chain(listener.folder / "client.pem", listener.folder / "client.key")
        self._open: ssl.SSLSocket | None = None
        self._turn = 0

    def ask(self) -> Outcome:
        request = self._listener.requests[self._turn % len(self._listener.requests)]
        self._turn += 1
        kept = self._open is not None
        outcome = self._once(request)
        # A kept connection may have been closed meanwhile, which is no result of this request: repeat it.
        return self._once(request) if outcome == "closed" and kept else outcome

    def _once(self, request: bytes) -> Outcome:
        try:
            if self._open is None:
                plain = socket.create_connection(("127.0.0.1", self._listener.port), timeout=_ANSWER_SECONDS)
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._open = self._tls.wrap_socket(plain, server_hostname="localhost")
            self._open.sendall(request)
            return self._http() if self._listener.protocol == "http" else self._ttlv()
        except OSError:  # includes ssl.SSLError
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


def _use_realtime_priority() -> None:
    """Run with a priority above the service's where permitted: this process represents another machine.

    An open loop needs little CPU; a closed loop (`ask_fast`) does not do this.
    """
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(_PRIORITY))


def _main() -> None:
    wanted = json.loads(sys.stdin.readline())
    if "rate" in wanted:
        _use_realtime_priority()
    listeners, each = [Listener.load(listener) for listener in wanted["listeners"]], wanted["connections"]
    lock, stop = threading.Lock(), threading.Event()

    def ask(listener: Listener, connection: _Connection) -> None:
        sent = time.monotonic()
        outcome = connection.ask()
        line = f"{listener.name} {sent:.6f} {time.monotonic():.6f} {outcome}\n"
        with lock, suppress(BrokenPipeError):
            sys.stdout.write(line)
            sys.stdout.flush()

    def steadily(listener: Listener, number: int) -> None:
        pause = len(listeners) * each / wanted["rate"]
        connection, due = _Connection(listener), time.monotonic() + pause * number / each
        while not stop.wait(max(0.0, due - time.monotonic())):
            ask(listener, connection)
            due += pause

    def fast(listener: Listener, number: int) -> None:
        connection = _Connection(listener)
        for _ in range(wanted["times"] // each + (number < wanted["times"] % each)):
            ask(listener, connection)

    work = steadily if "rate" in wanted else fast
    threads = [
        threading.Thread(target=work, args=(listener, number)) for listener in listeners for number in range(each)
    ]
    for thread in threads:
        thread.start()
    if "rate" in wanted:
        sys.stdin.read()  # until the parent closes it
        stop.set()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    _main()
