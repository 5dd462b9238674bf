"""Relay of stored marketplace events to the workflows of their tenants."""

from collections.abc import Sequence
from functools import partial

from core.tenants.provisioning import EventKind
from database.connection.database import Database
from database.platform.scheduled import PlatformQueries
from marketplace.db_executor import DatabaseExecutor
from marketplace.events.accept import discovered, mark_started
from marketplace.relay import Waiting, WorkflowRelay
from workflows.client.workflow_client import WorkflowClient


class EventRelay(WorkflowRelay):
    """Relay of events. The workflow id is the tenant's, and the workflow ignores event ids that it has received."""

    def __init__(
        self, database: Database, platform: PlatformQueries, workflows: WorkflowClient, transactions: DatabaseExecutor
    ) -> None:
        super().__init__(transactions)
        self._database = database
        self._platform = platform
        self._workflows = workflows

    def find(self, limit: int) -> Sequence[Waiting]:
        return self._platform.unstarted_events(limit)

    async def hand_over(self, waiting: Waiting) -> None:
        """Pass an event to the workflow for its kind, which is the last item of `waiting`."""
        tenant_id, event_id, region, kind = waiting
        if kind == EventKind.SERVICE_DISABLED:
            await self._workflows.disable(tenant_id, event_id)
        elif kind == EventKind.SERVICE_DISCOVERED:
            service = await self._transactions.run(partial(discovered, self._database, tenant_id, event_id))
            if service is not None:  # None: the tenant was erased meanwhile
                await self._workflows.discover_service(tenant_id, region, service)
        else:
            await self._workflows.enable(tenant_id, region, event_id)
        # After a crash here, the event is passed again; the workflow ignores it by its id.
        await self._transactions.run(partial(mark_started, self._database, tenant_id, event_id))
