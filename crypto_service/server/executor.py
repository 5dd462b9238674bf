"""Threads for what blocks, shared fairly: nobody's slow key server may stall another tenant.

A tenant has a few threads at most, whatever it asks for; the rest of its calls wait in a line of its own, and when
that is long it is told so. Free threads go round the waiting tenants, one call each. What remains is that enough
tenants whose servers all hang at once can hold every thread, each for as long as one call's time-out.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import TypeVar

from core.errors.requests import TooManyRequests

Result = TypeVar("Result")


@dataclass(slots=True)
class _Line:
    """One tenant's calls: how many run, and who waits for a turn."""

    running: int = 0
    waiting: "deque[asyncio.Future[None]]" = field(default_factory=deque)


class FairExecutor:
    """`interfaces.BlockingExecutor`. To be used from one loop; `close` at its end."""

    def __init__(self, threads: int = 64, per_tenant: int = 4, line: int = 64) -> None:
        self._free = threads
        self._per_tenant = per_tenant
        self._longest = line
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="blocking")
        self._lines: dict[str, _Line] = {}
        self._turns: deque[str] = deque()
        """The tenants with somebody in line, once each, the next to be served in front."""

    async def run(self, tenant_id: str, work: Callable[[], Result]) -> Result:
        """Return what `work` returns in a thread; raises TooManyRequests when the tenant's line is too long.

        A caller that is cancelled leaves the line; work that has begun goes on, and holds its thread until it ends.
        """
        line = self._lines.setdefault(tenant_id, _Line())
        if line.waiting or line.running >= self._per_tenant or self._free == 0:
            await self._turn(tenant_id, line)
        else:
            self._begin(line)
        return await asyncio.wrap_future(self._submit(tenant_id, work))

    def close(self) -> None:
        """End the threads as their work ends; what waits is not begun."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _turn(self, tenant_id: str, line: _Line) -> None:
        if len(line.waiting) >= self._longest:
            raise TooManyRequests("the tenant waits for too many answers of its key server")
        place = asyncio.get_running_loop().create_future()
        line.waiting.append(place)
        if len(line.waiting) == 1:
            self._turns.append(tenant_id)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():  # the turn came in the same moment: somebody else may have it
                self._end(tenant_id)
            raise

    def _begin(self, line: _Line) -> None:
        line.running += 1
        self._free -= 1

    def _submit(self, tenant_id: str, work: Callable[[], Result]) -> "Future[Result]":
        loop = asyncio.get_running_loop()
        try:
            future = self._threads.submit(copy_context().run, work)
        except RuntimeError:
            self._end(tenant_id)
            raise
        # Not when the waiting coroutine ends: a cancelled one ends before its thread does.
        future.add_done_callback(lambda _: _on(loop, lambda: self._end(tenant_id)))
        return future

    def _end(self, tenant_id: str) -> None:
        self._free += 1
        self._lines[tenant_id].running -= 1
        self._serve()
        self._tidy(tenant_id)

    def _serve(self) -> None:
        """Give free threads to those who wait, round the tenants; one that has all it may have waits for itself."""
        for _ in range(len(self._turns)):
            if self._free == 0:
                return
            tenant_id = self._turns.popleft()
            line = self._lines[tenant_id]
            if line.running < self._per_tenant:
                self._admit(line)
            if line.waiting:
                self._turns.append(tenant_id)
            else:
                self._tidy(tenant_id)

    def _tidy(self, tenant_id: str) -> None:
        line = self._lines.get(tenant_id)
        if line is not None and line.running == 0 and not line.waiting:
            del self._lines[tenant_id]

    def _admit(self, line: _Line) -> None:
        """Begin the first call in line that has not been cancelled."""
        while line.waiting:
            place = line.waiting.popleft()
            if not place.done():
                self._begin(line)
                place.set_result(None)
                return


def _on(loop: asyncio.AbstractEventLoop, then: Callable[[], None]) -> None:
    if not loop.is_closed():  # a thread that outlived the loop has nobody to tell
        loop.call_soon_threadsafe(then)
