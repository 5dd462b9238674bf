"""Turns on the event loop: a tenant that always has work delays another one by a millisecond, not by all of its work.

In one iteration of the loop, work of a tenant begins only until it has used its slice. The rest waits for the next
iterations; in between, the loop reads what has arrived from all others.
"""

import asyncio
from collections import deque
from collections.abc import Callable

SLICE_SECONDS = 0.001
_SECONDS_PER_BYTE = 2e-9
"""What receiving costs before any work begins: decryption of TLS records and copies."""


class Turns:
    """MUST be used from one event loop."""

    def __init__(self) -> None:
        self._used: dict[str, float] = {}
        self._waiting: dict[str, deque[Callable[[], None]]] = {}
        self._scheduled = False

    def has_time(self, tenant: str) -> bool:
        """Return whether work of the tenant may begin in this iteration of the loop."""
        return self._used.get(tenant, 0.0) < SLICE_SECONDS and tenant not in self._waiting

    def use(self, tenant: str, seconds: float) -> None:
        """Account for time that the tenant's work took on the loop."""
        self._used[tenant] = self._used.get(tenant, 0.0) + seconds
        self._schedule()

    def receive(self, tenant: str, size: int) -> None:
        """Account for `size` received bytes."""
        self.use(tenant, size * _SECONDS_PER_BYTE)

    def call_next(self, tenant: str, work: Callable[[], None]) -> None:
        """Call `work` in a later iteration, after what of this tenant waits already."""
        self._waiting.setdefault(tenant, deque()).append(work)
        self._schedule()

    async def pause(self, tenant: str) -> None:
        """Return when the tenant has time again: between the parts of a long request."""
        if not self.has_time(tenant):
            turn = asyncio.get_running_loop().create_future()
            self.call_next(tenant, lambda: None if turn.done() else turn.set_result(None))
            await turn

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._begin_iteration)

    def _begin_iteration(self) -> None:
        self._scheduled = False
        self._used.clear()
        for tenant, waiting in list(self._waiting.items()):
            while waiting and self._used.get(tenant, 0.0) < SLICE_SECONDS:
                waiting.popleft()()
            if not waiting:
                del self._waiting[tenant]
        if self._waiting:
            self._schedule()
