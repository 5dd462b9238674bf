"""A fair thread pool: neither the slow key server nor the long computation of one tenant must delay another tenant.

The number of threads per tenant is limited; its other calls wait in a dedicated queue, and a full queue rejects the
call. Free threads serve the waiting tenants in turn, one call each. A limit remains: enough tenants whose servers all
hang can hold every thread, each for the time-out of one call.
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
class _Queue:
    """The calls of one tenant: the number that runs, and those that wait."""

    running: int = 0
    waiting: "deque[asyncio.Future[None]]" = field(default_factory=deque)


class FairExecutor:
    """`interfaces.BlockingExecutor`. MUST be used from one loop; call `close` at its end."""

    def __init__(
        self, threads: int = 64, per_tenant: int = 4, queue: int = 64, prepare: Callable[[], None] | None = None
    ) -> None:
        """Call `prepare` in each thread before its first work."""
        self._free = threads
        self._per_tenant = per_tenant
        self._max_waiting = queue
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="blocking", initializer=prepare)
        self._queues: dict[str, _Queue] = {}
        self._waiting_tenants: deque[str] = deque()
        """The tenants with waiting calls, once each; the next to be served is first."""

    async def run(self, tenant_id: str, work: Callable[[], Result]) -> Result:
        """Return what `work` returns in a thread; raise TooManyRequests when the tenant's queue is full.

        A cancelled call leaves the queue; work that has begun continues and holds its thread until it ends.
        """
        queue = self._queues.setdefault(tenant_id, _Queue())
        if queue.waiting or queue.running >= self._per_tenant or self._free == 0:
            await self._wait_turn(tenant_id, queue)
        else:
            self._start(queue)
        return await asyncio.wrap_future(self._submit(tenant_id, work))

    def close(self) -> None:
        """Stop the threads when their current work ends; waiting work is not started."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _wait_turn(self, tenant_id: str, queue: _Queue) -> None:
        if len(queue.waiting) >= self._max_waiting:
            raise TooManyRequests("too many requests of the tenant wait for a server or for a computation")
        turn = asyncio.get_running_loop().create_future()
        queue.waiting.append(turn)
        if len(queue.waiting) == 1:
            self._waiting_tenants.append(tenant_id)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # granted in the same moment: another call gets the turn
                self._end(tenant_id)
            raise

    def _start(self, queue: _Queue) -> None:
        queue.running += 1
        self._free -= 1

    def _submit(self, tenant_id: str, work: Callable[[], Result]) -> "Future[Result]":
        loop = asyncio.get_running_loop()
        try:
            future = self._threads.submit(copy_context().run, work)
        except RuntimeError:
            self._end(tenant_id)
            raise
        # Not when the awaiting coroutine ends: a cancelled one ends before its thread does.
        future.add_done_callback(lambda _: _call_on_loop(loop, lambda: self._end(tenant_id)))
        return future

    def _end(self, tenant_id: str) -> None:
        self._free += 1
        self._queues[tenant_id].running -= 1
        self._grant_turns()
        self._remove_if_idle(tenant_id)

    def _grant_turns(self) -> None:
        """Give free threads to waiting tenants in turn; a tenant at its limit waits for its own calls to end."""
        for _ in range(len(self._waiting_tenants)):
            if self._free == 0:
                return
            tenant_id = self._waiting_tenants.popleft()
            queue = self._queues[tenant_id]
            if queue.running < self._per_tenant:
                self._admit(queue)
            if queue.waiting:
                self._waiting_tenants.append(tenant_id)
            else:
                self._remove_if_idle(tenant_id)

    def _remove_if_idle(self, tenant_id: str) -> None:
        queue = self._queues.get(tenant_id)
        if queue is not None and queue.running == 0 and not queue.waiting:
            del self._queues[tenant_id]

    def _admit(self, queue: _Queue) -> None:
        """Start the first waiting call that has not been cancelled."""
        while queue.waiting:
            turn = queue.waiting.popleft()
            if not turn.done():
                self._start(queue)
                turn.set_result(None)
                return


def _call_on_loop(loop: asyncio.AbstractEventLoop, then: Callable[[], None]) -> None:
    if not loop.is_closed():  # a thread may end after the loop
        loop.call_soon_threadsafe(then)
