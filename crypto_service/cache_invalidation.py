"""Delivery of change notifications from the database's thread to the caches on the event loop.

A notification says only that something changed: a cache drops its entries and reads them again. A feed that fails is
started again; each start invalidates everything, because notifications may have been lost meanwhile.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

import structlog

from database.postgres.change_feed import ChangeFeed

Forget = Callable[[str | None], None]
Value = TypeVar("Value")

_PAUSE_SECONDS = 0.5

log = structlog.get_logger()


class NotifyInvalidations:
    """`interfaces.Invalidations` over a database's feed. Call `start` and `stop` on the loop that is notified."""

    def __init__(self, feed: ChangeFeed) -> None:
        self._feed = feed
        self._subscribers: list[Forget] = []
        self._stop = threading.Event()
        self._listening = asyncio.Event()
        self._thread: threading.Thread | None = None
        self.applied: int | None = None
        """The caches have dropped what transactions before this number changed; None before the first notification."""

    def subscribe(self, forget: Forget) -> None:
        """Call `forget` with the hash of each changed tenant, None for all tenants; in the order of subscription."""
        self._subscribers.append(forget)

    def start(self) -> None:
        """Start to listen in a dedicated thread."""
        loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._listen, args=(loop,), name="changes", daemon=True)
        self._thread.start()

    async def listening(self) -> None:
        """Return when no later change can be missed; a process is not ready before that."""
        await self._listening.wait()

    async def stop(self) -> None:
        """Stop the thread and wait for its end."""
        self._stop.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._stop.is_set():
            try:
                self._feed.listen(
                    lambda tenant: self._call_threadsafe(loop, self._notify, tenant),
                    lambda: self._call_threadsafe(loop, self._notify, None),
                    self._stop,
                    lambda until: self._call_threadsafe(loop, self._advance, until),
                )
            except Exception:  # without this thread no cache would be invalidated
                log.exception("change feed failed")
                self._call_threadsafe(loop, self._notify, None)
                self._stop.wait(_PAUSE_SECONDS)

    def _call_threadsafe(
        self, loop: asyncio.AbstractEventLoop, function: Callable[[Value], None], value: Value
    ) -> None:
        if not self._stop.is_set():  # the loop waits for this thread before it closes
            loop.call_soon_threadsafe(function, value)

    def _advance(self, until: int) -> None:
        # On the loop and after the notifications before it, so that it never states more than what is in effect.
        self.applied = until

    def _notify(self, tenant: str | None) -> None:
        for forget in self._subscribers:
            try:
                forget(tenant)
            except Exception:  # a failed subscriber must not prevent the invalidation of others
                log.exception("subscriber to changes failed")
        if tenant is None:
            self._listening.set()
