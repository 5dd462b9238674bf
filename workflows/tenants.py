"""Tenant: the long-lived workflow that owns one tenant's state and runs one operation at a time.

Events are signals. Requests with a result are updates; their validators reject an invalid request before it enters the
history. Each kind of operation has a class of handlers in another module, based on `runtime.tenant_base`. This module
combines them with events, provisioning and the main loop. Continue-as-new keeps the history short;
`TenantWorkflowState` is the complete state of a run. A workflow without a previous run first reads the tenant's state
from the database, so a lost history loses no tenant (workflows/recovery.py).
"""

from contextlib import suppress

from temporalio import workflow
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import ActivityError, ChildWorkflowError

with workflow.unsafe.imports_passed_through():
    from activities.provisioning import ProvisioningActivities, TenantKeyActivities
    from activities.tenants import StoredTenantActivities
    from core import names as ids
    from core.errors.tenants import OperationRunning
    from core.messages.base import FailureInput, StepInput
    from core.messages.tenants import MarketplaceSignal, ProvisionInput, TenantInput
    from core.tenants.lifecycle import State, Transition, transition
    from core.tenants.provisioning import EventKind
    from openkcm.errors import OpenKcmError
    from workflows.approvals import ApprovalHandlers
    from workflows.certificates import CaRotationHandlers
    from workflows.provisioning import ProvisionTenant, provision_operation
    from workflows.runtime import options as priorities
    from workflows.runtime.activity_calls import run_activity, run_local_activity
    from workflows.runtime.failures import code_of, refusal
    from workflows.runtime.update_limits import UpdateKind

_REMEMBERED_EVENTS = 64
"""PostgreSQL rejects repeated events; this many are also kept here for duplicates after a crash of the endpoint."""


