"""Recovery: start the workflows that the rows require and that do not run.

Rows are the desired state: a tenant that is not offboarded has a tenant workflow, an offboarding its workflow, and a
connected service the workflow that renews its certificate. Each start fails where the workflow runs, so a repeated or
concurrent recovery starts nothing twice.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

import structlog
from temporalio import activity

from activities.runtime.audit_trail import append_audit_event
from activities.runtime.metrics import Metrics
from core import names as ids
from core.errors.platform import TemporalUnavailable
from core.messages.base import StepInput
from core.messages.recovery import RecoverTenantInput, RecoveryCursor, RecoveryPage
from core.messages.services import ServiceInput, ServiceWorkflowState
from core.messages.tenants import OffboardInput
from core.tenants.lifecycle import State
from core.tenants.offboarding import offboarding_number
from database.connection.database import Database
from database.platform.scheduled import PlatformQueries, WorkflowServiceRow, WorkflowTenantRow
from openkcm.contract.audit_events import AuditName

_TENANTS = 200
_SERVICES = 400
"""Rows of a page: about as many ids in one query to Temporal, and a few seconds of starts after a loss."""
_AT_ONCE = 8
"""Started workflows that have not run yet: a request for another tenant waits behind no more than these."""
_LOGGED = 20
"""Ids in one line of the log."""
_LEAST_GRACE = timedelta(days=2)
"""The shortest grace period that is left when an offboarding starts again; it contains a reminder a day before the end.

