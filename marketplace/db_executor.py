"""Threads for transactions, outside the event loop, with a short memory of an unavailable database."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

from core.errors.platform import DatabaseUnavailable
from database.postgres.errors import is_unreachable

THREADS = 8
ENROLMENT_THREADS = 4
"""The pool has a connection for each thread: a thread never waits for a connection of another."""
RETRY_SECONDS = 0.5
"""How long work fails at once after a transaction found that the database does not respond."""

Result = TypeVar("Result")


class DatabaseExecutor:
    def __init__(self, threads: int = THREADS) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="transaction")
        self._down_until = 0.0

    async def run(self, work: Callable[[], Result]) -> Result:
        """Run `work` in a thread and return its result.

        Detection of an unavailable database takes seconds. Work that is queued behind the failed one fails at once, so
        that a burst receives 503 instead of timeouts.
        """
        # In the caller's context, so that the transaction has the correlation id.
        return await asyncio.get_running_loop().run_in_executor(self._executor, copy_context().run, self._attempt, work)

    def close(self) -> None:
        """Wait for running transactions and accept no more."""
        self._executor.shutdown(cancel_futures=True)

    def _attempt(self, work: Callable[[], Result]) -> Result:
        if time.monotonic() < self._down_until:
            raise DatabaseUnavailable
        try:
            return work()
        except DatabaseUnavailable as failed:
            if is_unreachable(failed):  # a lost transaction or a schema that differs is found at once
                self._down_until = time.monotonic() + RETRY_SECONDS
            raise
