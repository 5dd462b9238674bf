"""Turns on the event loop: a tenant that always has work delays another one by a millisecond, not by all of its work.

In one iteration of the loop, work of a tenant begins only until it has used its slice. The rest waits for the next
iterations; in between, the loop reads what has arrived from all others.

While work waits, the loop never pauses, and a thread that never pauses loses its real-time priority
(realtime_scheduling.py): then all tenants would wait for other processes. So waiting work itself pauses now and then.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Generator
from typing import TypeVar

SLICE_SECONDS = 0.001
_SECONDS_PER_BYTE = 2e-9
"""What receiving costs before any work begins: decryption of TLS records and copies."""
_BUSY_SECONDS = 0.012
"""How long the loop may be busy while work waits; the kernel permits 20 ms."""
_BUSY_SHARE = 0.9
"""A loop that uses less of its time pauses anyway. The kernel permits 95 % to all real-time threads of a CPU."""
_PAUSE_SECONDS = 0.001
"""The shortest pause of the loop's timers. Data that arrives meanwhile ends it for its tenant."""
Result = TypeVar("Result")


class Turns:
    """MUST be used from one event loop."""

    def __init__(self) -> None:
        self._used: dict[str, float] = {}
        self._waiting: dict[str, deque[Callable[[], None]]] = {}
        self._scheduled = False
        self._measured_at = self._measured_cpu = 0.0

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

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._begin_iteration)

    def _begin_iteration(self) -> None:
        self._scheduled = False
        self._used.clear()
        if self._waiting and self._is_busy():
            self._scheduled = True
            asyncio.get_running_loop().call_later(_PAUSE_SECONDS, self._begin_iteration)
            return
        for tenant, waiting in list(self._waiting.items()):
            while waiting and self._used.get(tenant, 0.0) < SLICE_SECONDS:
                waiting.popleft()()
            if not waiting:
                del self._waiting[tenant]
        if self._waiting:
            self._schedule()

    def _is_busy(self) -> bool:
        """Return whether the loop has not paused for `_BUSY_SECONDS`."""
        now = time.monotonic()
        elapsed = now - self._measured_at
        if elapsed < _BUSY_SECONDS:
            return False
        # The CPU time of this thread: parsing and TLS count too, which no tenant is charged for.
        cpu = time.thread_time()
        used, self._measured_at, self._measured_cpu = cpu - self._measured_cpu, now, cpu
        return used > _BUSY_SHARE * elapsed
