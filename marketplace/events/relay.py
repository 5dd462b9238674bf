"""Relay of stored marketplace events to the workflows of their tenants."""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from weakref import WeakValueDictionary

from core.tenants.provisioning import EventKind
from database.connection.database import Database
from database.platform.scheduled import PlatformQueries
from marketplace.db_executor import DatabaseExecutor
from marketplace.events.accept import discovered, mark_started, unstarted_changes
from marketplace.relay import Waiting, WorkflowRelay
from workflows.client.workflow_client import WorkflowClient


class EventRelay(WorkflowRelay):
    """Relay of events. Enables and disables of a tenant reach its workflow in the order in which they were accepted.

    An event is passed only after the earlier ones, also if another process passes the same events. The workflow ignores
    ids of events that it has received.
    """

    def __init__(
        self, database: Database, platform: PlatformQueries, workflows: WorkflowClient, transactions: DatabaseExecutor
    ) -> None:
        super().__init__(transactions)
        self._database = database
        self._platform = platform
        self._workflows = workflows
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def find(self, limit: int) -> Sequence[Waiting]:
        return self._platform.unstarted_events(limit)

    def turn(self, waiting: Waiting) -> AbstractAsyncContextManager[object]:
        """Return the lock of the tenant for an enable or disable; a discovered service waits for no other event."""
        tenant_id, _, _, kind = waiting
        if kind == EventKind.SERVICE_DISCOVERED:
            return super().turn(waiting)
        return self._turns.setdefault(tenant_id, asyncio.Lock())

    async def hand_over(self, waiting: Waiting) -> None:
        """Pass an event to the workflow for its kind, which is the last item of `waiting`."""
        tenant_id, event_id, region, kind = waiting
        if kind == EventKind.SERVICE_DISCOVERED:
            await self._discover(tenant_id, event_id, region)
            return
        for earlier, earlier_kind in await self._transactions.run(
            partial(unstarted_changes, self._database, tenant_id)
        ):
            if earlier_kind is EventKind.SERVICE_DISABLED:
                await self._workflows.disable(tenant_id, earlier)
            else:
                await self._workflows.enable(tenant_id, region, earlier)
            await self._mark_started(tenant_id, earlier)
            if earlier == event_id:
                return

    async def _discover(self, tenant_id: str, event_id: str, region: str) -> None:
        service = await self._transactions.run(partial(discovered, self._database, tenant_id, event_id))
        if service is not None:  # None: the tenant was erased meanwhile
            await self._workflows.discover_service(tenant_id, region, service)
        await self._mark_started(tenant_id, event_id)

    async def _mark_started(self, tenant_id: str, event_id: str) -> None:
        """Record that the workflow received an event; after a crash before it, the event is passed again."""
        await self._transactions.run(partial(mark_started, self._database, tenant_id, event_id))
