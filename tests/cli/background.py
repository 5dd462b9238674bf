"""Asynchronous servers that run in a thread, because the commands are synchronous."""

import asyncio
import threading
from contextlib import AbstractAsyncContextManager
from typing import Any

from tests.database.fixtures import Field
from tests.marketplace.conftest import Endpoint, RecordingWorkflowClient, running


class Background:
    """A server in a thread with a separate event loop."""

    def __init__(self, serving: AbstractAsyncContextManager[Any]) -> None:
        self._started, self._loop, self._stop = threading.Event(), asyncio.new_event_loop(), asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=[self._serve(serving)], daemon=True)
        self._thread.start()
        assert self._started.wait(60)

    async def _serve(self, serving: AbstractAsyncContextManager[Any]) -> None:
        async with serving as self.server:
            self._started.set()
            await self._stop.wait()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60)
        self._loop.close()


class MarketplaceServer(Background):
    """The marketplace endpoint on the database of a test."""

    def __init__(self, field: Field) -> None:
        self.field, self.workflows = field, RecordingWorkflowClient()
        super().__init__(running(field, self.workflows))
        self.endpoint: Endpoint = self.server

    def becomes(self, state: str) -> None:
        with self.field.administrator() as administrator:
            administrator.execute(
                "update okcm.tenant set state = %s, ready_at = case when %s = 'active'"
                " then requested_at + interval '1.25 s' end",
                [state, state],
            )
