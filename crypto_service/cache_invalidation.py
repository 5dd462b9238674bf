"""Delivery of change notifications from the database's thread to the caches on the event loop.

A notification says only that something changed: a cache drops its entries and reads them again. A feed that fails is
started again; each start invalidates everything, because notifications may have been lost meanwhile.
"""

import asyncio
import threading
from collections.abc import Callable

import structlog

from database.postgres.change_feed import ChangeFeed

Forget = Callable[[str | None], None]

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
                    lambda tenant: self._notify_threadsafe(loop, tenant),
                    lambda: self._notify_threadsafe(loop, None),
                    self._stop,
                )
            except Exception:  # without this thread no cache would be invalidated
                log.exception("change feed failed")
                self._notify_threadsafe(loop, None)
                self._stop.wait(_PAUSE_SECONDS)

    def _notify_threadsafe(self, loop: asyncio.AbstractEventLoop, tenant: str | None) -> None:
        if not self._stop.is_set():  # the loop waits for this thread before it closes
            loop.call_soon_threadsafe(self._notify, tenant)

    def _notify(self, tenant: str | None) -> None:
        for forget in self._subscribers:
            try:
                forget(tenant)
            except Exception:  # a failed subscriber must not prevent the invalidation of others
                log.exception("subscriber to changes failed")
        if tenant is None:
            self._listening.set()
