"""Limits of one tenant in one process: a rate of work, and a number of concurrent requests.

The unit of work is that of a small symmetric operation, about 50 µs. A request costs one unit for each item, and an
operation that takes longer is charged by its work before it begins.

Each tenant has a dedicated bucket and counter, so a tenant at its limit is rejected immediately and delays no other
tenant. The limits apply per process: with n processes a tenant may reach n times as much.
"""

import math
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
    """The limits of all tenants that passed the certificate check; a few hundred bytes for each, never removed."""

    def __init__(self, rate: int, places: int, now: Callable[[], float] = time.monotonic) -> None:
        """`rate` is in units per second, with bursts of one second; `places` is the number of parallel requests."""
        self._rate, self._places, self._now = float(rate), places, now
        self._shares: dict[str, _Share] = {}
        self.refused = 0

    def enter(self, tenant_id: str, cost: int = 1) -> None:
        """Take `cost` from the rate and one concurrent request; raise TooManyRequests.

        A cost above the burst waits for a full bucket and leaves a negative balance; otherwise it could never be paid.
        """
        share = self._shares.get(tenant_id)
        if share is None:
            share = self._shares[tenant_id] = _Share(self._rate, self._now())
        if share.taken_places >= self._places:
            self.refused += 1
            raise TooManyRequests
        self._take(share, cost, self._rate)
        share.taken_places += 1

    def charge(self, tenant_id: str, cost: int, paid: int) -> None:
        """Take `cost` for the work of a request that has entered and `paid` for it; raise TooManyRequests.

        It is admitted if the bucket has that much, or was half full before the request paid; it may leave a negative
        balance. Otherwise a batch whose own size empties the bucket could never be processed.
        """
        self._take(self._shares[tenant_id], cost, self._rate / 2 - paid, paid)

    def _take(self, share: _Share, cost: int, enough: float, paid: int = 0) -> None:
        """Take `cost` if the bucket has that much, or `enough` for any cost; raise TooManyRequests.

        A rejected request pays `paid` again when it is repeated.
        """
        now, rate = self._now(), self._rate
        tokens = share.tokens + (now - share.filled_at) * rate
        if tokens > rate:  # noqa: PLR1730 - without a call, because each request comes here
            tokens = rate
        share.filled_at = now
        if tokens < cost and tokens < enough:
            share.tokens = tokens
            self.refused += 1
            needed = max(min(paid, rate), min(float(cost), enough) + paid)
            raise _too_many((needed - tokens) / rate)
        share.tokens = tokens - cost

    def leave(self, tenant_id: str) -> None:
        """Release the concurrent request; MUST follow each `enter` that did not raise."""
        self._shares[tenant_id].taken_places -= 1


def _too_many(seconds: float) -> TooManyRequests:
    """Return the rejection of a request that the rate permits after `seconds`.

    An exception in a variable of the frame that raises it is a reference cycle. Only the garbage collector ends it, and
    thousands of rejections would then stop the loop for all tenants.
    """
    refused = TooManyRequests()
    refused.retry_after = max(1, math.ceil(seconds))
    return refused
