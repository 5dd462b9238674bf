"""Turns on the event loop: a tenant that always has work delays another one by a slice, not by all of its work.

In one iteration of the loop, work of a tenant begins only until it has used its slice. The rest waits for the next
iterations; in between, the loop reads what has arrived from all others. Work that takes less than a slice, of all
tenants together, still counts in the next iterations: to reset it in each would cost every request a callback.

A tenant that shares the process with no other has a larger slice, because each wait costs it throughput.

While work waits, the loop never sleeps, and a thread that never sleeps loses its real-time priority
(realtime_scheduling.py): then all tenants would wait for other processes. So the loop sleeps briefly now and then, and
after that waiting work pauses, which leaves time to other processes.
"""

import asyncio
import resource
import time
from collections import deque
from collections.abc import Callable, Generator
from typing import TypeVar

SLICE_SECONDS = 0.0002
"""Smaller slices cost a saturated tenant throughput, larger ones cost all others latency."""
ALONE_SECONDS = 0.002
"""The slice while only one tenant has work: by so much it may delay the first request of another one."""
_SHARED_SECONDS = 10.0
"""How long the smaller slice remains after several tenants had work."""
_SECONDS_PER_BYTE = 2e-9
"""What receiving costs before any work begins: decryption of TLS records and copies."""
_BUSY_SECONDS = 0.006
"""How long the loop may be busy without a sleep; the kernel permits much more, see realtime_scheduling.py."""
_SLEEP_SECONDS = 0.0001
_PAUSE_SECONDS = 0.001
"""The pause of waiting work. Other tenants are served meanwhile."""
UNIDENTIFIED = ""
Result = TypeVar("Result")


class Turns:
    """MUST be used from one event loop. Connections whose tenant is not known yet share the turns of `UNIDENTIFIED`."""

    def __init__(self) -> None:
        self._slice, self._shared_until = SLICE_SECONDS, time.monotonic() + _SHARED_SECONDS
        self._used: dict[str, float] = {}
        self._total = 0.0
        self._waiting: dict[str, deque[Callable[[], None]]] = {}
        self._scheduled = self._paused = False
        self._measured_at, self._waits = 0.0, 0

    def has_time(self, tenant: str) -> bool:
        """Return whether work of the tenant may begin in this iteration of the loop."""
        return self._used.get(tenant, 0.0) < self._slice and tenant not in self._waiting

    def use(self, tenant: str, seconds: float) -> None:
        """Account for time that the tenant's work took on the loop."""
        self._used[tenant] = self._used.get(tenant, 0.0) + seconds
        self._total += seconds
        if self._total >= self._slice:
            self._schedule()

    def use_up(self, tenant: str) -> None:
        """Account for a whole slice: no more work of the tenant begins in this iteration."""
        self.use(tenant, self._slice)

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
            self.call_next(tenant, lambda: self._grant(tenant, turn))
            await turn

    async def complete(self, tenant: str, steps: Generator[None, None, Result]) -> Result:
        """Return the result of work in short steps, between which all tenants have their turns."""
        while True:
            began = time.perf_counter()
            try:
                next(steps)
            except StopIteration as end:
                result: Result = end.value
                return result
            finally:
                self.use(tenant, time.perf_counter() - began)
            await self.pause(tenant)

    def _grant(self, tenant: str, turn: "asyncio.Future[None]") -> None:
        if not turn.done():
            turn.set_result(None)
            # The work begins after all turns of this iteration are granted, when its time is not known yet.
            self.use_up(tenant)

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._begin_iteration)

    def _begin_iteration(self) -> None:
        self._scheduled = False
        now = time.monotonic()
        self._choose_slice(now)
        self._used.clear()
        self._total = 0.0
        if self._is_busy(now):
            time.sleep(_SLEEP_SECONDS)
            if self._waiting and not self._paused:
                self._paused = True
                asyncio.get_running_loop().call_later(_PAUSE_SECONDS, self._resume)
        if not self._paused:
            self._call_waiting()

    def _choose_slice(self, now: float) -> None:
        if len(self._used.keys() - {UNIDENTIFIED}) > 1:
            self._slice, self._shared_until = SLICE_SECONDS, now + _SHARED_SECONDS
        elif now > self._shared_until:
            self._slice = ALONE_SECONDS

    def _resume(self) -> None:
        self._paused = False
        self._schedule()

    def _call_waiting(self) -> None:
        for tenant, waiting in list(self._waiting.items()):
            while waiting and self._used.get(tenant, 0.0) < self._slice:
                waiting.popleft()()
            if not waiting:
                del self._waiting[tenant]
        if self._waiting:
            self._schedule()

    def _is_busy(self, now: float) -> bool:
        """Return whether the loop has not slept for `_BUSY_SECONDS`, by the kernel's count of voluntary switches."""
        if now - self._measured_at < _BUSY_SECONDS:
            return False
        waits = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
        former, self._waits, self._measured_at = self._waits, waits, now
        return waits == former
