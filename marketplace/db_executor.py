"""Transactions off the event loop, and a short memory of a database that is down."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

from core.errors.platform import DatabaseUnavailable

THREADS = 8
ENROLMENT_THREADS = 4
"""Together as many as the pool has connections: a thread never waits for another's."""
_REST_SECONDS = 0.5

Result = TypeVar("Result")


class DatabaseExecutor:
    def __init__(self, threads: int = THREADS) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="transaction")
        self._down_until = 0.0

    async def run(self, work: Callable[[], Result]) -> Result:
        """Run `work` in a thread and return what it returns.

        Finding out that a database is down takes seconds. Those who queue behind the one that found out are told at
        once, so that a burst meets an answer of 503 and not a wall of time-outs.
        """
        # With the caller's context: the correlation id goes along into the transaction.
        return await asyncio.get_running_loop().run_in_executor(self._executor, copy_context().run, self._attempt, work)

    def close(self) -> None:
        """Let running transactions end and take no more."""
        self._executor.shutdown(cancel_futures=True)

    def _attempt(self, work: Callable[[], Result]) -> Result:
        if time.monotonic() < self._down_until:
            raise DatabaseUnavailable
        try:
            return work()
        except DatabaseUnavailable:
            self._down_until = time.monotonic() + _REST_SECONDS
            raise
