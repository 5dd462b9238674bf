"""Delivery of stored requests to Temporal, now or after an outage, so that no accepted request is lost.

A request is passed on right after its response. Requests that this process or a crashed one could not pass on are found
in the database by a sweep every few seconds, first at the start. A repeated delivery has no effect.

Each region has separate slots and a separate sweep: a request for a region without a worker takes a minute, and delays
no request for another region.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import structlog

from core.errors.platform import DatabaseUnavailable, TemporalUnavailable
from marketplace.db_executor import DatabaseExecutor
from openkcm.errors import PlatformError

_INTERVAL_SECONDS = 2.0
_SLOWEST_SECONDS = 5.0
_BATCH = 500
_AT_ONCE = 32
"""Concurrent deliveries to a region."""
_ROUND_SECONDS = 2.0
"""How long a round waits for the sweeps of the regions."""
_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 10.0, 120.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Refusal:
    """A failed delivery: the time of the next attempt (monotonic), and the pause before it in seconds."""

    until: float
    pause: float


Waiting = tuple[str, str, str, str]
"""Tenant id, id of the request, region, and one more value that the relay needs."""


class WorkflowRelay(ABC):
    def __init__(self, transactions: DatabaseExecutor) -> None:
        self._transactions = transactions
        self._slots: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(_AT_ONCE))
        self._sweeps: dict[str, asyncio.Task[None]] = {}
        self._running: dict[Waiting, asyncio.Task[None]] = {}
        self._handed_over: defaultdict[str, set[Waiting]] = defaultdict(set)
        """By region, since the query of its last sweep, which may be out of date when a request is reached."""
        self._refused: dict[Waiting, _Refusal] = {}
        self._temporal_down = False

    @abstractmethod
    def find(self, limit: int) -> Sequence[Waiting]:
        """Return pending requests, oldest first; runs in a thread.

        The limit MUST hold for each region where a delivery waits for a worker of the region.
        """

    def turn(self, waiting: Waiting) -> AbstractAsyncContextManager[object]:
        """Return the lock of requests that are delivered one after another; a request waits for it without a slot."""
        del waiting
        return nullcontext()

    @abstractmethod
    async def hand_over(self, waiting: Waiting) -> None:
        """Deliver a request and record that; raise TemporalUnavailable, DatabaseUnavailable."""

    def offer(self, waiting: Waiting) -> None:
        """Start delivery of a new request in the background; leave it to the sweep while Temporal is unavailable."""
        if not self._temporal_down:
            self._start(waiting)

    async def run(self) -> None:
        """Sweep until cancelled; slower during an outage."""
        pause = _INTERVAL_SECONDS
        while True:
            try:
                await self._round()
                pause = _INTERVAL_SECONDS
            except (TemporalUnavailable, DatabaseUnavailable) as down:
                _log.warning("accepted requests are delayed", code=down.code, message=down.message)
                pause = min(pause * 1.5, _SLOWEST_SECONDS)
            except Exception:  # noqa: BLE001 - if the sweep ended, requests would be lost silently
                _log.exception("sweep failed")
            await asyncio.sleep(pause)

    async def close(self) -> None:
        """Cancel running deliveries; the requests remain in the database."""
        running = (*self._sweeps.values(), *self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _round(self) -> None:
        now = time.monotonic()
        refused = {waiting for waiting, refusal in self._refused.items() if refusal.until > now}
        # The limit grows by the number of failed requests, so that they never fill the batch.
        limit = _BATCH + len(refused)
        for region in self._handed_over.keys() - self._sweeps.keys():
            del self._handed_over[region]
        found = await self._transactions.run(partial(self.find, limit))
        for waiting in self._refused.keys() - set(found) - refused:
            del self._refused[waiting]
        todo: defaultdict[str, list[Waiting]] = defaultdict(list)
        for waiting in found:
            if waiting not in refused:
                todo[_region(waiting)].append(waiting)
        for region in todo.keys() - self._sweeps.keys():
            self._sweeps[region] = asyncio.create_task(self._sweep(todo[region]))
        done: set[asyncio.Task[None]] = set()
        if self._sweeps:
            done, running = await asyncio.wait(self._sweeps.values(), timeout=_ROUND_SECONDS)
            self._sweeps = {region: task for region, task in self._sweeps.items() if task in running}
        for failure in [sweep.exception() for sweep in done]:
            if failure is not None:
                raise failure
        if done or not self._sweeps:
            self._temporal_down = False

    async def _sweep(self, todo: Sequence[Waiting]) -> None:
        """Deliver pending requests of one region; raise TemporalUnavailable, DatabaseUnavailable."""
        for begin in range(0, len(todo), _AT_ONCE):
            group = todo[begin : begin + _AT_ONCE]
            left = [waiting for waiting in group if waiting not in self._handed_over[_region(waiting)]]
            results = await asyncio.gather(*map(self._start, left), return_exceptions=True)
            for result in results:
                if isinstance(result, TemporalUnavailable | DatabaseUnavailable):
                    raise result

    def _start(self, waiting: Waiting) -> asyncio.Task[None]:
        task = self._running.get(waiting)
        if task is None:
            task = asyncio.create_task(self._deliver(waiting))
            self._running[waiting] = task
            task.add_done_callback(partial(self._ended, waiting))
        return task

    async def _deliver(self, waiting: Waiting) -> None:
        async with self.turn(waiting), self._slots[_region(waiting)]:
            await self.hand_over(waiting)

    def _ended(self, waiting: Waiting, task: asyncio.Task[None]) -> None:
        del self._running[waiting]
        if task.cancelled():
            return
        failed = task.exception()
        if failed is None:
            self._handed_over[_region(waiting)].add(waiting)
        elif isinstance(failed, TemporalUnavailable):
            self._temporal_down = True
        elif isinstance(failed, DatabaseUnavailable):
            return
        elif isinstance(failed, PlatformError):
            self._refuse(waiting)
            _log.warning("accepted request is delayed", tenant_id=waiting[0], request=waiting[1], code=failed.code)
        else:
            self._refuse(waiting)
            _log.error("delivery of a request failed", tenant_id=waiting[0], request=waiting[1], exc_info=failed)

    def _refuse(self, waiting: Waiting) -> None:
        """Delay the next attempt, each time by twice as long: thousands of failing requests delay no other."""
        last = self._refused.get(waiting)
        pause = _FIRST_RETRY_SECONDS if last is None else min(2 * last.pause, _LONGEST_RETRY_SECONDS)
        self._refused[waiting] = _Refusal(time.monotonic() + pause, pause)


def _region(waiting: Waiting) -> str:
    _, _, region, _ = waiting
    return region
