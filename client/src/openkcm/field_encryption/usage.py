"""Usage reports: the encryption and decryption of the program and its cost, reported every half minute.

Reports contain sums only: for each place the number of values, their bytes and time, and the time of the whole requests
in which they occurred. A separate thread reports the differences since its last report, so a statement costs the
program a few additions. The last report is at the end of the process; a killed process loses the values since the one
before. While the crypto service is unreachable, no count is lost.
"""

import atexit
import logging
import os
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from openkcm.contract.services import HEARTBEAT_SECONDS, OTHER_PLACES

PLAIN = "#plain"
"""Suffix of the place that counts values which were read unencrypted."""

_FIRST_SECONDS = 5.0
"""Soon after the start, so that an administrator who connects a service sees it."""
_SECONDS = (5.0, 300.0)
_ENDING_SECONDS = 1.0
"""Maximum time for which the end of the program waits for the last report."""
_PLACES_PER_REPORT = 500
"""Maximum number of places in one report to the crypto service."""
_MAX_COUNTERS = 2000
_LONGEST = 180
"""Maximum number of characters of a place, which leaves room for a suffix."""

Report = Callable[[list[dict[str, Any]]], float]
"""Sends sums and returns the seconds until the next report; raises any error."""

log = logging.getLogger("openkcm")


def place(store: str, *names: str) -> str:
    """Return the name of a column or field: `postgresql:public.patients.diagnosis`."""
    name = f"{store}:{'.'.join(names)}"
    return "".join(c if c.isprintable() else "?" for c in name[:_LONGEST])


class UsageCounter:
    """Sums since the start of the process for statements on exactly these columns.

    Additions take no lock. CPython does not switch threads within such an addition; if it did, only a count would be
    lost. Times are those of all places together and are reported in equal shares, so that sums over places are sums
    over requests.
    """

    __slots__ = ("bytes", "nanoseconds", "operations", "places", "request_nanoseconds", "requests")

    def __init__(self, places: tuple[str, ...]) -> None:
        self.places = places
        self.operations, self.bytes = [0] * len(places), [0] * len(places)
        self.nanoseconds = self.requests = self.request_nanoseconds = 0

    def sums(self) -> Iterator[tuple[str, list[int]]]:
        """Yield for each place operations, bytes, nanoseconds, requests and their nanoseconds."""
        share = len(self.places) or 1  # no places: a statement that only generates its ids
        spent, requests, lasted = self.nanoseconds // share, self.requests, self.request_nanoseconds // share
        for name, operations, size in zip(self.places, self.operations, self.bytes, strict=True):
            yield name, [operations, size, spent, requests, lasted]


class UsageReporter:
    """The sums of this process; thread-safe and fork-safe: a child reports its own sums."""

    def __init__(self, report: Report, first_seconds: float = _FIRST_SECONDS) -> None:
        self._report, self._first_seconds = report, first_seconds
        self._counters: dict[tuple[str, ...], UsageCounter] = {}
        self._reported: Mapping[str, Sequence[int]] = {}
        self._logged = False
        self._thread: threading.Thread | None = None
        self.awake = False
        """Whether this process has a report thread; a caller that counts starts it with `wake`."""
        self._begin()
        atexit.register(self._end)
        os.register_at_fork(after_in_child=self._reset_after_fork)

    def counter(self, places: Sequence[str]) -> UsageCounter:
        """Return the counter for these places; the same object for the same places."""
        key = tuple(places)
        found = self._counters.get(key)
        if found is None:
            if len(self._counters) >= _MAX_COUNTERS:
                key = (OTHER_PLACES,) * len(key)
            found = self._counters.setdefault(key, UsageCounter(key))
        return found

    def plain(self, place: str, number: int) -> None:
        """Count values of one place that were read unencrypted."""
        self.counter((place + PLAIN,)).operations[0] += number
        if not self.awake:
            self.wake()

    def request(self, done: Mapping[str, Sequence[int]], spent: int, lasted: int) -> None:
        """Count a request of the application: values and bytes by place, and nanoseconds of encryption and in total."""
        found = self.counter(tuple(done))
        for at, (operations, size) in enumerate(done.values()):
            found.operations[at] += operations
            found.bytes[at] += size
        found.nanoseconds += spent
        found.requests += 1
        found.request_nanoseconds += lasted
        if not self.awake:
            self.wake()

    def wake(self) -> None:
        """Start the report thread of this process."""
        with self._lock:
            if self.awake:
                return
            self.awake = True
            thread = threading.Thread(target=self._run, args=(self._ending,), name="openkcm-uses", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return  # no thread is available, or the process ends: nothing is reported
            self._thread = thread

    def _begin(self) -> None:
        self._lock, self._ending, self._thread = threading.Lock(), threading.Event(), None

    def _reset_after_fork(self) -> None:
        """Start from the parent's sums, which the parent itself reports."""
        self._begin()
        self.awake, self._reported = False, self._sums()

    def _end(self) -> None:
        self._ending.set()
        if self._thread is not None:
            self._thread.join(_ENDING_SECONDS)

    def _run(self, ending: threading.Event) -> None:
        chance = random.Random()  # noqa: S311 - spreads load, no security purpose; keeps the program's own random state
        seconds = self._first_seconds
        while not ending.wait(seconds * chance.uniform(0.9, 1.1)):
            seconds = self._report_new()
        self._report_new()

    def _report_new(self) -> float:
        seconds = float(HEARTBEAT_SECONDS)
        try:
            now = self._sums()
            claims = list(_claims(now, self._reported))
            for first in range(0, len(claims), _PLACES_PER_REPORT):
                part = claims[first : first + _PLACES_PER_REPORT]
                seconds = self._report(part)
                self._reported = {**self._reported, **{one["place"]: now[one["place"]] for one in part}}
        except Exception as failed:  # noqa: BLE001 - no error may reach the application
            if not self._logged:
                self._logged = True
                log.info("usage report failed: %s", type(failed).__name__)
        return min(max(seconds, _SECONDS[0]), _SECONDS[1])

    def _sums(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for one in list(self._counters.values()):
            for name, sums in one.sums():
                known = found.get(name)
                found[name] = sums if known is None else [old + new for old, new in zip(known, sums, strict=True)]
        return found


def _claims(now: Mapping[str, Sequence[int]], reported: Mapping[str, Sequence[int]]) -> Iterator[dict[str, Any]]:
    """Yield the differences of each place; rounding loses no microseconds between two reports."""
    for name, sums in now.items():
        old = reported.get(name, (0, 0, 0, 0, 0))
        if sums != old:
            yield {
                "place": name,
                "operations": sums[0] - old[0],
                "bytes": sums[1] - old[1],
                "microseconds": sums[2] // 1000 - old[2] // 1000,
                "requests": sums[3] - old[3],
                "request_microseconds": sums[4] // 1000 - old[4] // 1000,
            }