@workflow.defn(name="Tenant")
class Tenant(ApprovalHandlers, CaRotationHandlers):
    @workflow.init
    def __init__(self, tenant: TenantInput) -> None:
        super().__init__(tenant)

    @workflow.run
    async def run(self, tenant: TenantInput) -> None:
        if not self._loaded:
            await self._load()
            self._gone = self._memory.state is State.OFFBOARDED
            if not self._gone and not self._memory.provision:
                await self._load_payload_key()
        self._show(self._memory.state)
        while not self._gone:
            ends = self._next_expiry()
            with suppress(TimeoutError):
                await workflow.wait_condition(
                    lambda: self._has_work() or self._next_expiry() != ends,  # noqa: B023 - evaluated before the next
                    timeout=self._until(ends),
                    timeout_summary="expiry of the next request for approval",
                )
            if self._may_continue_as_new():
                # Nothing is awaited from here on, so no update is accepted that this run cannot finish.
                workflow.continue_as_new(tenant.model_copy(update={"memory": self._memory}))
            await self._do_next()
        await workflow.wait_condition(workflow.all_handlers_finished)  # unsent notifications were erased

    async def _load_payload_key(self) -> None:
        """Use the tenant's key for payloads again; status changes do not wait for the key server."""
        step = StepInput(tenant_id=self._tenant.tenant_id, operation_id="load")
        try:
            await run_activity(TenantKeyActivities.load_payload_key, step, "use the tenant's payload key")
        except ActivityError as failed:
            workflow.logger.warning("payload key not loaded", extra={"code": code_of(failed)})

    def _has_work(self) -> bool:
        return (
            self._memory.provision
            or bool(self._memory.approved)
            or bool(self._memory.notifications)
            or self._has_pending_event
            or self._gone
            or self._may_continue_as_new()
        )

    def _may_continue_as_new(self) -> bool:
        """Return whether the history is long and every accepted request is finished or in the memory."""
        return workflow.info().is_continue_as_new_suggested() and workflow.all_handlers_finished() and not self._gone

    async def _do_next(self) -> None:
        if self._gone:
            return
        if self._memory.provision:
            await self._provision()
        elif self._memory.approved:
            await self._execute_next_approved()
        elif self._has_pending_event:
            enabled = EventKind.SERVICE_ENABLED in self._memory.pending_events
            await self._process_pending_event()
            if enabled and self._memory.state is State.FAILED:
                self._remember(provision=True)
        elif self._memory.notifications:
            await self._send_notification()
        elif self._is_overdue():
            await self._expire()

    @workflow.signal(name="marketplace-event", description="An accepted marketplace event, by its id")
    async def marketplace_event(self, event: MarketplaceSignal) -> None:
        await self._until_loaded()
        if event.event_id in self._memory.seen_events:
            return
        seen = (*self._memory.seen_events, event.event_id)[-_REMEMBERED_EVENTS:]
        self._remember(seen_events=seen)
        if event.kind == EventKind.SERVICE_DISABLED:
            self._store_pending_event(EventKind.SERVICE_DISABLED)
            return
        if self._memory.state is State.LEAVING or self._memory.pending_events or self._operation is not None:
            self._store_pending_event(EventKind.SERVICE_ENABLED)
            return
        # A customer who enables the service again after a failure requests a retry.
        if event.kind == EventKind.SERVICE_ENABLED and self._memory.state in {State.REQUESTED, State.FAILED}:
            self._remember(provision=True)

    @workflow.update(name="retry", description="Provision a failed tenant again")
    async def retry(self) -> None:
        if self._memory.state is not State.FAILED:
            with self._in_flight.counted(UpdateKind.CHANGE):
                async with self._status_lock:
                    await self._read_state()
        try:
            transition(self._memory.state, Transition.RETRY)
        except OpenKcmError as illegal:
            raise refusal(illegal) from None
        self._remember(provision=True)

    @retry.validator
    def _may_retry(self) -> None:
        self._require_loaded()
        self._require_idle()
        self._in_flight.require_capacity(UpdateKind.CHANGE)
        if self._memory.provision:
            raise refusal(OperationRunning("provisioning"))
        self._require_not_offboarded(Transition.RETRY)

    async def _provision(self) -> None:
        self._enter(State.PROVISIONING)
        self._remember(provisions=self._memory.provisions + 1)
        tenant = self._tenant
        try:
            result = await workflow.execute_child_workflow(
                ProvisionTenant.run,
                ProvisionInput(
                    tenant_id=tenant.tenant_id,
                    region=tenant.region,
                    attempt=self._memory.provisions,
                    provisioning_slo_seconds=tenant.provisioning_slo_seconds,
                ),
                id=ids.provision_workflow(tenant.tenant_id),
                # Only a child of an earlier, lost tenant workflow can still run; its operation must not end this one.
                id_reuse_policy=WorkflowIDReusePolicy.TERMINATE_IF_RUNNING,
                task_queue=ids.operation_queue(tenant.region),
                priority=priorities.provision(tenant.tenant_id),
                static_summary=f"provision {tenant.tenant_id}",
                search_attributes=self._search_attributes(),
            )
        except ChildWorkflowError as stopped:
            if workflow.cancellation_reason() is not None:
                raise
            state = await self._record_stopped_provisioning(stopped)
        else:
            state = result.state
        self._remember(provision=False)
        if self._memory.state is State.PROVISIONING:  # else its status changed while its notification was sent
            # After a refused or stopped provisioning the row may still wait for one; an operator starts it by a retry.
            self._enter(State.FAILED if state in {State.REQUESTED, State.PROVISIONING} else state)

    async def _record_stopped_provisioning(self, stopped: ChildWorkflowError) -> State:
        """Record that provisioning ended without a result, for example because an operator terminated it."""
        step = StepInput(tenant_id=self._tenant.tenant_id, operation_id=provision_operation(self._memory.provisions))
        failure = FailureInput(**step.model_dump(), code=code_of(stopped), reason="ProvisionTenant")
        try:
            await run_local_activity(ProvisioningActivities.record_failure, failure, "record the failure")
        except ActivityError as refused:
            workflow.logger.warning("failure not recorded", extra={"code": code_of(refused)})
        try:
            read = await run_local_activity(StoredTenantActivities.read_tenant_state, step, "read the tenant's state")
        except ActivityError:
            return State.FAILED
        return read.state
