"""Latency histogram of requests with fixed buckets, and its statistics.

Forty buckets from 16 µs to 8.4 s, each wider than the previous one by the square root of two. They are fixed, so that
counts of different days, services and processes can be added. They are log-spaced, because a request takes about 30 µs
with a key in memory and about 30 ms with a key that must be unwrapped. A percentile is the upper end of its bucket: an
upper bound, at most 29 % above the exact value. Powers of two would give 50 %.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

BOUNDS = tuple(round(16 * 2 ** (step / 2)) for step in range(39))
"""Upper ends of the buckets in microseconds, inclusive; the last bucket has none."""
BUCKETS = len(BOUNDS) + 1


def bucket(microseconds: int) -> int:
    """Return the index of the bucket, from 0."""
    return bisect_left(BOUNDS, microseconds)


@dataclass(frozen=True, slots=True)
class Latency:
    """Counts by bucket and the sum of all durations; requests without a measured duration are in neither."""

    counts: tuple[int, ...] = (0,) * BUCKETS
    microseconds: int = 0

    @property
    def timed(self) -> int:
        """Number of measured requests."""
        return sum(self.counts)

    def average(self) -> float | None:
        """Return the exact mean in microseconds, None without measured requests."""
        timed = self.timed
        return self.microseconds / timed if timed else None

    def within(self, percent: int) -> float | None:
        """Return the percentile `percent` (1 to 100) in microseconds, None without measured requests.

        Infinity if the percentile is in the last bucket, which has no upper end.
        """
        timed = self.timed
        if not timed:
            return None
        reached = next(number for number, sofar in enumerate(accumulate(self.counts)) if 100 * sofar >= percent * timed)
        return BOUNDS[reached] if reached < len(BOUNDS) else float("inf")


def together(parts: Sequence[Latency]) -> Latency:
    """Return the sum of several histograms."""
    if not parts:
        return Latency()
    columns = zip(*(part.counts for part in parts), strict=True)
    return Latency(tuple(map(sum, columns)), sum(part.microseconds for part in parts))
