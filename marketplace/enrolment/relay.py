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
    """Relay of enrolments. The request id is the id of the update, so a repeated request joins the first one."""

    def __init__(
        self, database: Database, platform: PlatformQueries, workflows: WorkflowClient, transactions: DatabaseExecutor
    ) -> None:
        super().__init__(transactions)
        self._database = database
        self._platform = platform
        self._workflows = workflows

    def find(self, limit: int) -> Sequence[Waiting]:
        return self._platform.pending_enrolments(limit)

    async def hand_over(self, waiting: Waiting) -> None:
        """Connect the service, which is the last item of `waiting`, and record the result."""
        tenant_id, enrolment_id, region, service = waiting
        rejection: CallerError | None = None
        try:
            await self._workflows.connect_service(tenant_id, region, service, enrolment_id)
        except CallerError as failed:
            rejection = failed
        await self._transactions.run(partial(settle, self._database, tenant_id, enrolment_id, rejection))
