"""Tenant: the long-lived workflow that owns one tenant's state and runs one operation at a time.

Events are signals. Requests with a result are updates; their validators reject an invalid request before it enters the
history. Each kind of operation has a class of handlers in another module, based on `runtime.tenant_base`. This module
combines them with events, provisioning and the main loop. Continue-as-new keeps the history short;
`TenantWorkflowState` is the complete state.
"""

from contextlib import suppress

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from core import names as ids
    from core.errors.tenants import OperationRunning
    from core.messages.tenants import MarketplaceSignal, ProvisionInput, TenantInput
    from core.tenants.lifecycle import State, Transition, transition
    from core.tenants.provisioning import EventKind
    from openkcm.errors import OpenKcmError
    from workflows.approvals import ApprovalHandlers
    from workflows.certificates import CaRotationHandlers
    from workflows.provisioning import ProvisionTenant
    from workflows.runtime import options as priorities
    from workflows.runtime.failures import refusal

_REMEMBERED_EVENTS = 64
"""PostgreSQL rejects repeated events; this many are also kept here for duplicates after a crash of the endpoint."""


@workflow.defn(name="Tenant")
class Tenant(ApprovalHandlers, CaRotationHandlers):
    @workflow.init
    def __init__(self, tenant: TenantInput) -> None:
        super().__init__(tenant)
        self._requested: Transition | None = None

    @workflow.run
    async def run(self, tenant: TenantInput) -> None:
        self._show(self._memory.state)
        while True:
            ends = self._next_expiry()
            with suppress(TimeoutError):
                await workflow.wait_condition(
                    lambda: (
                        self._requested is not None
                        or bool(self._notifications)
                        or self._has_pending_event
                        or self._gone
                        or self._next_expiry() != ends  # noqa: B023 - evaluated before the next iteration
                        or workflow.info().is_continue_as_new_suggested()
                    ),
                    timeout=self._until(ends),
                    timeout_summary="expiry of the next request for approval",
                )
            if self._gone:
                await workflow.wait_condition(workflow.all_handlers_finished)
                return  # unsent notifications were erased
            if self._requested is not None:
                await self._provision(self._requested)
                self._requested = None
            elif self._has_pending_event:
                enabled = self._memory.wish is EventKind.SERVICE_ENABLED
                await self._process_pending_event()
                if enabled and self._memory.state is State.FAILED:
                    self._requested = Transition.RETRY
            elif self._notifications:
                await self._notify(self._notifications.pop(0))
            elif self._is_overdue():
                await self._expire()
            elif workflow.info().is_continue_as_new_suggested():
                break
        await workflow.wait_condition(workflow.all_handlers_finished)
        while self._notifications:
            await self._notify(self._notifications.pop(0))
        workflow.continue_as_new(tenant.model_copy(update={"memory": self._memory}))

    @workflow.signal(name="marketplace-event", description="An accepted marketplace event, by its id")
    def marketplace_event(self, event: MarketplaceSignal) -> None:
        if event.event_id in self._memory.seen_events:
            return
        seen = (*self._memory.seen_events, event.event_id)[-_REMEMBERED_EVENTS:]
        self._remember(seen_events=seen)
        if event.kind == EventKind.SERVICE_DISABLED:
            self._store_pending_event(EventKind.SERVICE_DISABLED)
            return
        if self._memory.state is State.LEAVING or self._memory.wish is not None or self._operation is not None:
            self._store_pending_event(EventKind.SERVICE_ENABLED)
            return
        if event.kind != EventKind.SERVICE_ENABLED or self._requested is not None:
            return
        if self._memory.state is State.REQUESTED:
            self._requested = Transition.PROVISION
        elif self._memory.state is State.FAILED:
            # A customer who enables the service again after a failure requests a retry.
            self._requested = Transition.RETRY

    @workflow.update(name="retry", description="Provision a failed tenant again")
    def retry(self) -> None:
        self._requested = Transition.RETRY

    @retry.validator
    def _may_retry(self) -> None:
        self._require_idle()
        if self._requested is not None:
            raise refusal(OperationRunning("provisioning"))
        try:
            transition(self._memory.state, Transition.RETRY)
        except OpenKcmError as illegal:
            raise refusal(illegal) from None

    async def _provision(self, move: Transition) -> None:
        self._enter(transition(self._memory.state, move))
        self._remember(provisions=self._memory.provisions + 1)
        tenant = self._tenant
        result = await workflow.execute_child_workflow(
            ProvisionTenant.run,
            ProvisionInput(
                tenant_id=tenant.tenant_id,
                region=tenant.region,
                attempt=self._memory.provisions,
                provisioning_slo_seconds=tenant.provisioning_slo_seconds,
            ),
            id=ids.provision_workflow(tenant.tenant_id),
            task_queue=ids.operation_queue(tenant.region),
            priority=priorities.provision(tenant.tenant_id),
            static_summary=f"provision {tenant.tenant_id}",
            search_attributes=self._search_attributes(),
        )
        if self._memory.state is State.PROVISIONING:  # else its status changed while its notification was sent
            self._enter(
                transition(self._memory.state, Transition.ACTIVATE if result.state is State.ACTIVE else Transition.FAIL)
            )
