"""Counters of the time that the stages of a request take in the crypto service, without a profiler.

A benchmark starts the service with this module: each stage's function is replaced by one that adds the time between
its begin and its end, without that of the stages within, to a file that the benchmark maps into memory as well. Such a
replacement takes time itself, which `calibrate` measures.
"""

import mmap
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson

COUNTERS = "STAGE_COUNTERS"
"""The environment variable with the path of the file."""
STAGES = ("parse", "authenticate", "limit", "decode", "find key", "seal", "journal", "encode", "write", "layers")
"""`layers` is the rest of the time between received bytes and the sent response: the order of requests, turns,
coroutines and checks."""
_CALIBRATIONS = ("function", "coroutine")
_NAMES = (*STAGES, *_CALIBRATIONS)
_FIELDS = 3
BYTES = 8 * _FIELDS * len(_NAMES)
_CALLS = 20_000
_now = time.perf_counter_ns


@dataclass(frozen=True)
class Count:
    """Nanoseconds in a stage, and its calls."""

    nanoseconds: int
    functions: int
    coroutines: int

    def since(self, earlier: "Count") -> "Count":
        return Count(
            self.nanoseconds - earlier.nanoseconds,
            self.functions - earlier.functions,
            self.coroutines - earlier.coroutines,
        )


@dataclass(frozen=True)
class Cost:
    """Nanoseconds that one counter takes within its stage, and in the stage around it."""

    within: float
    around: float


class StageCounters:
    """The numbers in a mapped file; one process writes them."""

    def __init__(self, file: Path) -> None:
        with file.open("r+b") as opened:
            self._numbers = memoryview(mmap.mmap(opened.fileno(), BYTES)).cast("q")
        self._inner = 0

    def read(self) -> dict[str, Count]:
        """Return the count of each stage."""
        return {stage: Count(*self._of(stage)) for stage in STAGES}

    def costs(self) -> tuple[Cost, Cost]:
        """Return what a counted function and a counted coroutine function cost in the process that writes."""
        function, coroutine = (
            Cost(within / calls, (whole - within) / calls) for within, calls, whole in map(self._of, _CALIBRATIONS)
        )
        return function, coroutine

    def _of(self, name: str) -> tuple[int, int, int]:
        at = _FIELDS * _NAMES.index(name)
        return self._numbers[at], self._numbers[at + 1], self._numbers[at + 2]

    def counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function` with its time in the stage `name`."""
        at, numbers = _FIELDS * _NAMES.index(name), self._numbers

        def call(*arguments: Any, **options: Any) -> Any:
            outer, self._inner = self._inner, 0
            began = _now()
            try:
                return function(*arguments, **options)
            finally:
                taken = _now() - began
                numbers[at] += taken - self._inner
                numbers[at + 1] += 1
                self._inner = outer + taken

        return call

    def awaited(self, name: str, function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """Return a coroutine function with its time in the stage `name`; it MUST not wait."""
        at, numbers = _FIELDS * _NAMES.index(name), self._numbers

        async def call(*arguments: Any, **options: Any) -> Any:
            outer, self._inner = self._inner, 0
            began = _now()
            try:
                return await function(*arguments, **options)
            finally:
                taken = _now() - began
                numbers[at] += taken - self._inner
                numbers[at + 2] += 1
                self._inner = outer + taken

        return call

    def calibrate(self) -> None:
        """Measure what a counter costs, with functions that do nothing."""

        def nothing() -> None: ...

        async def nothing_awaited() -> None: ...

        counted, awaited = self.counted("function", nothing), self.awaited("coroutine", nothing_awaited)
        for name, without, one in (
            ("function", nothing, counted),
            ("coroutine", lambda: _finish(nothing_awaited()), lambda: _finish(awaited())),
        ):
            at = _FIELDS * _NAMES.index(name)
            for offset in range(_FIELDS):
                self._numbers[at + offset] = 0
            whole = _duration(one) - _duration(without)
            within = self._numbers[at]
            self._numbers[at + 1], self._numbers[at + 2] = _CALLS, max(whole, within)


def _duration(act: Callable[[], Any]) -> int:
    began = _now()
    for _ in range(_CALLS):
        act()
    return _now() - began


def _finish(work: Awaitable[None]) -> None:
    try:
        work.__await__().send(None)
    except StopIteration:
        return


def install(file: Path) -> None:
    """Count the stages of this process in `file`."""
    import crypto_service.https.server as https  # noqa: PLC0415 - only in the process that is measured
    from crypto_service.audit.wal import WriteAheadLog  # noqa: PLC0415 - likewise
    from crypto_service.authentication import ClientCertificateAuthenticator  # noqa: PLC0415 - likewise
    from crypto_service.https import schemas  # noqa: PLC0415 - likewise
    from crypto_service.https.parser import HttpReader  # noqa: PLC0415 - likewise
    from crypto_service.keys import ciphertext  # noqa: PLC0415 - likewise
    from crypto_service.keys.key_cache import ServiceKeyCache  # noqa: PLC0415 - likewise
    from crypto_service.server.connection import Connection  # noqa: PLC0415 - likewise
    from crypto_service.server.limits import TenantLimits  # noqa: PLC0415 - likewise
    from crypto_service.server.turns import Turns  # noqa: PLC0415 - likewise

    counters = StageCounters(file)
    counters.calibrate()
    functions: tuple[tuple[Any, str, str], ...] = (
        (HttpReader, "recognise", "parse"),
        (HttpReader, "feed", "parse"),
        (ClientCertificateAuthenticator, "is_current", "authenticate"),
        (TenantLimits, "enter", "limit"),
        (TenantLimits, "leave", "limit"),
        (schemas, "parse", "decode"),
        (ServiceKeyCache, "cached", "find key"),
        (ciphertext, "seal", "seal"),
        (ciphertext, "to_text", "encode"),
        (https, "_render", "encode"),
        (Connection, "send", "write"),
        (Connection, "data_received", "layers"),
        (Turns, "_begin_iteration", "layers"),
    )
    for owner, name, stage in functions:
        setattr(owner, name, counters.counted(stage, getattr(owner, name)))
    https.__dict__["orjson"] = SimpleNamespace(dumps=counters.counted("encode", orjson.dumps))  # its own calls only
    setattr(WriteAheadLog, "write", counters.awaited("journal", WriteAheadLog.write))  # noqa: B010 - as above