The tenant may be in use: the rows come from a backup in which it was not restored yet, or no request could restore it
while Temporal was down. This time is left to notice that its operations are rejected, and to restore it."""
_BEGINNING = timedelta(minutes=10)
"""The age of an offboarding whose tenant workflow may be starting it at this moment, with the requested end."""

log = structlog.get_logger()


class WorkflowStarter(Protocol):
    """Start of workflows; each start returns False where the workflow runs already. All raise TemporalUnavailable."""

    async def running(self, workflow_ids: Sequence[str]) -> frozenset[str]:
        """Return which of these workflows run; the list may lag behind."""

    async def wait_for_first_task(self, workflow_id: str) -> bool:
        """Wait until a started workflow has run its first task; return False after a few seconds without a worker."""

    async def start_tenant(self, tenant_id: str, region: str) -> bool: ...

    async def start_offboarding(self, leaving: OffboardInput) -> bool: ...

    async def start_service(self, service: ServiceInput) -> bool: ...


@dataclass(frozen=True, slots=True)
class RequiredWorkflow:
    """A workflow that a row requires; `start` returns False where it runs already."""

    kind: str
    workflow_id: str
    region: str
    start: Callable[[], Awaitable[bool]]


class RecoveryActivities:
    def __init__(
        self, database: Database, platform: PlatformQueries, starter: WorkflowStarter, metrics: Metrics
    ) -> None:
        self._database = database
        self._platform = platform
        self._starter = starter
        self._metrics = metrics

    @activity.defn(name="recover-workflows")
    async def recover_workflows(self, cursor: RecoveryCursor) -> RecoveryPage:
        """Start the missing workflows of the next page of tenants, or of connected services after all tenants."""
        return await (self._recover_services(cursor) if cursor.services else self._recover_tenants(cursor))

    @activity.defn(name="recover-tenant")
    async def recover_tenant(self, tenant: RecoverTenantInput) -> RecoveryPage:
        """Start the missing tenant and offboarding workflows of one tenant; an unknown tenant needs none.

        Each is started without a look at the list of running workflows, which may still have one that ended just now:
        a caller waits for it, who may have to lock the tenant.
        """
        row = await asyncio.to_thread(self._row, tenant.tenant_id)
        if row is None:
            return RecoveryPage(started=0)
        started, failure = await self._start(self._of_tenant(row))
        if failure is not None:
            raise failure
        return RecoveryPage(started=started)

    async def _recover_tenants(self, cursor: RecoveryCursor) -> RecoveryPage:
        rows = await asyncio.to_thread(self._platform.workflow_tenants, cursor.tenant_id or "", _TENANTS)
        started, _ = await self._start_missing([workflow for row in rows for workflow in self._of_tenant(row)])
        if len(rows) < _TENANTS:
            return RecoveryPage(started=started, next=RecoveryCursor(services=True))
        return RecoveryPage(started=started, next=RecoveryCursor(tenant_id=rows[-1].tenant_id))

    async def _recover_services(self, cursor: RecoveryCursor) -> RecoveryPage:
        after = (cursor.tenant_id or "", cursor.service or "")
        rows = await asyncio.to_thread(self._platform.workflow_services, after, _SERVICES)
        started, _ = await self._start_missing([self._of_service(row) for row in rows])
        if len(rows) < _SERVICES:
            return RecoveryPage(started=started)
        last = rows[-1]
        return RecoveryPage(
            started=started, next=RecoveryCursor(tenant_id=last.tenant_id, service=last.service, services=True)
        )

    def _row(self, tenant_id: str) -> WorkflowTenantRow | None:
        with self._database.tenant_tx(tenant_id) as tx:
            row, leaving = tx.tenants.get(), tx.leaving.get()
        if row is None or leaving is None or row.state is State.OFFBOARDED:
            return None
        return WorkflowTenantRow(
            tenant_id, row.region, leaving.since, leaving.until, destroying=leaving.destroying_at is not None
        )

    def _of_tenant(self, row: WorkflowTenantRow) -> list[RequiredWorkflow]:
        """Return the workflows of a tenant; after the point of no return only the offboarding is left."""
        required: list[RequiredWorkflow] = []
        if not row.destroying:
            required.append(
                RequiredWorkflow(
                    "tenant",
                    ids.tenant_workflow(row.tenant_id),
                    row.region,
                    lambda: self._starter.start_tenant(row.tenant_id, row.region),
                )
            )
        if row.leaving_since is not None and row.leaves_at is not None:
            leaving = _offboarding(row, row.leaving_since, row.leaves_at)
            required.append(
                RequiredWorkflow(
                    "offboarding",
                    ids.offboard_workflow(row.tenant_id),
                    row.region,
                    lambda: self._start_offboarding(leaving, row.leaves_at),
                )
            )
        return required

    async def _start_offboarding(self, leaving: OffboardInput, recorded: datetime | None) -> bool:
        """Start an offboarding; record its end if it is later than the recorded one."""
        started = await self._starter.start_offboarding(leaving)
        if started and leaving.until != recorded:
            await asyncio.to_thread(self._extend, leaving)
        return started

    def _extend(self, leaving: OffboardInput) -> None:
        step = StepInput(tenant_id=leaving.tenant_id, operation_id=f"offboard-{leaving.number}-recovered")
        with self._database.tenant_tx(leaving.tenant_id) as tx:
            if tx.leaving.extend(leaving.until):
                until = leaving.until.isoformat()
                append_audit_event(tx, step, AuditName.LEAVING_BEGUN, step.tenant_id, until=until, asked_by="recovery")

    def _of_service(self, row: WorkflowServiceRow) -> RequiredWorkflow:
        service = ServiceInput(
            tenant_id=row.tenant_id,
            region=row.region,
            service=row.service,
            memory=ServiceWorkflowState(
                generation=row.generation, renew_at=row.not_before + (row.not_after - row.not_before) * 2 / 3
            ),
        )
        return RequiredWorkflow(
            "service",
            ids.service_workflow(row.tenant_id, row.service),
            row.region,
            lambda: self._starter.start_service(service),
        )

    async def _start_missing(self, required: Sequence[RequiredWorkflow]) -> tuple[int, TemporalUnavailable | None]:
        """Start the workflows that are not listed as running; the next run corrects what the list shows wrongly."""
        running = await self._starter.running([one.workflow_id for one in required])
        return await self._start([one for one in required if one.workflow_id not in running])

    async def _start(self, required: Sequence[RequiredWorkflow]) -> tuple[int, TemporalUnavailable | None]:
        """Start workflows, and log and count those that did not run; return their number and the last failure.

        The failure of one start stops no other. A region without a worker is waited for once.
        """
        slots = asyncio.Semaphore(_AT_ONCE)
        started: list[RequiredWorkflow] = []
        attended: dict[str, bool] = {}
        """Whether a started workflow has run its first task, by region."""
        failure: TemporalUnavailable | None = None

        async def start(one: RequiredWorkflow) -> None:
            nonlocal failure
            async with slots:
                activity.heartbeat(one.workflow_id)
                try:
                    if not await one.start():
                        return
                except TemporalUnavailable as failed:
                    log.warning("workflow not started", workflow_id=one.workflow_id, code=failed.code)
                    failure = failed
                    return
                started.append(one)
                if attended.get(one.region, True):
                    ran = await self._starter.wait_for_first_task(one.workflow_id)
                    attended[one.region] = ran or attended.get(one.region, False)

        await asyncio.gather(*map(start, required))
        if started:
            self._metrics.count_recovered_workflows(one.kind for one in started)
            first = [one.workflow_id for one in started[:_LOGGED]]
            log.warning("workflows started again", number=len(started), first=first)
        return len(started), failure


def _offboarding(row: WorkflowTenantRow, since: datetime, until: datetime) -> OffboardInput:
    now = datetime.now(UTC)
    if not row.destroying and since < now - _BEGINNING:
        until = max(until, now + _LEAST_GRACE)
    return OffboardInput(
        tenant_id=row.tenant_id, region=row.region, number=offboarding_number(since), since=since, until=until
    )
