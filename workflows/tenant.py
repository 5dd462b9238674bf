"""Tenant: the long-lived entity that owns one tenant's state and runs one operation at a time.

Events arrive as signals, requests that deserve an answer as updates whose validators refuse an illegal move before
it enters the history. Provisioning and a change of the root key never overlap: each begins in states that the other
ends. Moves of the standing take turns among themselves and wait for nothing else: a kill switch that waited for an
operation to end would be none. The history is kept short by continuing as new with `TenantMemory`, which is all there
is to remember.
"""

import asyncio

from temporalio import workflow
from temporalio.common import SearchAttributePair, TypedSearchAttributes
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.notifications import NotificationActivities
    from activities.root_keys import RootKeyActivities
    from activities.standing import StandingActivities
    from tenancy import ids
    from tenancy.errors import IllegalMove, OpenKcmError, OperationRunning, TenantClosed
    from tenancy.events import EventKind
    from tenancy.lifecycle import DECRYPTS, MEANING, Move, State, advance, moves_from
    from tenancy.messages import (
        AnnounceInput,
        ChangeRootKeyInput,
        MarketplaceSignal,
        ProvisionInput,
        RootKeyRequest,
        RootKeyStep,
        StandingInput,
        StandingRequest,
        StandingResult,
        StepInput,
        TenantInput,
        TenantMemory,
    )
    from workflows import priorities, timing, visibility
    from workflows.provision import ProvisionTenant
    from workflows.refusals import code_of, refusal, refusal_of
    from workflows.root_key import ChangeRootKey
    from workflows.root_keys import ROOT_KEY_REPORTED
    from workflows.steps import note, perform

_LIVE = DECRYPTS | {State.LOCKED}
_REMEMBERED_EVENTS = 64
"""PostgreSQL refuses repeated events for good; this many are remembered here for those that slip past a crash there."""


@workflow.defn(name="Tenant")
class Tenant:
    @workflow.init
    def __init__(self, tenant: TenantInput) -> None:
        self._tenant = tenant
        self._memory = tenant.memory
        self._asked: Move | None = None
        self._standing = asyncio.Lock()
        self._changing = False
        self._to_tell: list[AnnounceInput] = []

    @workflow.run
    async def run(self, tenant: TenantInput) -> None:
        self._show(self._memory.state)
        while True:
            await workflow.wait_condition(
                lambda: (
                    self._asked is not None or bool(self._to_tell) or workflow.info().is_continue_as_new_suggested()
                ),
                timeout_summary="waiting for the next event",
            )
            if self._asked is not None:
                await self._provision(self._asked)
                self._asked = None
            elif self._to_tell:
                await self._tell(self._to_tell.pop(0))
            else:
                break
        await workflow.wait_condition(workflow.all_handlers_finished)
        while self._to_tell:
            await self._tell(self._to_tell.pop(0))
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

    @workflow.update(name="change-standing", description="Suspend, resume, lock or unlock the tenant")
    async def change_standing(self, request: StandingRequest) -> None:
        async with self._standing:
            step = StandingInput(**self._step(request.move).model_dump(), move=request.move)
            try:
                self._stand(step, await note(StandingActivities.change_standing, step, f"{step.move} the tenant"))
            except ActivityError as failed:
                raise refusal_of(failed) from None

    @change_standing.validator
    def _may_change_standing(self, request: StandingRequest) -> None:
        if self._memory.state not in _LIVE:
            raise refusal(IllegalMove(self._memory.state, Move(request.move), moves_from(self._memory.state)))

    @workflow.signal(name=ROOT_KEY_REPORTED, description="The root key's health asks for another standing")
    async def root_key_reported(self) -> None:
        await self._follow_root_key()

    async def _follow_root_key(self) -> None:
        async with self._standing:
            step = self._step("root-key-health")
            try:
                self._stand(step, await note(StandingActivities.follow_root_key, step, "follow the root key"))
            except ActivityError as failed:
                workflow.logger.warning("standing not changed", extra={"code": code_of(failed)})

    @workflow.update(name="preflight-root-key", description="Try the root key of a stored request, change nothing")
    async def preflight_root_key(self, request: RootKeyRequest) -> None:
        step = RootKeyStep(**self._step("preflight").model_dump(), request_id=request.request_id)
        try:
            await perform(RootKeyActivities.preflight_root_key, step, "try a root key", timing.PREFLIGHT_ATTEMPT)
        except ActivityError as failed:
            raise refusal_of(failed) from None

    @preflight_root_key.validator
    def _may_preflight(self, request: RootKeyRequest) -> None:
        del request
        if self._memory.state not in _LIVE:
            raise refusal(TenantClosed(self._memory.state))

    @workflow.update(name="change-root-key", description="Put every service key under the root key of a stored request")
    async def change_root_key(self, request: RootKeyRequest) -> None:
        self._changing = True
        try:
            await self._change(request)
        finally:
            self._changing = False

    @change_root_key.validator
    def _may_change_root_key(self, request: RootKeyRequest) -> None:
        del request
        if self._changing:
            raise refusal(OperationRunning("a change of the root key"))
        if self._memory.state not in _LIVE:  # whether a locked one may is decided with its locks, which are on record
            raise refusal(TenantClosed(self._memory.state))

    async def _change(self, request: RootKeyRequest) -> None:
        tenant = self._tenant
        self._remember(changes=self._memory.changes + 1)
        result = await workflow.execute_child_workflow(
            ChangeRootKey.run,
            ChangeRootKeyInput(
                tenant_id=tenant.tenant_id,
                region=tenant.region,
                number=self._memory.changes,
                request_id=request.request_id,
            ),
            id=ids.root_key_workflow(tenant.tenant_id, self._memory.changes),
            priority=priorities.service(tenant.tenant_id),
            static_summary=f"change the root key of {tenant.tenant_id}",
            search_attributes=self._found_by(),
        )
        if result.mode is None:
            raise ApplicationError(
                "the root key was not changed and the former one is in force\n"
                f"openkcm root-key show {tenant.tenant_id} says what was found",
                type=result.code,
                non_retryable=True,
            )
        workflow.upsert_search_attributes([visibility.ROOT_KEY_MODE.value_set(result.mode)])
        # How the tenant stands now is asked of its row: it may have been moved while the change ran, or just after.
        await self._follow_root_key()

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
            search_attributes=self._found_by(),
        )
        self._enter(advance(self._memory.state, Move.ACTIVATE if result.state is State.ACTIVE else Move.FAIL))

    async def _tell(self, announce: AnnounceInput) -> None:
        try:
            await perform(
                NotificationActivities.announce,
                announce,
                f"announce · {announce.kind}",
                timing.DELIVERY_ATTEMPT,
                timing.DELIVERY_PATIENCE,
            )
        except ActivityError:
            workflow.logger.warning("announcement left to the outbox sweep")

    def _step(self, what: str) -> StepInput:
        """Return the input of the next step of the standing; no operation id is ever used twice."""
        self._remember(operations=self._memory.operations + 1)
        return StepInput(tenant_id=self._tenant.tenant_id, operation_id=f"{what}-{self._memory.operations}")

    def _stand(self, step: StepInput, result: StandingResult) -> None:
        if result.told is not None:
            self._to_tell.append(
                AnnounceInput(tenant_id=step.tenant_id, operation_id=step.operation_id, kind=result.told)
            )
        self._enter(result.state)

    def _found_by(self) -> TypedSearchAttributes:
        return TypedSearchAttributes(
            [
                SearchAttributePair(visibility.TENANT_ID, self._tenant.tenant_id),
                SearchAttributePair(visibility.REGION, self._tenant.region),
            ]
        )

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
