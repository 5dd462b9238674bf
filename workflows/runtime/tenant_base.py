"""What every part of a tenant's entity shares: its memory, who is at work on it, and how it shows itself.

One operation runs at a time (`begin` to `end`), because each begins with what the other would change under it. Moves of
the standing take turns among themselves and wait for nothing else: a kill switch that waited for an operation to end
would be none.

The part of a tenant's entity that moves its standing: suspended or not, locked or not.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from temporalio import workflow
from temporalio.common import SearchAttributePair, TypedSearchAttributes
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.notifications import NotificationActivities
    from activities.tenants import TenantStatusActivities
    from core.errors.tenants import InvalidTransition, OperationRunning, TenantNotOperational
    from core.messages.base import AnnounceInput, StepInput
    from core.messages.tenants import (
        StatusChange,
        StatusChangeInput,
        StatusChangeRequest,
        StatusChangeResult,
        TenantInput,
        TenantWorkflowState,
    )
    from core.tenants.lifecycle import DECRYPTS, MEANING, State, Transition, transitions_from
    from workflows.runtime import options as visibility
    from workflows.runtime import timeouts as timing
    from workflows.runtime.activity_calls import run_activity, run_local_activity
    from workflows.runtime.failures import code_of, refusal, refusal_of
    from workflows.runtime.signals import BOUNDARIES_REPORTED, ROOT_KEY_REPORTED


LIVE = DECRYPTS | {State.LOCKED}
"""The states of a tenant that was opened and has not left."""


class TenantWorkflowBase:
    """The part of `workflows.tenants.Tenant` that its other parts are built on."""

    def __init__(self, tenant: TenantInput) -> None:
        self._tenant = tenant
        self._memory = tenant.memory
        self._standing = asyncio.Lock()
        self._operation: str | None = None
        self._to_tell: list[AnnounceInput] = []

    @contextmanager
    def _at_work(self, operation: str) -> Iterator[None]:
        """Run one operation, whose name tells others why they are refused; `_refuse_while_at_work` came before."""
        self._operation = operation
        try:
            yield
        finally:
            self._operation = None

    def _refuse_while_at_work(self) -> None:
        """Raise OperationRunning, as a refusal, when an operation runs."""
        if self._operation is not None:
            raise refusal(OperationRunning(self._operation))

    def _refuse_unless_in(self, states: frozenset[State]) -> None:
        """Raise TenantNotOperational, as a refusal, in any other state."""
        if self._memory.state not in states:
            raise refusal(TenantNotOperational(self._memory.state))

    def _step(self, what: str) -> StepInput:
        """Return the input of the entity's next own step; no operation id is ever used twice."""
        self._remember(operations=self._memory.operations + 1)
        return StepInput(tenant_id=self._tenant.tenant_id, operation_id=f"{what}-{self._memory.operations}")

    def _stand(self, step: StepInput, result: StatusChangeResult) -> None:
        """Take over how the tenant stands after a step, and have told what there is to tell."""
        if result.told is not None:
            self._to_tell.append(
                AnnounceInput(tenant_id=step.tenant_id, operation_id=step.operation_id, kind=result.told)
            )
        self._enter(result.state)

    async def _tell(self, announce: AnnounceInput) -> None:
        try:
            await run_activity(
                NotificationActivities.announce,
                announce,
                f"announce · {announce.kind}",
                timing.DELIVERY_ATTEMPT,
                timing.DELIVERY_PATIENCE,
            )
        except ActivityError:
            workflow.logger.warning("announcement left to the outbox sweep")

    def _found_by(self) -> TypedSearchAttributes:
        """Return the search attributes of the tenant's other workflows."""
        return TypedSearchAttributes(
            [
                SearchAttributePair(visibility.TENANT_ID, self._tenant.tenant_id),
                SearchAttributePair(visibility.REGION, self._tenant.region),
            ]
        )

    def _remember(self, **changes: object) -> None:
        self._memory = TenantWorkflowState.model_validate(self._memory.model_dump() | changes)

    def _enter(self, state: State) -> None:
        self._remember(state=state)
        # The gateway starts a tenant as provisioning, which it is a moment later; writing that twice costs as much as
        # a step does.
        if workflow.info().typed_search_attributes.get(visibility.LIFECYCLE_STATE) != state:
            workflow.upsert_search_attributes([visibility.LIFECYCLE_STATE.value_set(state)])
        self._show(state)

    def _show(self, state: State) -> None:
        workflow.set_current_details(self._shown(state))

    def _shown(self, state: State) -> str:
        return f"**{state}**: {MEANING[state]}"


class StatusHandlers(TenantWorkflowBase):
    @workflow.update(name="change-standing", description="Suspend, resume, lock or unlock the tenant")
    async def change_standing(self, request: StatusChangeRequest) -> None:
        await self._move(request)

    @change_standing.validator
    def _may_change_standing(self, request: StatusChangeRequest) -> None:
        if self._memory.state not in LIVE:
            # What clears a breach unlocks, as the life of a tenant has it.
            move = Transition.UNLOCK if request.move is StatusChange.CLEAR_BREACH else Transition(request.move)
            raise refusal(InvalidTransition(self._memory.state, move, transitions_from(self._memory.state)))

    async def _move(self, request: StatusChangeRequest) -> None:
        async with self._standing:
            step = StatusChangeInput(**self._step(request.move).model_dump(), **request.model_dump())
            try:
                self._stand(
                    step,
                    await run_local_activity(TenantStatusActivities.change_standing, step, f"{step.move} the tenant"),
                )
            except ActivityError as failed:
                raise refusal_of(failed) from None

    @workflow.signal(name=BOUNDARIES_REPORTED, description="The newest examination of the tenant found a breach")
    async def boundaries_reported(self) -> None:
        async with self._standing:
            step = self._step("boundaries")
            try:
                self._stand(
                    step,
                    await run_local_activity(TenantStatusActivities.follow_boundaries, step, "follow the examination"),
                )
            except ActivityError as failed:
                workflow.logger.warning("standing not changed", extra={"code": code_of(failed)})

    @workflow.signal(name=ROOT_KEY_REPORTED, description="The root key's health asks for another standing")
    async def root_key_reported(self) -> None:
        await self._follow_root_key()

    async def _follow_root_key(self) -> None:
        async with self._standing:
            step = self._step("root-key-health")
            try:
                self._stand(
                    step, await run_local_activity(TenantStatusActivities.follow_root_key, step, "follow the root key")
                )
            except ActivityError as failed:
                workflow.logger.warning("standing not changed", extra={"code": code_of(failed)})
