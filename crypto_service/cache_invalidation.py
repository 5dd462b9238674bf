"""Word of changes from the database's thread to everything on the loop that remembers.

What is told here is only that something changed: whoever remembers forgets and asks again. A feed that ends with an
error is begun again, and everything is forgotten each time, because what happened meanwhile nobody knows.
"""

import asyncio
import threading
from collections.abc import Callable

import structlog

from database.postgres.notify import NotifyFeed

Forget = Callable[[str | None], None]

_PAUSE_SECONDS = 0.5

log = structlog.get_logger()


class NotifyInvalidations:
    """`interfaces.Invalidations` over a database's feed. `start` and `stop` on the loop that is to be told."""

    def __init__(self, feed: NotifyFeed) -> None:
        self._feed = feed
        self._subscribers: list[Forget] = []
        self._stop = threading.Event()
        self._listening = asyncio.Event()
        self._thread: threading.Thread | None = None

    def subscribe(self, forget: Forget) -> None:
        """Have `forget` called with the mark of a tenant that changed, None for all; in the order of subscription."""
        self._subscribers.append(forget)

    def start(self) -> None:
        """Begin to listen, in a thread of its own."""
        loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._listen, args=(loop,), name="changes", daemon=True)
        self._thread.start()

    async def listening(self) -> None:
        """Return as soon as no later change can be missed; a process is not ready before."""
        await self._listening.wait()

    async def stop(self) -> None:
        """End the thread and return when it has ended."""
        self._stop.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._stop.is_set():
            try:
                self._feed.listen(
                    lambda tenant: self._hand_over(loop, tenant), lambda: self._hand_over(loop, None), self._stop
                )
            except Exception:  # without this thread every cache would be blind
                log.exception("change feed failed")
                self._hand_over(loop, None)
                self._stop.wait(_PAUSE_SECONDS)

    def _hand_over(self, loop: asyncio.AbstractEventLoop, tenant: str | None) -> None:
        if not self._stop.is_set():  # the loop waits for this thread before it closes
            loop.call_soon_threadsafe(self._tell, tenant)

    def _tell(self, tenant: str | None) -> None:
        for forget in self._subscribers:
            try:
                forget(tenant)
            except Exception:  # one that fails must not keep the others from forgetting
                log.exception("subscriber to changes failed")
        if tenant is None:
            self._listening.set()
