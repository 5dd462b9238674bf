"""Isolation assessments: of one tenant, and of all tenants whose assessment is due.

1. Run the attacks for every clause of the standard, sign the results and record them before the verdict.
2. On a breach, signal the tenant workflow to lock the tenant. If the signal is lost, the breach makes the next
   assessment due until the tenant is locked.

Only one assessment of a tenant runs at a time. A failed assessment is neither a breach nor a pass, and stays due.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ChildWorkflowError, WorkflowAlreadyStartedError
from temporalio.exceptions import TimeoutError as WorkflowTimeout

with workflow.unsafe.imports_passed_through():
    from activities.isolation.assessment import IsolationAssessmentActivities
    from core import names as ids
    from core.isolation import run_of
    from core.messages.compliance import BoundariesInput, DueExamination, DueInput, ExamineInput, ExamineResult
    from core.names import ActivityKind
    from workflows.runtime import options as priorities
    from workflows.runtime import options as visibility
    from workflows.runtime import timeouts as timing
    from workflows.runtime.activity_calls import run_activity
    from workflows.runtime.signals import BOUNDARIES_REPORTED, signal_tenant

_PAUSE = timedelta(seconds=0.3)
"""The pause after each assessment in runs that started before assessments were concurrent."""
_AT_ONCE = 4
"""Assessments of a region that run at the same time: an assessment mostly waits for servers."""
_CONCURRENT = "isolation-concurrent"


@workflow.defn(name="AssessIsolation")
class AssessIsolation:
    @workflow.run
    async def run(self, tenant: BoundariesInput) -> None:
        step = ExamineInput(
            tenant_id=tenant.tenant_id,
            operation_id=run_of(workflow.info().run_id),
            repeat=tenant.repeat,
            daily=tenant.daily,
        )
        result = await run_activity(
            IsolationAssessmentActivities.examine_tenant,
            step,
            "1 · attack every isolation control of the tenant",
            timing.EXAMINE_ATTEMPT,
            timing.EXAMINE_DEADLINE,
            timing.EXAMINE_HEARTBEAT,
            ActivityKind.LONG,
        )
        workflow.set_current_details(_summary(result))
        if result.breached:
            await signal_tenant(tenant.tenant_id, BOUNDARIES_REPORTED)


def _summary(result: ExamineResult) -> str:
    if not result.examined:
        return "**Not assessed**: the tenant is not active"
    counts = f"{result.held} attacks failed, {result.breached} succeeded, {result.not_checked} not checked"
    scope = "" if result.complete else " (daily)"
    return f"**{'Breached' if result.breached else 'Held'}**{scope}: {counts}"


@workflow.defn(name="AssessDueTenants")
class AssessDueTenants:
    @workflow.init
    def __init__(self, due: DueInput | None = None) -> None:
        del due
        self._done, self._failed = 0, 0
        self._unattended: set[str] = set()
        """Regions without a worker: an assessment timed out before it began, so this run tries no other there."""
        self._attended: set[str] = set()
        """Regions in which an assessment of this run has ended."""

    @workflow.run
    async def run(self, due: DueInput | None = None) -> None:
        after = "" if due is None else due.after
        while True:
            found = await workflow.execute_activity_method(
                IsolationAssessmentActivities.find_due_examinations,
                DueInput(after=after),
                summary="find tenants whose assessment is due",
                start_to_close_timeout=timing.HEADS_ATTEMPT,
                retry_policy=timing.RETRY,
            )
            if not found.tenants:
                return
            by_region: dict[str, list[DueExamination]] = {}
            for one in found.tenants:
                by_region.setdefault(one.region, []).append(one)
            if workflow.patched(_CONCURRENT):
                pause = timedelta(seconds=1 / found.per_second)
                await asyncio.gather(*(self._examine_region(tenants, pause) for tenants in by_region.values()))
            else:
                await asyncio.gather(*map(self._examine_in_turn, by_region.values()))
            after = found.tenants[-1].tenant_id
            if workflow.info().is_continue_as_new_suggested():
                workflow.continue_as_new(DueInput(after=after))

    async def _examine_region(self, tenants: Sequence[DueExamination], pause: timedelta) -> None:
        """Assess the tenants of a region, a few at a time, and start one after each `pause`.

        The first assessment of a region runs alone: it shows whether the region has a worker.
        """
        region, waiting = tenants[0].region, list(tenants)

        async def examine_in_turn() -> None:
            while waiting and region not in self._unattended:
                one = waiting.pop(0)
                began = workflow.now()
                await self._examine(one)
                if not waiting:
                    return
                # Each of the concurrent loops starts one in this time, so together they keep the rate.
                left = _AT_ONCE * pause - (workflow.now() - began)
                if left > timedelta(0):
                    await workflow.sleep(left, summary="pause to keep the rate of assessments")

        if region not in self._attended | self._unattended:
            await self._examine(waiting.pop(0))
            self._attended.add(region)
        await asyncio.gather(*(examine_in_turn() for _ in range(_AT_ONCE)))

    async def _examine_in_turn(self, tenants: Sequence[DueExamination]) -> None:
        """Assess the tenants of a region one after another; a region without a worker delays no other region."""
        for one in tenants:
            if one.region in self._unattended:
                return
            await self._examine(one)
            await workflow.sleep(_PAUSE, summary="pause to leave capacity for services")

    async def _examine(self, one: DueExamination) -> None:
        try:
            await workflow.execute_child_workflow(
                AssessIsolation.run,
                BoundariesInput(tenant_id=one.tenant_id, region=one.region, daily=True),
                id=ids.boundaries_workflow(one.tenant_id),
                task_queue=ids.operation_queue(one.region),
                execution_timeout=timing.EXAMINATION,
                priority=priorities.service(one.tenant_id),
                static_summary=f"isolation assessment of {one.tenant_id}",
                search_attributes=visibility.of_tenant(one.tenant_id, one.region),
            )
        except WorkflowAlreadyStartedError:
            pass  # a requested assessment of this tenant runs already
        except ChildWorkflowError as ended:
            # The cancellation of one assessment is a failure of that one; the cancellation of this workflow ends all.
            if workflow.cancellation_reason() is not None:
                raise
            if isinstance(ended.cause, WorkflowTimeout):
                self._unattended.add(one.region)
            self._failed += 1
        self._done += 1
        workflow.set_current_details(f"{self._done:,} assessed, {self._failed:,} failed")
