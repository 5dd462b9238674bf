"""What the program encrypts and decrypts and how long that takes, told to the crypto service every half minute.

Sums only: how many values of a place, how many bytes, how long it took, and how long the requests took as a whole in
which it happened. They are kept since the process began, and told as what has come since the last time, by a thread of
their own; what that costs the program are a few additions for a statement. Told again at the end of the process; one
that is killed loses what came since the last time. While the crypto service is away nothing is lost and nothing said.
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
"""Ends the place where values are counted that were read unencrypted."""

_FIRST_SECONDS = 5.0
"""Soon, so that whoever connects a service sees it."""
_SECONDS = (5.0, 300.0)
_ENDING_SECONDS = 1.0
"""The longest that the end of the program waits for the last telling."""
_AT_ONCE = 500
"""Places that the crypto service takes at once."""
_MOST = 2000
_LONGEST = 180
"""Characters of a place, which leaves room for an ending."""

Tell = Callable[[list[dict[str, Any]]], float]
"""Tells sums, and returns after how many seconds to tell again; raises whatever keeps it from that."""

log = logging.getLogger("openkcm")


def place(store: str, *names: str) -> str:
    """Return what a column or field is called: `postgresql:public.patients.diagnosis`."""
    name = f"{store}:{'.'.join(names)}"
    return "".join(c if c.isprintable() else "?" for c in name[:_LONGEST])


class UsageCounter:
    """What was done at some places together since the process began: by statements on exactly these columns.

    It is added to without a lock. CPython changes threads at no point of such an addition; where it did, a count would
    be lost and nothing else. Times are of all places together, and told in equal shares, so that sums over places are
    sums over requests.
    """

    __slots__ = ("bytes", "nanoseconds", "operations", "places", "request_nanoseconds", "requests")

    def __init__(self, places: tuple[str, ...]) -> None:
        self.places = places
        self.operations, self.bytes = [0] * len(places), [0] * len(places)
        self.nanoseconds = self.requests = self.request_nanoseconds = 0

    def sums(self) -> Iterator[tuple[str, list[int]]]:
        """Yield for each place operations, bytes, nanoseconds, requests and their nanoseconds."""
        share = len(self.places) or 1  # none where a statement only has its ids made
        spent, requests, lasted = self.nanoseconds // share, self.requests, self.request_nanoseconds // share
        for name, operations, size in zip(self.places, self.operations, self.bytes, strict=True):
            yield name, [operations, size, spent, requests, lasted]


class UsageReporter:
    """The sums of this process; safe to use from several threads, and after a fork, whose child tells its own."""

    def __init__(self, tell: Tell, first_seconds: float = _FIRST_SECONDS) -> None:
        self._tell, self._first_seconds = tell, first_seconds
        self._tallies: dict[tuple[str, ...], UsageCounter] = {}
        self._told: Mapping[str, Sequence[int]] = {}
        self._said = False
        self._thread: threading.Thread | None = None
        self.awake = False
        """Whether a thread of this process tells; whoever counts calls `wake` where none does."""
        self._begin()
        atexit.register(self._end)
        os.register_at_fork(after_in_child=self._forked)

    def tally(self, places: Sequence[str]) -> UsageCounter:
        """Return where to count what is done at these places together; the same one for the same places."""
        key = tuple(places)
        found = self._tallies.get(key)
        if found is None:
            if len(self._tallies) >= _MOST:
                key = (OTHER_PLACES,) * len(key)
            found = self._tallies.setdefault(key, UsageCounter(key))
        return found

    def note(self, place: str, operations: int, size: int, nanoseconds: int) -> None:
        """Count what was encrypted and decrypted at one place."""
        found = self.tally((place,))
        found.operations[0] += operations
        found.bytes[0] += size
        found.nanoseconds += nanoseconds
        if not self.awake:
            self.wake()

    def request(self, places: Sequence[str], nanoseconds: int) -> None:
        """Count a request of the application, with all that `note` counted of it."""
        found = self.tally(places)
        found.requests += 1
        found.request_nanoseconds += nanoseconds
        if not self.awake:
            self.wake()

    def wake(self) -> None:
        """Have a thread of this process tell from now on."""
        with self._lock:
            if self.awake:
                return
            self.awake = True
            thread = threading.Thread(target=self._run, args=(self._ending,), name="openkcm-uses", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return  # no more threads, or the process ends: then nothing is told
            self._thread = thread

    def _begin(self) -> None:
        self._lock, self._ending, self._thread = threading.Lock(), threading.Event(), None

    def _forked(self) -> None:
        """Begin anew from the parent's sums, which are the parent's to tell."""
        self._begin()
        self.awake, self._told = False, self._sums()

    def _end(self) -> None:
        self._ending.set()
        if self._thread is not None:
            self._thread.join(_ENDING_SECONDS)

    def _run(self, ending: threading.Event) -> None:
        chance = random.Random()  # noqa: S311 - spreads load, guards nothing; the program's own numbers stay as they are
        seconds = self._first_seconds
        while not ending.wait(seconds * chance.uniform(0.9, 1.1)):
            seconds = self._tell_what_came()
        self._tell_what_came()

    def _tell_what_came(self) -> float:
        seconds = float(HEARTBEAT_SECONDS)
        try:
            now = self._sums()
            claims = list(_claims(now, self._told))
            for first in range(0, len(claims), _AT_ONCE):
                part = claims[first : first + _AT_ONCE]
                seconds = self._tell(part)
                self._told = {**self._told, **{one["place"]: now[one["place"]] for one in part}}
        except Exception as failed:  # noqa: BLE001 - whatever it is, it is not the application's to know
            if not self._said:
                self._said = True
                log.info("what is encrypted here is not told for now: %s", type(failed).__name__)
        return min(max(seconds, _SECONDS[0]), _SECONDS[1])

    def _sums(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for one in list(self._tallies.values()):
            for name, sums in one.sums():
                known = found.get(name)
                found[name] = sums if known is None else [old + new for old, new in zip(known, sums, strict=True)]
        return found


def _claims(now: Mapping[str, Sequence[int]], told: Mapping[str, Sequence[int]]) -> Iterator[dict[str, Any]]:
    """Yield what came at each place; of its microseconds none is lost between two tellings."""
    for name, sums in now.items():
        old = told.get(name, (0, 0, 0, 0, 0))
        if sums != old:
            yield {
                "place": name,
                "operations": sums[0] - old[0],
                "bytes": sums[1] - old[1],
                "microseconds": sums[2] // 1000 - old[2] // 1000,
                "requests": sums[3] - old[3],
                "request_microseconds": sums[4] // 1000 - old[4] // 1000,
            }
