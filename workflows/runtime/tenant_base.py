"""The base of the tenant workflow (state, running operation, display), and the handlers for the tenant status.

One operation runs at a time, because each relies on state that another would change. Status changes are serialised
among themselves and wait for no operation: a lock must take effect at once.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from types import MappingProxyType
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import SearchAttributePair, TypedSearchAttributes
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.notifications import NotificationActivities
    from activities.tenants import StoredTenantActivities, TenantStatusActivities
    from core.errors.tenants import (
        InvalidTransition,
        OperationRepeated,
        OperationRunning,
        TenantNotOperational,
        TenantUnknown,
        WorkflowStarting,
    )
    from core.messages.base import AnnounceInput, StepInput
    from core.messages.tenants import (
        StatusChange,
        StatusChangeInput,
        StatusChangeRequest,
        StatusChangeResult,
        StoredTenant,
        TenantInput,
        TenantWorkflowState,
    )
    from core.names import ActivityKind
    from core.notifications import NotificationKind
    from core.tenants.lifecycle import DECRYPTS, MEANING, State, Transition, transitions_from
    from workflows.runtime import options as visibility
    from workflows.runtime import timeouts as timing
    from workflows.runtime.activity_calls import run_activity, run_local_activity
    from workflows.runtime.failures import code_of, is_retryable, refusal, refusal_of
    from workflows.runtime.signals import BOUNDARIES_REPORTED, ROOT_KEY_REPORTED
    from workflows.runtime.update_limits import UpdateKind, UpdatesInFlight

Input = TypeVar("Input", bound=StepInput)
Change = TypeVar("Change", bound=StatusChangeResult)

LIVE = DECRYPTS | {State.LOCKED}
"""The states of a tenant between activation and offboarding."""
_REMEMBERED_UPDATES = 64
_LOAD_PAUSE = timedelta(minutes=1)
"""The pause after the database rejected the first read, for example before a migration. An outage is retried sooner."""

_UNDONE_BY: Mapping[str, str] = MappingProxyType(
    {
        StatusChange.SUSPEND: StatusChange.RESUME,
        StatusChange.RESUME: StatusChange.SUSPEND,
        StatusChange.LOCK: StatusChange.UNLOCK,
        StatusChange.UNLOCK: StatusChange.LOCK,
        Transition.LEAVE: Transition.RESTORE,
        Transition.RESTORE: Transition.LEAVE,
    }
)
"""Requests and what undoes them. Events of the marketplace are not here: the rows decide which is its last word."""
_REQUESTS_IN_ORDER = "status-requests-in-order"
_SIGNALS_COMBINED = "status-signals-combined"
_ROOT_KEY_HEALTH = ("root-key-health", "apply the root key's health")


class TenantWorkflowBase:
    """The base of the handlers that form `workflows.tenants.Tenant`."""

    def __init__(self, tenant: TenantInput) -> None:
        self._tenant = tenant
        self._memory = tenant.memory or TenantWorkflowState()
        self._loaded = tenant.memory is not None
        self._status_lock = asyncio.Lock()
        self._operation: str | None = None
        self._in_flight = UpdatesInFlight()

    async def _load(self) -> None:
        """Read the state of the tenant from the database, before this new workflow does anything.

        The state is `offboarded` for a tenant that needs no workflow.
        """
        step = StepInput(tenant_id=self._tenant.tenant_id, operation_id="load")
        stored = await self._stored_tenant(step)
        while stored is None:
            await workflow.sleep(_LOAD_PAUSE, summary="read the tenant's state again")
            stored = await self._stored_tenant(step)
        self._memory = stored.memory or TenantWorkflowState(state=State.OFFBOARDED)
        self._loaded = True
        if stored.memory is None:
            return
        if not self._memory.provision:  # provisioning sets the state in the same task
            self._enter(self._memory.state)
        if workflow.info().typed_search_attributes.get(visibility.ROOT_KEY_MODE) != stored.root_key_mode:
            workflow.upsert_search_attributes([visibility.ROOT_KEY_MODE.value_set(stored.root_key_mode)])

    @staticmethod
    async def _stored_tenant(step: StepInput) -> StoredTenant | None:
        try:
            return await run_local_activity(StoredTenantActivities.load_tenant, step, "read the tenant's state")
        except ActivityError as failed:
            if code_of(failed) == TenantUnknown.code:
                return StoredTenant()
            workflow.logger.warning("state of the tenant not read", extra={"code": code_of(failed)})
            return None

    async def _until_loaded(self) -> None:
        """Wait until the state of a new workflow is read; a signal may arrive together with the start."""
        if not self._loaded:
            await workflow.wait_condition(lambda: self._loaded)

    def _require_loaded(self) -> None:
        """Raise WorkflowStarting, as a failure of the update, before the state of a new workflow is read."""
        if not self._loaded:
            raise refusal(WorkflowStarting())

    def _require_not_offboarded(self, move: Transition) -> None:
        """Raise InvalidTransition, as a failure of the update, for an offboarded tenant.

        In all other states the tenant's row decides: after a lost response, the state of this workflow can differ.
        """
        self._require_loaded()
        if self._memory.state is State.OFFBOARDED:
            raise refusal(InvalidTransition(self._memory.state, move, transitions_from(self._memory.state)))

    async def _read_state(self) -> bool:
        """Set the state to that of the tenant's row; return False if the row was not read.

        The caller holds `_status_lock`. During a provisioning the state stays, because its end sets it.
        """
        step = StepInput(tenant_id=self._tenant.tenant_id, operation_id="state")
        try:
            read = await run_local_activity(
                StoredTenantActivities.read_tenant_state, step, "read the tenant's state", once=True
            )
        except ActivityError as failed:
            workflow.logger.warning("state of the tenant not read", extra={"code": code_of(failed)})
            return False
        if not self._memory.provision:
            # No provisioning runs, so the row waits for one: an operator starts it by a retry.
            state = State.FAILED if read.state in {State.REQUESTED, State.PROVISIONING} else read.state
            if state is not self._memory.state:
                self._enter(state)
        return True

    @contextmanager
    def _running(self, operation: str) -> Iterator[None]:
        """Mark an operation as running; its name appears in rejections. The caller has called `_require_idle`."""
        self._operation = operation
        try:
            yield
        finally:
            self._operation = None

    def _is_repeated(self) -> bool:
        """Return whether an earlier run completed the update with this id.

        Temporal returns the result of a repeated id only within one run. Updates whose repetition the rows prevent need
        no such check.
        """
        update = workflow.current_update_info()
        return update is not None and update.id in self._memory.completed_updates

    def _complete_update(self) -> None:
        """Remember the id of the running update, which succeeded."""
        update = workflow.current_update_info()
        if update is not None:
            completed = (*self._memory.completed_updates, update.id)[-_REMEMBERED_UPDATES:]
            self._remember(completed_updates=completed)

    def _require_idle(self) -> None:
        """Raise OperationRunning, as a failure of the update, when an operation runs."""
        self._require_loaded()
        if self._operation is not None:
            raise refusal(OperationRunning(self._operation))

    def _require_state(self, states: frozenset[State]) -> None:
        """Raise TenantNotOperational, as a failure of the update, in any other state."""
        self._require_loaded()
        if self._memory.state not in states:
            raise refusal(TenantNotOperational(self._memory.state))

    def _step(self, what: str) -> StepInput:
        """Return the input of the next step; no operation id is used twice."""
        self._remember(operations=self._memory.operations + 1)
        return StepInput(tenant_id=self._tenant.tenant_id, operation_id=f"{what}-{self._memory.operations}")

    def _apply_status(self, step: StepInput, result: StatusChangeResult) -> None:
        """Store the tenant state after a step, and queue its notification."""
        if result.notification is not None:
            self._queue_notification(step, result.notification)
        self._enter(result.state)

    def _queue_notification(self, step: StepInput, kind: NotificationKind) -> None:
        announce = AnnounceInput(tenant_id=step.tenant_id, operation_id=step.operation_id, kind=kind)
        self._remember(notifications=(*self._memory.notifications, announce))

    async def _send_notification(self) -> None:
        """Send the oldest queued notification."""
        announce, *left = self._memory.notifications
        self._remember(notifications=tuple(left))
        try:
            await run_activity(
                NotificationActivities.announce,
                announce,
                f"notify · {announce.kind}",
                timing.DELIVERY_ATTEMPT,
                timing.DELIVERY_DEADLINE,
                kind=ActivityKind.LONG,
            )
        except ActivityError:
            workflow.logger.warning("notification not sent; the outbox sweep retries")

    def _search_attributes(self) -> TypedSearchAttributes:
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
        # The client starts the workflow with the state "provisioning"; a second write of it would cost as much as a
        # step.
        if workflow.info().typed_search_attributes.get(visibility.LIFECYCLE_STATE) != state:
            workflow.upsert_search_attributes([visibility.LIFECYCLE_STATE.value_set(state)])
        self._show(state)

    def _show(self, state: State) -> None:
        workflow.set_current_details(self._shown(state))

    def _shown(self, state: State) -> str:
        return f"**{state}**: {MEANING[state]}"


class StatusHandlers(TenantWorkflowBase):
    def __init__(self, tenant: TenantInput) -> None:
        super().__init__(tenant)
        self._requests = itertools.count(1)
        self._newest: dict[str, int] = {}
        """The number of the newest completed request of each kind. A run ends only without pending requests."""
        self._signalled: dict[str, bool] = {}
        """The kinds of signals with a running handler: whether another one arrived since its last attempt began."""

    @workflow.update(name="change-status", description="Suspend, resume, lock or unlock the tenant")
    async def change_standing(self, request: StatusChangeRequest) -> None:
        with self._in_flight.counted(_kind_of(request.move)):
            await self._move(request)

    @change_standing.validator
    def _may_change_standing(self, request: StatusChangeRequest) -> None:
        # To clear a breach is the transition "unlock" in the lifecycle.
        self._require_not_offboarded(
            Transition.UNLOCK if request.move is StatusChange.CLEAR_BREACH else Transition(request.move)
        )
        self._in_flight.require_capacity(_kind_of(request.move))

    async def _move(self, request: StatusChangeRequest) -> None:
        step = StatusChangeInput(**self._step(request.move).model_dump(), **request.model_dump())
        activity, summary = TenantStatusActivities.change_standing, f"{step.move} the tenant"
        try:
            async with self._requested_change(request.move, activity, step, summary):
                pass
        except ActivityError as failed:
            raise refusal_of(failed) from None

    @workflow.signal(name=BOUNDARIES_REPORTED, description="The newest isolation assessment found a breach")
    async def boundaries_reported(self) -> None:
        await self._until_loaded()
        await self._follow_signals(TenantStatusActivities.follow_boundaries, "boundaries", "apply the assessment")

    @workflow.signal(name=ROOT_KEY_REPORTED, description="The root key's health requires a status change")
    async def root_key_reported(self) -> None:
        await self._until_loaded()
        await self._follow_signals(TenantStatusActivities.follow_root_key, *_ROOT_KEY_HEALTH)

    async def _follow_root_key(self) -> None:
        await self._follow(TenantStatusActivities.follow_root_key, *_ROOT_KEY_HEALTH)

    async def _follow_signals(
        self, activity: Callable[[Any, StepInput], StatusChangeResult], name: str, summary: str
    ) -> None:
        """Follow the rows once for all signals until an attempt begins, because the attempt reads the rows.

        Monitoring repeats its signal while rows and lock differ. With a handler for each, an outage of the key server
        would fill the history, and a lock would wait for an attempt of each.
        """
        if name in self._signalled and workflow.patched(_SIGNALS_COMBINED):
            self._signalled[name] = True
            return

        def begin_attempt() -> None:
            self._signalled[name] = False

        begin_attempt()
        again = True
        while again:
            await self._follow(activity, name, summary, begin_attempt)
            again = self._signalled.get(name, False)
        self._signalled.pop(name, None)

    async def _follow(
        self,
        activity: Callable[[Any, StepInput], StatusChangeResult],
        name: str,
        summary: str,
        before_attempt: Callable[[], None] = lambda: None,
    ) -> None:
        try:
            async with self._status_change(activity, self._step(name), summary, before_attempt):
                pass
        except ActivityError as failed:
            workflow.logger.warning("status not changed", extra={"code": code_of(failed)})

    @asynccontextmanager
    async def _requested_change(
        self, request: str, activity: Callable[[Any, Input], Change], step: Input, summary: str
    ) -> AsyncIterator[tuple[State, Change]]:
        """Run a requested status change as `_status_change` does, unless a later request that undoes it is complete.

        Otherwise an unlock that is retried after an outage would undo a later lock that its caller relies on.

        Raises:
            ApplicationError: of OperationRepeated; the later request decides.
        """
        number = next(self._requests)

        def require_not_undone() -> None:
            undone = self._newest.get(_UNDONE_BY.get(request, ""), 0) > number
            if undone and workflow.patched(_REQUESTS_IN_ORDER):
                raise refusal(OperationRepeated())

        async with self._status_change(activity, step, summary, require_not_undone) as changed:
            self._newest[request] = max(number, self._newest.get(request, 0))
            yield changed

    @asynccontextmanager
    async def _status_change(
        self,
        activity: Callable[[Any, Input], Change],
        step: Input,
        summary: str,
        before_attempt: Callable[[], None] = lambda: None,
    ) -> AsyncIterator[tuple[State, Change]]:
        """Run the step of a status change and apply its result; no other status change runs until the block ends.

        The value is the former state of the tenant and the result of the step.

        The turn ends after each failed attempt: a lock waits for one attempt, not for the repair of what fails.

        Raises:
            ActivityError: the step failed with an error that is not retryable.
        """
        for attempt in itertools.count(1):
            async with self._status_lock:
                before_attempt()
                try:
                    result = await run_local_activity(activity, step, summary, once=True)
                except ActivityError as failed:
                    if not is_retryable(failed):
                        await self._read_state()  # after a lost response, the state here can differ from the row
                        raise
                else:
                    former = self._memory.state
                    self._apply_status(step, result)
                    yield former, result
                    return
            await workflow.sleep(timing.retry_pause(attempt), summary=f"{summary} · retry")


def _kind_of(move: StatusChange) -> UpdateKind:
    return UpdateKind.LOCK if move is StatusChange.LOCK else UpdateKind.CHANGE
