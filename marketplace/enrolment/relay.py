"""Relay of stored enrolments to the workflows that handle them."""

from collections.abc import Sequence
from functools import partial

from database.connection.database import Database
from database.platform.scheduled import PlatformQueries
from marketplace.db_executor import DatabaseExecutor
from marketplace.enrolment.requests import settle
from marketplace.relay import Waiting, WorkflowRelay
from openkcm.errors import CallerError
from workflows.client.workflow_client import WorkflowClient


class EnrolmentRelay(WorkflowRelay):
    """Enrolments: the request's id is the update's, so that asking again joins what was asked before."""

    def __init__(
        self, database: Database, platform: PlatformQueries, door: WorkflowClient, transactions: DatabaseExecutor
    ) -> None:
        super().__init__(transactions)
        self._database = database
        self._platform = platform
        self._door = door

    def find(self, limit: int) -> Sequence[Waiting]:
        return self._platform.pending_enrolments(limit)

    async def hand_over(self, waiting: Waiting) -> None:
        """Have the service connected, which is the last of `waiting`, and put on record what came of it."""
        tenant_id, enrolment_id, region, service = waiting
        refused: CallerError | None = None
        try:
            await self._door.connect_service(tenant_id, region, service, enrolment_id)
        except CallerError as refusal:
            refused = refusal
        await self._transactions.run(partial(settle, self._database, tenant_id, enrolment_id, refused))
