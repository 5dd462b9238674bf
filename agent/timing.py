"""When to look for the next certificate, and how long to wait after what failed; pure.

The platform makes the next certificate when two thirds of the present one's life are over. From then on it is looked
for, 60 times in the last third and at least every five minutes, whatever the answers are: nothing ever gives up while
there is life left, and nothing asks more often than that, whatever a clock says.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

from cryptography import x509

_RENEWED_AFTER = 2 / 3
_LOOKS = 60
_SHORTEST, _LONGEST = 0.5, 300.0
Chance = Callable[[], float]
"""A number from 0 to 1, drawn anew at each call."""


def life(leaf: x509.Certificate) -> timedelta:
    return leaf.not_valid_after_utc - leaf.not_valid_before_utc


def until_renewal(leaf: x509.Certificate, now: datetime, chance: Chance) -> float:
    """Return the seconds until the next certificate is there to be looked for; not all agents at the same moment."""
    due = leaf.not_valid_before_utc + life(leaf) * _RENEWED_AFTER
    return max(0.0, (due - now).total_seconds()) + between_looks(leaf) * chance()


def between_looks(leaf: x509.Certificate) -> float:
    """Return the seconds from one look to the next in the last third."""
    third = life(leaf).total_seconds() * (1 - _RENEWED_AFTER)
    return min(max(third / _LOOKS, _SHORTEST), _LONGEST)


def remaining(leaf: x509.Certificate, now: datetime) -> timedelta:
    return leaf.not_valid_after_utc - now


class Backoff:
    """Waits that double from a second to `longest`, each shortened by up to half so that many do not come together."""

    def __init__(self, longest: float, chance: Chance, first: float = 1.0) -> None:
        self._longest, self._chance, self._first = longest, chance, first
        self._failures = 0

    @property
    def failing(self) -> bool:
        return self._failures > 0

    def next(self, longest: float | None = None, asked: float = 0.0) -> float:
        """Return how long to wait after one more failure, at least as long as was `asked` for."""
        self._failures += 1
        most = self._longest if longest is None else min(self._longest, longest)
        wait = min(most, self._first * 2.0 ** min(self._failures - 1, 30))
        return max(asked, wait * (0.5 + self._chance() / 2))

    def succeeded(self) -> None:
        self._failures = 0
