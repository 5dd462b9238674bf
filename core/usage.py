"""How long requests took, counted in a fixed row of buckets, and what may be said of them from that.

Forty buckets from 16 µs to 8.4 s, each wider than the one before by the square root of two. Fixed, so that the counts
of any days, services and processes add up; log-spaced, because a key in memory answers in some 30 µs and one that has
to be opened in some 30 ms, and both matter. A percentile is given as its bucket's upper end: that many were answered
within this time, for certain, and the exact value is at most 29 % below it. Powers of two would leave 50 %.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

BOUNDS = tuple(round(16 * 2 ** (step / 2)) for step in range(39))
"""Upper ends of the buckets in microseconds, each in its bucket; the last bucket has none."""
BUCKETS = len(BOUNDS) + 1


def bucket(microseconds: int) -> int:
    """Return the number of the bucket, from 0."""
    return bisect_left(BOUNDS, microseconds)


@dataclass(frozen=True, slots=True)
class Latency:
    """`counts` by bucket, and the sum of all times; requests that nobody timed are in neither."""

    counts: tuple[int, ...] = (0,) * BUCKETS
    microseconds: int = 0

    @property
    def timed(self) -> int:
        """How many requests this tells of."""
        return sum(self.counts)

    def average(self) -> float | None:
        """Return the exact mean in microseconds, None when nothing was timed."""
        timed = self.timed
        return self.microseconds / timed if timed else None

    def within(self, percent: int) -> float | None:
        """Return the microseconds within which `percent` (1 to 100) of the requests were answered, None without any.

        Infinity when that is in the last bucket: longer than anything the buckets tell apart.
        """
        timed = self.timed
        if not timed:
            return None
        reached = next(number for number, sofar in enumerate(accumulate(self.counts)) if 100 * sofar >= percent * timed)
        return BOUNDS[reached] if reached < len(BOUNDS) else float("inf")


def together(parts: Sequence[Latency]) -> Latency:
    """Return what several tell together."""
    if not parts:
        return Latency()
    columns = zip(*(part.counts for part in parts), strict=True)
    return Latency(tuple(map(sum, columns)), sum(part.microseconds for part in parts))
