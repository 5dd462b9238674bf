"""ProvisionTenant: from a stored event to an isolated, announced tenant.

The steps carry the numbers of docs/provisioning.md, which argues their order. In short: intent is on record before
anything is made (1); what is made has fixed names, so a second run finds it (2 and 3, side by side); nothing is
reachable before it was attacked (4); route, state and the message that tells of them are one transaction (5), and
sending the message comes last, because it alone cannot be taken back (6).
"""

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.isolation.gate import IsolationGateActivities
    from activities.notifications import NotificationActivities
    from activities.provisioning import ProvisioningActivities, TenantCaActivities, TenantKeyActivities
    from core.messages.base import AnnounceInput, FailureInput, StepInput
    from core.messages.tenants import ActivateResult, ProvisionInput, ProvisionResult
    from core.notifications import NotificationKind
    from core.tenants.lifecycle import State
    from core.tenants.provisioning import TITLES, Step, steps_of
    from workflows.runtime import options as visibility
    from workflows.runtime import timeouts as timing
    from workflows.runtime.activity_calls import run_activity, run_local_activity


@workflow.defn(name="ProvisionTenant")
class ProvisionTenant:
    @workflow.init
    def __init__(self, request: ProvisionInput) -> None:
        self._step = StepInput(tenant_id=request.tenant_id, operation_id=f"provision-{request.attempt}")
        self._late = False

    @workflow.run
    async def run(self, request: ProvisionInput) -> ProvisionResult:
        promise = asyncio.create_task(self._watch_promise(timedelta(seconds=request.promise_seconds)))
        try:
            activated = await self._make()
        except ActivityError as failed:
            await self._roll_back(failed)
            return ProvisionResult(state=State.FAILED)
        finally:
            if self._late:
                await promise
            else:
                promise.cancel()
        if activated.messages:
            await self._announce(NotificationKind.READY)
        return ProvisionResult(state=State.ACTIVE)

    async def _make(self) -> ActivateResult:
        step = self._step
        await run_local_activity(ProvisioningActivities.open_records, step, TITLES[Step.OPEN_RECORDS])
        made = await asyncio.gather(
            run_activity(TenantKeyActivities.create_keys, step, TITLES[Step.CREATE_KEYS]),
            run_activity(TenantCaActivities.create_authority, step, TITLES[Step.CREATE_AUTHORITY]),
            return_exceptions=True,
        )
        # Both have ended before anything is rolled back: what one of them still makes would escape it.
        for failed in made:
            if failed is not None:
                raise failed
        if Step.CHECK_BOUNDARIES in steps_of(step.tenant_id):
            await run_activity(
                IsolationGateActivities.check_boundaries, step, TITLES[Step.CHECK_BOUNDARIES], timing.GATE_ATTEMPT
            )
        return await run_local_activity(ProvisioningActivities.activate, step, TITLES[Step.ACTIVATE])

    async def _watch_promise(self, promised: timedelta) -> None:
        """Raise the alarm when the promise breaks: visible here at once, told to the customer, and nothing stops."""
        await workflow.sleep(promised, summary="the promise of a ready tenant")
        self._late = True
        workflow.upsert_search_attributes([visibility.PROMISE_BROKEN.value_set(True)])  # noqa: FBT003 - its API
        workflow.set_current_details("**Late.** The promise is broken; the step that is retrying below says why.")
        workflow.logger.warning("promise broken")
        await run_activity(ProvisioningActivities.break_promise, self._step, "alarm · the promise is broken")
        await self._announce(NotificationKind.LATE)

    async def _roll_back(self, failed: ActivityError) -> None:
        """Close what was opened and keep what may be needed: keys are disabled; a retry enables them again."""
        cause = failed.cause
        code = cause.type if isinstance(cause, ApplicationError) and cause.type else "internal"
        workflow.set_current_details(
            f"**Failed:** `{code}`. See docs/runbook.md#symptoms, then `openkcmctl tenant retry`."
        )
        failure = FailureInput(**self._step.model_dump(), code=code, reason=failed.activity_type)
        await run_activity(TenantKeyActivities.disable_tenant_key, self._step, "roll back · disable the tenant key")
        await run_activity(TenantCaActivities.disable_authority, self._step, "roll back · disable the authority")
        await run_activity(ProvisioningActivities.record_failure, failure, "roll back · close the records")
        await self._announce(NotificationKind.FAILED)

    async def _announce(self, kind: NotificationKind) -> None:
        announce = AnnounceInput(**self._step.model_dump(), kind=kind)
        try:
            await run_activity(
                NotificationActivities.announce,
                announce,
                TITLES[Step.ANNOUNCE] if kind is NotificationKind.READY else f"announce · {kind}",
                timing.DELIVERY_ATTEMPT,
                timing.DELIVERY_PATIENCE,
            )
        except ActivityError:
            workflow.logger.warning("announcement left to the outbox sweep")
