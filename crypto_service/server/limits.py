"""What one tenant may take of one process: a rate of requests, and places for those being worked on.

Each tenant has a bucket and places of its own and nothing is shared between them, so a tenant at its limit is refused
at once and slows nobody else. The numbers are per process: with n processes a tenant may reach n times as much.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from core.errors.requests import TooManyRequests


@dataclass(slots=True)
class _Share:
    tokens: float
    filled_at: float
    taken_places: int = 0


class TenantLimits:
    """One entry for each tenant that ever got past its certificate check, of a few hundred bytes; none is dropped."""

    def __init__(self, rate: int, places: int, now: Callable[[], float] = time.monotonic) -> None:
        """Take requests a second, with bursts of one second, and how many may be worked on at once."""
        self._rate, self._places, self._now = float(rate), places, now
        self._shares: dict[str, _Share] = {}
        self.refused = 0

    def enter(self, tenant_id: str, cost: int = 1) -> None:
        """Take `cost` from the rate and one place; raises TooManyRequests.

        A cost above the whole burst waits for a full bucket and leaves a debt, or it could never be paid.
        """
        now = self._now()
        share = self._shares.get(tenant_id)
        if share is None:
            share = self._shares[tenant_id] = _Share(self._rate, now)
        tokens = share.tokens = min(self._rate, share.tokens + (now - share.filled_at) * self._rate)
        share.filled_at = now
        if share.taken_places >= self._places or (tokens < cost and tokens < self._rate):
            self.refused += 1
            raise TooManyRequests
        share.tokens = tokens - cost
        share.taken_places += 1

    def leave(self, tenant_id: str) -> None:
        """Give the place back; MUST follow each `enter` that did not raise."""
        self._shares[tenant_id].taken_places -= 1
