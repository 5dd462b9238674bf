"""Recovery of lost workflows: of all tenants and services on a schedule, and of one tenant on request.

A workflow is lost with Temporal's storage, or ends by an operator's mistake. The rows state which workflows are
required; each new one reads its state from them (workflows/tenants.py), so the order of the starts does not matter.

The same rows state which locks the key server has a copy of.
"""

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.lock_records import LockRecordActivities
    from activities.recovery import RecoveryActivities
    from activities.store_repair import StoreRepairActivities
    from core.messages.recovery import RecoverTenantInput, RecoveryCursor, RecoveryPage, RepairTenantInput
    from workflows.runtime import timeouts as timing
    from workflows.runtime.activity_calls import raise_if_cancelled
    from workflows.runtime.failures import refusal_of


@workflow.defn(name="RecoverWorkflows")
class RecoverWorkflows:
    @workflow.run
    async def run(self, cursor: RecoveryCursor | None = None) -> None:
        after = RecoveryCursor() if cursor is None else cursor
        while True:
            page: RecoveryPage = await workflow.execute_activity_method(
                RecoveryActivities.recover_workflows,
                after,
                summary="start the lost workflows of services" if after.services else "start the lost workflows",
                start_to_close_timeout=timing.HEADS_ATTEMPT,
                heartbeat_timeout=timing.HEARTBEAT,
                retry_policy=timing.RETRY,
            )
            if page.next is None:
                return
            after = page.next
            if workflow.info().is_continue_as_new_suggested():
                workflow.continue_as_new(after)


@workflow.defn(name="RecoverTenant")
class RecoverTenant:
    """Starts the lost workflows of one tenant; a caller whose request found none waits for it."""

    @workflow.run
    async def run(self, tenant: RecoverTenantInput) -> None:
        await workflow.execute_activity_method(
            RecoveryActivities.recover_tenant,
            tenant,
            summary="start the lost workflows of the tenant",
            start_to_close_timeout=timing.ATTEMPT,
            retry_policy=timing.RETRY,
        )


@workflow.defn(name="RecordLocks")
class RecordLocks:
    """Writes the locks of tenants to the key server, where a worker could not write them at once."""

    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity_method(
            LockRecordActivities.record_locks,
            summary="record the locks of tenants at the key server",
            start_to_close_timeout=timing.HEADS_ATTEMPT,
            heartbeat_timeout=timing.HEARTBEAT,
            retry_policy=timing.RETRY,
        )


@workflow.defn(name="RepairTenant")
class RepairTenant:
    """Repairs the differences between the stores of one tenant, on an operator's request."""

    @workflow.run
    async def run(self, request: RepairTenantInput) -> None:
        try:
            await workflow.execute_activity_method(
                StoreRepairActivities.repair_stores,
                request,
                summary="repair rows and key server",
                start_to_close_timeout=timing.HEADS_ATTEMPT,
                heartbeat_timeout=timing.HEARTBEAT,
                retry_policy=timing.RETRY,
            )
            if request.replace_workflows:
                await workflow.execute_activity_method(
                    StoreRepairActivities.end_tenant_workflows,
                    request,
                    summary="end workflows that started from other rows",
                    start_to_close_timeout=timing.ATTEMPT,
                    retry_policy=timing.RETRY,
                )
            await workflow.execute_activity_method(
                RecoveryActivities.recover_tenant,
                RecoverTenantInput(tenant_id=request.tenant_id),
                summary="start the workflows of the tenant",
                start_to_close_timeout=timing.ATTEMPT,
                retry_policy=timing.RETRY,
            )
        except ActivityError as failed:
            raise_if_cancelled(failed)
            raise refusal_of(failed) from None
