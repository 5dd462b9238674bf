"""Tenant: the long-lived entity that owns one tenant's state and runs one operation at a time.

Events arrive as signals, requests that deserve an answer as updates whose validators refuse an illegal move before
it enters the history. Both only queue; `run` alone starts operations, so no two ever overlap. The history is kept
short by continuing as new with `TenantMemory`, which is all there is to remember.
"""

from temporalio import workflow
from temporalio.common import SearchAttributePair, TypedSearchAttributes

with workflow.unsafe.imports_passed_through():
    from tenancy import ids
    from tenancy.errors import OpenKcmError, OperationRunning
    from tenancy.events import EventKind
    from tenancy.lifecycle import MEANING, Move, State, advance
    from tenancy.messages import MarketplaceSignal, ProvisionInput, TenantInput, TenantMemory
    from workflows import priorities, visibility
    from workflows.provision import ProvisionTenant
    from workflows.refusals import refusal

_REMEMBERED_EVENTS = 64
"""PostgreSQL refuses repeated events for good; this many are remembered here for those that slip past a crash there."""


@workflow.defn(name="Tenant")
class Tenant:
    @workflow.init
    def __init__(self, tenant: TenantInput) -> None:
        self._tenant = tenant
        self._memory = tenant.memory
        self._asked: Move | None = None

    @workflow.run
    async def run(self, tenant: TenantInput) -> None:
        self._show(self._memory.state)
        while True:
            await workflow.wait_condition(
                lambda: self._asked is not None or workflow.info().is_continue_as_new_suggested(),
                timeout_summary="waiting for the next event",
            )
            if self._asked is None:
                break
            await self._provision(self._asked)
            self._asked = None
        await workflow.wait_condition(workflow.all_handlers_finished)
        workflow.continue_as_new(tenant.model_copy(update={"memory": self._memory}))

    @workflow.signal(name="marketplace-event", description="An accepted marketplace event, by its id")
    def marketplace_event(self, event: MarketplaceSignal) -> None:
        if event.event_id in self._memory.seen_events:
            return
        seen = (*self._memory.seen_events, event.event_id)[-_REMEMBERED_EVENTS:]
        self._remember(seen_events=seen)
        if event.kind != EventKind.SERVICE_ENABLED or self._asked is not None:
            return
        if self._memory.state is State.REQUESTED:
            self._asked = Move.PROVISION
        elif self._memory.state is State.FAILED:
            # A customer who enables again after a failure asks for exactly this.
            self._asked = Move.RETRY

    @workflow.update(name="retry", description="Provision a failed tenant again")
    def retry(self) -> None:
        self._asked = Move.RETRY

    @retry.validator
    def _may_retry(self) -> None:
        if self._asked is not None:
            raise refusal(OperationRunning("provisioning"))
        try:
            advance(self._memory.state, Move.RETRY)
        except OpenKcmError as illegal:
            raise refusal(illegal) from None

    async def _provision(self, move: Move) -> None:
        self._enter(advance(self._memory.state, move))
        self._remember(provisions=self._memory.provisions + 1)
        tenant = self._tenant
        result = await workflow.execute_child_workflow(
            ProvisionTenant.run,
            ProvisionInput(
                tenant_id=tenant.tenant_id,
                region=tenant.region,
                attempt=self._memory.provisions,
                promise_seconds=tenant.promise_seconds,
            ),
            id=ids.provision_workflow(tenant.tenant_id),
            priority=priorities.provision(tenant.tenant_id),
            static_summary=f"provision {tenant.tenant_id}",
            search_attributes=TypedSearchAttributes(
                [
                    SearchAttributePair(visibility.TENANT_ID, tenant.tenant_id),
                    SearchAttributePair(visibility.REGION, tenant.region),
                ]
            ),
        )
        self._enter(advance(self._memory.state, Move.ACTIVATE if result.state is State.ACTIVE else Move.FAIL))

    def _remember(self, **changes: object) -> None:
        self._memory = TenantMemory.model_validate(self._memory.model_dump() | changes)

    def _enter(self, state: State) -> None:
        self._remember(state=state)
        # The gateway starts a tenant as provisioning, which it is a moment later; writing that twice costs as much as
        # a step does.
        if workflow.info().typed_search_attributes.get(visibility.LIFECYCLE_STATE) != state:
            workflow.upsert_search_attributes([visibility.LIFECYCLE_STATE.value_set(state)])
        self._show(state)

    def _show(self, state: State) -> None:
        workflow.set_current_details(f"**{state}**: {MEANING[state]}")
