"""ProvisionTenant: from a stored event to an active tenant.

The step numbers are those of docs/provisioning.md, which explains their order. The intention is recorded before
anything is created (1). Created keys have fixed names, so a second run finds them (2 and 3, in parallel). The tenant is
unreachable until it passes the isolation gate (4). One transaction stores route, state and notification (5). The
notification is sent last, because it alone cannot be undone (6).
"""

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.isolation.gate import IsolationGateActivities
    from activities.notifications import NotificationActivities
    from activities.provisioning import ProvisioningActivities, TenantCaActivities, TenantKeyActivities
    from activities.tenants import StoredTenantActivities
    from core.messages.base import AnnounceInput, FailureInput, StepInput
    from core.messages.tenants import ActivateResult, ProvisionInput, ProvisionResult
    from core.names import ActivityKind
    from core.notifications import NotificationKind
    from core.tenants.lifecycle import State
    from core.tenants.provisioning import TITLES, Step, steps_of
    from workflows.runtime import options as visibility
    from workflows.runtime import timeouts as timing
    from workflows.runtime.activity_calls import run_activity, run_key_server_activity, run_local_activity
    from workflows.runtime.failures import STOPPED, code_of, step_of


def provision_operation(attempt: int) -> str:
    """Return the operation id of one provisioning."""
    return f"provision-{attempt}"


@workflow.defn(name="ProvisionTenant")
class ProvisionTenant:
    @workflow.init
    def __init__(self, request: ProvisionInput) -> None:
        self._step = StepInput(tenant_id=request.tenant_id, operation_id=provision_operation(request.attempt))
        self._begun = self._late = False

    @workflow.run
    async def run(self, request: ProvisionInput) -> ProvisionResult:
        slo = asyncio.create_task(self._watch_slo(timedelta(seconds=request.provisioning_slo_seconds)))
        try:
            activated = await self._make()
        except STOPPED as failed:
            if not self._begun:
                return await self._leave_unchanged(failed)
            await self._roll_back(failed)
            return ProvisionResult(state=State.FAILED)
        finally:
            if self._late:
                await slo
            else:
                slo.cancel()
        if activated.messages:
            await self._announce(NotificationKind.READY)
        return ProvisionResult(state=State.ACTIVE)

    async def _make(self) -> ActivateResult:
        step = self._step
        await run_local_activity(ProvisioningActivities.open_records, step, TITLES[Step.OPEN_RECORDS])
        self._begun = True
        made = await asyncio.gather(
            run_key_server_activity(TenantKeyActivities.create_keys, step, TITLES[Step.CREATE_KEYS]),
            run_key_server_activity(TenantCaActivities.create_authority, step, TITLES[Step.CREATE_AUTHORITY]),
            return_exceptions=True,
        )
        # A rollback waits for the end of both, because it would miss what one of them still creates.
        for failed in made:
            if failed is not None:
                raise failed
        if Step.CHECK_BOUNDARIES in steps_of(step.tenant_id):
            await run_key_server_activity(IsolationGateActivities.check_boundaries, step, TITLES[Step.CHECK_BOUNDARIES])
        return await run_local_activity(ProvisioningActivities.activate, step, TITLES[Step.ACTIVATE])

    async def _watch_slo(self, promised: timedelta) -> None:
        """Alert on a breach of the provisioning SLO and notify the customer; provisioning continues."""
        await workflow.sleep(promised, summary="provisioning SLO")
        self._late = True
        workflow.upsert_search_attributes([visibility.PROMISE_BROKEN.value_set(True)])  # noqa: FBT003 - its API
        workflow.set_current_details(
            "**Late.** The provisioning SLO is breached; the retrying step below shows the cause."
        )
        workflow.logger.warning("provisioning SLO breached")
        try:
            await run_activity(
                ProvisioningActivities.break_promise, self._step, "alert · the provisioning SLO is breached"
            )
        except ActivityError:
            workflow.logger.warning("breach of the provisioning SLO not recorded")
            return
        await self._announce(NotificationKind.LATE)

    async def _leave_unchanged(self, refused: ActivityError | asyncio.CancelledError) -> ProvisionResult:
        """Return the tenant's state after a refused first step: this operation created nothing that it could undo."""
        workflow.set_current_details(f"**Refused:** `{code_of(refused)}`. Nothing was created or changed.")
        read = await run_local_activity(StoredTenantActivities.read_tenant_state, self._step, "read the tenant's state")
        return ProvisionResult(state=read.state)

    async def _roll_back(self, failed: ActivityError | asyncio.CancelledError) -> None:
        """Undo a failed provisioning without a loss: keys are disabled, and a retry enables them again."""
        code = code_of(failed)
        workflow.set_current_details(
            f"**Failed:** `{code}`. See docs/runbook.md#symptoms, then `openkcmctl tenant retry`."
        )
        failure = FailureInput(**self._step.model_dump(), code=code, reason=step_of(failed))
        await run_activity(TenantKeyActivities.disable_tenant_key, self._step, "roll back · disable the tenant key")
        await run_activity(TenantCaActivities.disable_authority, self._step, "roll back · disable the tenant CA")
        await run_activity(ProvisioningActivities.record_failure, failure, "roll back · record the failure")
        await self._announce(NotificationKind.FAILED)

    async def _announce(self, kind: NotificationKind) -> None:
        announce = AnnounceInput(**self._step.model_dump(), kind=kind)
        try:
            await run_activity(
                NotificationActivities.announce,
                announce,
                TITLES[Step.ANNOUNCE] if kind is NotificationKind.READY else f"notify · {kind}",
                timing.DELIVERY_ATTEMPT,
                timing.DELIVERY_DEADLINE,
                kind=ActivityKind.LONG,
            )
        except ActivityError:
            workflow.logger.warning("notification not sent; the outbox sweep retries")
