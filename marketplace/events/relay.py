"""What waits for Temporal: events of the marketplace, and enrolments of agents. `rounds` says how neither is lost."""

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
    """Events: the workflow id is the tenant, and the entity knows the ids of events it has seen."""

    def __init__(
        self, database: Database, platform: PlatformQueries, door: WorkflowClient, transactions: DatabaseExecutor
    ) -> None:
        super().__init__(transactions)
        self._database = database
        self._platform = platform
        self._door = door

    def find(self, limit: int) -> Sequence[Waiting]:
        return self._platform.unstarted_events(limit)

    async def hand_over(self, waiting: Waiting) -> None:
        """Tell the workflow that the event is for, by its kind, which is the last of `waiting`."""
        tenant_id, event_id, region, kind = waiting
        if kind == EventKind.SERVICE_DISABLED:
            await self._door.disable(tenant_id, event_id)
        elif kind == EventKind.SERVICE_DISCOVERED:
            service = await self._transactions.run(partial(discovered, self._database, tenant_id, event_id))
            if service is not None:  # None: the tenant left and was erased meanwhile
                await self._door.discover_service(tenant_id, region, service)
        else:
            await self._door.enable(tenant_id, region, event_id)
        # Dying here hands the event over once more, which the tenant's workflow knows by the event's id.
        await self._transactions.run(partial(mark_started, self._database, tenant_id, event_id))
