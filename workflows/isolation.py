"""CheckBoundaries: the full examination of one tenant; and the look for those whose examination is due.

1. Attack it in every way of the standard's clauses, sign how that ended and record it: evidence before a verdict.
2. On a breach, have the tenant's entity lock it. A word that is lost is said again: until the tenant is locked for it,
   the breach makes the next examination due.

One of a tenant runs at a time, whoever asked for it. That it failed is no breach and no pass; it stays due.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ChildWorkflowError, WorkflowAlreadyStartedError

with workflow.unsafe.imports_passed_through():
    from activities.isolation.assessment import IsolationAssessmentActivities
    from core import names as ids
    from core.isolation import run_of
    from core.messages.compliance import BoundariesInput, DueExamination, DueInput, ExamineInput, ExamineResult
    from workflows.runtime import options as priorities
    from workflows.runtime import options as visibility
    from workflows.runtime import timeouts as timing
    from workflows.runtime.activity_calls import run_activity
    from workflows.runtime.signals import BOUNDARIES_REPORTED, signal_tenant

_PAUSE = timedelta(seconds=0.3)
"""After each examination, for the sake of services that ask meanwhile; a thousand tenants take some eight minutes."""


@workflow.defn(name="CheckBoundaries")
class AssessIsolation:
    @workflow.run
    async def run(self, tenant: BoundariesInput) -> None:
        step = ExamineInput(tenant_id=tenant.tenant_id, operation_id=run_of(workflow.info().run_id), anew=tenant.anew)
        result = await run_activity(
            IsolationAssessmentActivities.examine_tenant,
            step,
            "1 · attack every wall of the tenant",
            timing.EXAMINE_ATTEMPT,
            timing.EXAMINE_PATIENCE,
            timing.EXAMINE_HEARTBEAT,
        )
        workflow.set_current_details(_told(result))
        if result.breached:
            await signal_tenant(tenant.tenant_id, BOUNDARIES_REPORTED)


def _told(result: ExamineResult) -> str:
    if not result.examined:
        return "**Not examined**: the tenant has left, or is not open yet"
    counts = f"{result.held} attacks refused, {result.breached} succeeded, {result.not_checked} could not be made"
    return f"**{'Breached' if result.breached else 'Held'}**: {counts}"


@workflow.defn(name="ExamineDueTenants")
class AssessDueTenants:
    @workflow.init
    def __init__(self, due: DueInput | None = None) -> None:
        del due
        self._done, self._failed = 0, 0

    @workflow.run
    async def run(self, due: DueInput | None = None) -> None:
        after = "" if due is None else due.after
        while True:
            found = await workflow.execute_activity_method(
                IsolationAssessmentActivities.find_due_examinations,
                DueInput(after=after),
                summary="find whose examination is due",
                start_to_close_timeout=timing.HEADS_ATTEMPT,
                retry_policy=timing.RETRY,
            )
            if not found.tenants:
                return
            by_region: dict[str, list[DueExamination]] = {}
            for one in found.tenants:
                by_region.setdefault(one.region, []).append(one)
            await asyncio.gather(*map(self._examine_in_turn, by_region.values()))
            after = found.tenants[-1].tenant_id
            if workflow.info().is_continue_as_new_suggested():
                workflow.continue_as_new(DueInput(after=after))

    async def _examine_in_turn(self, tenants: Sequence[DueExamination]) -> None:
        """Examine the tenants of a region one after the other; one without a worker holds up none but its own."""
        for one in tenants:
            await self._examine(one)
            await workflow.sleep(_PAUSE, summary="a pause, for the services")

    async def _examine(self, one: DueExamination) -> None:
        try:
            await workflow.execute_child_workflow(
                AssessIsolation.run,
                BoundariesInput(tenant_id=one.tenant_id, region=one.region),
                id=ids.boundaries_workflow(one.tenant_id),
                task_queue=ids.task_queue(one.region),
                execution_timeout=timing.EXAMINATION,
                priority=priorities.service(one.tenant_id),
                static_summary=f"examine the boundaries of {one.tenant_id}",
                search_attributes=visibility.of_tenant(one.tenant_id, one.region),
            )
        except WorkflowAlreadyStartedError:
            pass  # somebody has asked for it, and waits for that very examination
        except ChildWorkflowError:
            self._failed += 1
        self._done += 1
        workflow.set_current_details(f"{self._done:,} looked at, {self._failed:,} came to no result")
