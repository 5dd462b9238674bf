"""Delivery of stored requests to Temporal, now or after an outage, so that no accepted request is lost.

A request is passed on right after its response. Requests that this process or a crashed one could not pass on are found
in the database by a sweep every few seconds, first at the start. A repeated delivery has no effect.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial

import structlog

from core.errors.platform import DatabaseUnavailable, TemporalUnavailable
from marketplace.db_executor import DatabaseExecutor
from openkcm.errors import PlatformError

_INTERVAL_SECONDS = 2.0
_SLOWEST_SECONDS = 5.0
_BATCH = 500
_AT_ONCE = 32
_RETRY_SECONDS = 10.0

_log = structlog.get_logger(__name__)

Waiting = tuple[str, str, str, str]
"""Tenant id, id of the request, region, and one more value that the relay needs."""


class WorkflowRelay(ABC):
    def __init__(self, transactions: DatabaseExecutor) -> None:
        self._transactions = transactions
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._running: dict[Waiting, asyncio.Task[None]] = {}
        self._handed_over: set[Waiting] = set()
        """Since the start of the last round, because its query may be out of date when a request is reached."""
        self._refused: dict[Waiting, float] = {}
        self._temporal_down = False

    @abstractmethod
    def find(self, limit: int) -> Sequence[Waiting]:
        """Return pending requests, oldest first; runs in a thread."""

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
                _log.warning("accepted requests are delayed", code=down.code)
                pause = min(pause * 1.5, _SLOWEST_SECONDS)
            except Exception:  # noqa: BLE001 - if the sweep ended, requests would be lost silently
                _log.exception("sweep failed")
            await asyncio.sleep(pause)

    async def close(self) -> None:
        """Cancel running deliveries; the requests remain in the database."""
        running = tuple(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _round(self) -> None:
        now = time.monotonic()
        self._refused = {waiting: until for waiting, until in self._refused.items() if until > now}
        # The limit grows by the number of failed requests, so that they never fill the batch.
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
            task = asyncio.create_task(self._deliver(waiting))
            self._running[waiting] = task
            task.add_done_callback(partial(self._ended, waiting))
        return task

    async def _deliver(self, waiting: Waiting) -> None:
        async with self.turn(waiting), self._slots:
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
            self._refused[waiting] = time.monotonic() + _RETRY_SECONDS
            _log.warning("accepted request is delayed", tenant_id=waiting[0], request=waiting[1], code=failed.code)
        else:
            self._refused[waiting] = time.monotonic() + _RETRY_SECONDS
            _log.error("delivery of a request failed", tenant_id=waiting[0], request=waiting[1], exc_info=failed)
