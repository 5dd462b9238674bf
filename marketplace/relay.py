"""Nothing accepted is ever lost: what is stored reaches Temporal, now or when Temporal is back.

What was accepted is offered right after its answer. What could not be handed over, by this process or by one that died,
is found in the database by a round every few seconds, the first one at start. Handing over twice is harmless.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial

import structlog

from core.errors.platform import DatabaseUnavailable, TemporalUnavailable
from marketplace.db_executor import DatabaseExecutor
from openkcm.errors import PlatformError

_INTERVAL_SECONDS = 2.0
_SLOWEST_SECONDS = 5.0
_BATCH = 500
_AT_ONCE = 32
_REFUSED_REST_SECONDS = 10.0

_log = structlog.get_logger(__name__)

Waiting = tuple[str, str, str, str]
"""Tenant id, id of what waits, region, and what else it takes to hand it over."""


class WorkflowRelay(ABC):
    def __init__(self, transactions: DatabaseExecutor) -> None:
        self._transactions = transactions
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._running: dict[Waiting, asyncio.Task[None]] = {}
        self._handed_over: set[Waiting] = set()
        """Since the last round began: what a round reads may be out of date before it comes to it."""
        self._refused: dict[Waiting, float] = {}
        self._temporal_down = False

    @abstractmethod
    def find(self, limit: int) -> Sequence[Waiting]:
        """Return what waits, oldest first; runs in a thread."""

    @abstractmethod
    async def hand_over(self, waiting: Waiting) -> None:
        """Hand over and note that it was; raises TemporalUnavailable, DatabaseUnavailable."""

    def offer(self, waiting: Waiting) -> None:
        """Hand over what was just stored without making anybody wait; a Temporal known to be down is for the rounds."""
        if not self._temporal_down:
            self._start(waiting)

    async def run(self) -> None:
        """Sweep until cancelled; slower while something is down."""
        pause = _INTERVAL_SECONDS
        while True:
            try:
                await self._round()
                pause = _INTERVAL_SECONDS
            except (TemporalUnavailable, DatabaseUnavailable) as down:
                _log.warning("accepted requests wait", code=down.code)
                pause = min(pause * 1.5, _SLOWEST_SECONDS)
            except Exception:  # noqa: BLE001 - an end of the sweep would lose requests silently
                _log.exception("a sweep failed")
            await asyncio.sleep(pause)

    async def close(self) -> None:
        """Stop what is being handed over; the database still knows it."""
        running = tuple(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _round(self) -> None:
        now = time.monotonic()
        self._refused = {waiting: until for waiting, until in self._refused.items() if until > now}
        # Refused ones are asked for on top, so that they never fill the batch and starve the rest.
        limit = _BATCH + len(self._refused)
        self._handed_over.clear()
        found = await self._transactions.run(partial(self.find, limit))
        todo = [waiting for waiting in found if waiting not in self._refused]
        for begin in range(0, len(todo), _AT_ONCE):
            group = [waiting for waiting in todo[begin : begin + _AT_ONCE] if waiting not in self._handed_over]
            results = await asyncio.gather(*map(self._start, group), return_exceptions=True)
            for result in results:
                if isinstance(result, TemporalUnavailable | DatabaseUnavailable):
                    raise result
        self._temporal_down = False

    def _start(self, waiting: Waiting) -> asyncio.Task[None]:
        task = self._running.get(waiting)
        if task is None:
            task = asyncio.create_task(self._take_place(waiting))
            self._running[waiting] = task
            task.add_done_callback(partial(self._ended, waiting))
        return task

    async def _take_place(self, waiting: Waiting) -> None:
        async with self._places:
            await self.hand_over(waiting)

    def _ended(self, waiting: Waiting, task: asyncio.Task[None]) -> None:
        del self._running[waiting]
        if task.cancelled():
            return
        failed = task.exception()
        if failed is None:
            self._handed_over.add(waiting)
        elif isinstance(failed, TemporalUnavailable):
            self._temporal_down = True
        elif isinstance(failed, DatabaseUnavailable):
            return
        elif isinstance(failed, PlatformError):
            self._refused[waiting] = time.monotonic() + _REFUSED_REST_SECONDS
            _log.warning("an accepted request waits", tenant_id=waiting[0], request=waiting[1], code=failed.code)
        else:
            self._refused[waiting] = time.monotonic() + _REFUSED_REST_SECONDS
            _log.error("an accepted request was not taken", tenant_id=waiting[0], request=waiting[1], exc_info=failed)
