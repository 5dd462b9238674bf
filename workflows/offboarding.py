"""Offboarding: the handlers of the tenant workflow, and the workflow OffboardTenant.

The handlers start an offboarding and restore a tenant within the grace period. The grace period and the destruction are
a separate workflow, which outlives the tenant workflow. The tenant's row decides whether restoration or destruction
comes first, and whether a request is possible.

The step numbers of OffboardTenant are those of docs/offboarding.md, which explains their order. Until step 3 the tenant
can be restored, which cancels the workflow; afterwards nothing ends it early. Its payloads are encrypted under the
platform's key (core/names.py), because it destroys the tenant's payload key. For the same reason its signals to the
tenant's workflows carry no payload.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import ActivityError, ApplicationError, WorkflowAlreadyStartedError

with workflow.unsafe.imports_passed_through():
    from activities.notifications import NotificationActivities
    from activities.offboarding.destruction import DestructionActivities, WorkflowTerminationActivities
    from activities.offboarding.grace_period import GracePeriodActivities
    from core import names as ids
    from core.messages.base import AnnounceInput, StepInput
    from core.messages.tenants import (
        LeaveInput,
        LeaveReason,
        OffboardingResult,
        OffboardInput,
        OffboardRequest,
        OffboardResult,
        RestoreInput,
    )
    from core.names import ActivityKind
    from core.notifications import NotificationKind
    from core.tenants.lifecycle import State, Transition, transitions_from
    from core.tenants.offboarding import offboarding_number, reminders
    from core.tenants.provisioning import EventKind
    from workflows.runtime import options as priorities
    from workflows.runtime import timeouts as timing
    from workflows.runtime.activity_calls import activity_queue, run_activity, run_local_activity
    from workflows.runtime.failures import FAILURES, code_of, refusal_of
    from workflows.runtime.tenant_base import StatusHandlers
    from workflows.runtime.update_limits import UpdateKind
    from workflows.services import TENANT_GONE


LEAVING = "offboarding"


class OffboardingHandlers(StatusHandlers):
    _gone = False

    @workflow.update(
        name="offboard", description="Offboard the tenant: a grace period, then irreversible destruction of its keys"
    )
    async def offboard(self, request: OffboardRequest) -> None:
        with self._running(LEAVING):
            await self._leave_on_demand(request)

    async def _leave_on_demand(self, request: OffboardRequest) -> None:
        try:
            await self._leave(request)
        except ActivityError as failed:
            raise refusal_of(failed) from None

    @offboard.validator
    def _may_offboard(self, request: OffboardRequest) -> None:
        del request
        self._require_idle()
        self._require_not_offboarded(Transition.LEAVE)

    @workflow.update(name="restore", description="Restore a tenant in its grace period")
    async def restore(self) -> None:
        with self._in_flight.counted(UpdateKind.CHANGE):
            try:
                await self._restore()
            except ActivityError as failed:
                raise refusal_of(failed) from None

    @restore.validator
    def _may_restore(self) -> None:
        self._require_idle()
        self._in_flight.require_capacity(UpdateKind.CHANGE)
        self._require_not_offboarded(Transition.RESTORE)

    @workflow.signal(name=TENANT_GONE, description="The tenant's keys are destroyed and its rows erased")
    async def tenant_gone(self) -> None:
        await self._until_loaded()
        if self._memory.state is State.LEAVING:
            self._enter(State.OFFBOARDED)
        elif self._memory.state is not State.OFFBOARDED:
            async with self._status_lock:
                await self._read_state()
        self._gone = self._memory.state is State.OFFBOARDED

    @property
    def _may_leave(self) -> bool:
        return Transition.LEAVE in transitions_from(self._memory.state)

    @property
    def _has_pending_event(self) -> bool:
        """Return whether a marketplace event is pending and no operation runs."""
        return bool(self._memory.pending_events) and self._operation is None

    def _store_pending_event(self, kind: EventKind) -> None:
        """Store a marketplace event; it waits for the running operation, because no caller can retry it.

        It replaces no event of the other kind: events arrive in any order, and the recorded last one is in force.
        """
        if kind not in self._memory.pending_events:
            self._remember(pending_events=(*self._memory.pending_events, kind))

    async def _process_pending_event(self) -> None:
        """Process the pending event that would change the state; its step rejects it unless it is the last one."""
        pending = self._memory.pending_events
        if not self._can_process(pending):
            # After a lost response, the state here can be outdated; no event may be dropped for it.
            async with self._status_lock:
                read = await self._read_state()
            if not read:
                await workflow.sleep(timing.EVENT_PAUSE, summary="read the tenant's state again")
                return
        self._remember(pending_events=())
        try:
            if EventKind.SERVICE_DISABLED in pending and self._may_leave:
                with self._running(LEAVING):
                    await self._leave(OffboardRequest(reason=LeaveReason.MARKETPLACE))
            elif EventKind.SERVICE_ENABLED in pending and self._memory.state is State.LEAVING:
                # A customer who enables the service again within the grace period wants the same tenant.
                await self._restore(LeaveReason.MARKETPLACE)
        except FAILURES as failed:
            workflow.logger.warning("marketplace event not processed", extra={"code": code_of(failed)})

    def _can_process(self, pending: tuple[EventKind, ...]) -> bool:
        if EventKind.SERVICE_DISABLED in pending and self._may_leave:
            return True
        return EventKind.SERVICE_ENABLED in pending and self._memory.state is State.LEAVING

    async def _leave(self, request: OffboardRequest) -> None:
        """Start the offboarding, or join one in progress; its workflow is started again if an operator ended it."""
        step = LeaveInput(**self._step("leave").model_dump(), **request.model_dump())
        kind = EventKind.SERVICE_DISABLED if request.reason is LeaveReason.MARKETPLACE else Transition.LEAVE
        async with self._requested_change(
            kind, GracePeriodActivities.begin_leaving, step, "1 · start the grace period"
        ) as (former, begun):
            await self._begin_offboarding(begun, is_new=former is not State.LEAVING)

    async def _begin_offboarding(self, begun: OffboardingResult, *, is_new: bool) -> None:
        """Start OffboardTenant; a new offboarding replaces the previous one, and a repeated request joins its own.

        The tenant was restored before it began a new offboarding. The previous workflow can destroy nothing any more,
        so it is terminated if its cancellation did not end it yet.
        """
        tenant = self._tenant
        try:
            child = await workflow.start_child_workflow(
                OffboardTenant.run,
                OffboardInput(
                    tenant_id=tenant.tenant_id,
                    region=tenant.region,
                    number=offboarding_number(begun.since),
                    since=begun.since,
                    until=begun.until,
                ),
                id=ids.offboard_workflow(tenant.tenant_id),
                task_queue=ids.operation_queue(tenant.region),
                id_reuse_policy=(
                    WorkflowIDReusePolicy.TERMINATE_IF_RUNNING if is_new else WorkflowIDReusePolicy.ALLOW_DUPLICATE
                ),
                parent_close_policy=workflow.ParentClosePolicy.ABANDON,
                priority=priorities.service(tenant.tenant_id),
                # No static summary: it would be encrypted under the tenant's payload key, which is destroyed first.
                search_attributes=self._search_attributes(),
            )
        except WorkflowAlreadyStartedError:
            return
        # The child's end is recorded elsewhere; the callback only marks its exception as retrieved.
        child.add_done_callback(lambda ended: ended.cancelled() or ended.exception())

    async def _restore(self, reason: LeaveReason = LeaveReason.OPERATOR) -> None:
        step = RestoreInput(**self._step("restore").model_dump(), reason=reason)
        kind = EventKind.SERVICE_ENABLED if reason is LeaveReason.MARKETPLACE else Transition.RESTORE
        async with self._requested_change(kind, GracePeriodActivities.restore_tenant, step, "restore the tenant"):
            # Within the block: this must not cancel an offboarding that starts afterwards.
            try:
                await workflow.get_external_workflow_handle(ids.offboard_workflow(self._tenant.tenant_id)).cancel()
            except ApplicationError:
                workflow.logger.info("no offboarding to cancel")
        # The health of the root key was not followed during the grace period.
        await self._follow_root_key()


_Step = tuple[Callable[[Any, StepInput], None], str]
_UNTIL_ERASED: tuple[_Step, ...] = (
    (DestructionActivities.disconnect_services, "5 · withdraw the route, revoke every certificate"),
    (DestructionActivities.destroy_service_keys, "6 · destroy the wraps of all service keys"),
    (DestructionActivities.destroy_tenant_key, "7 · destroy the tenant key"),
    (DestructionActivities.destroy_authority_key, "8 · destroy the key of the tenant CA"),
    (DestructionActivities.erase_rows, "9 · erase the rows"),
)
_AFTER_WORKFLOWS: tuple[_Step, ...] = (
    (DestructionActivities.destroy_payload_key, "11 · destroy the key of workflow payloads"),
    (DestructionActivities.certify_destruction, "12 · sign the erasure certificate"),
)


@workflow.defn(name="OffboardTenant")
class OffboardTenant:
    @workflow.init
    def __init__(self, leaving: OffboardInput) -> None:
        self._leaving = leaving
        self._step = StepInput(tenant_id=leaving.tenant_id, operation_id=f"offboard-{leaving.number}")

    @workflow.run
    async def run(self, leaving: OffboardInput) -> OffboardResult:
        try:
            await self._wait_for_grace_period(leaving.since, leaving.until)
        except asyncio.CancelledError:
            workflow.set_current_details("**Restored** within the grace period; nothing was destroyed.")
            raise
        destruction = asyncio.create_task(self._destroy())
        try:
            destroyed = await asyncio.shield(destruction)
        except asyncio.CancelledError:
            # Too late: a partial destruction must be completed.
            destroyed = await destruction
        return OffboardResult(destroyed=destroyed)

    async def _wait_for_grace_period(self, since: datetime, until: datetime) -> None:
        """Step 2: wait for the end of the grace period and send reminders."""
        end = f"{until:%Y-%m-%d %H:%M} UTC"
        workflow.set_current_details(
            f"**Grace period**: the tenant can be restored until {end}. Nothing is destroyed yet."
        )
        for number, due in enumerate(reminders(since, until), start=1):
            if due > workflow.now():
                await self._sleep_until(due, f"2 · grace period: reminder {number}")
                await self._remind(number)
        await self._sleep_until(until, f"2 · grace period: until {end}")

    async def _sleep_until(self, due: datetime, summary: str) -> None:
        left = due - workflow.now()
        if left > timedelta():
            await workflow.sleep(left, summary=summary)

    async def _remind(self, number: int) -> None:
        step = self._step.model_copy(update={"operation_id": f"{self._step.operation_id}-reminder-{number}"})
        await run_local_activity(GracePeriodActivities.remind_of_leaving, step, f"2 · reminder {number}")
        await self._announce(step, NotificationKind.LEAVING_REMINDER, f"2 · reminder {number}: notify")

    async def _destroy(self) -> bool:
        """Destroy keys and rows, unless the tenant was restored at the last moment."""
        step = self._step
        begun = await run_activity(
            GracePeriodActivities.begin_destruction,
            step,
            "3 · the point of no return",
            timing.ERASE_ATTEMPT,
            heartbeat=timing.DESTROY_HEARTBEAT,
        )
        if not begun.begun:
            workflow.set_current_details("**Restored** at the last moment; nothing was destroyed.")
            return False
        workflow.set_current_details("**Destroying.** The tenant cannot be restored.")
        await run_activity(
            DestructionActivities.take_stock,
            step,
            "4 · record the keys to be destroyed",
            timing.ERASE_ATTEMPT,
            heartbeat=timing.DESTROY_HEARTBEAT,
            kind=ActivityKind.LONG,
        )
        for activity, summary in _UNTIL_ERASED:
            await run_activity(
                activity,
                step,
                summary,
                timing.ERASE_ATTEMPT,
                heartbeat=timing.DESTROY_HEARTBEAT,
                kind=ActivityKind.LONG,
            )
        await _signal_gone(ids.tenant_workflow(self._leaving.tenant_id))
        await workflow.execute_activity_method(
            WorkflowTerminationActivities.close_workflows,
            step,
            task_queue=activity_queue(ActivityKind.LONG),
            summary="10 · wait for the end of the tenant's workflows",
            start_to_close_timeout=timing.ERASE_ATTEMPT,
            heartbeat_timeout=timing.DESTROY_HEARTBEAT,
            retry_policy=timing.RETRY,
        )
        for activity, summary in _AFTER_WORKFLOWS:
            await run_activity(activity, step, summary, timing.ERASE_ATTEMPT, heartbeat=timing.DESTROY_HEARTBEAT)
        await self._announce(step, NotificationKind.OFFBOARDED, "13 · notify")
        workflow.set_current_details("**Offboarded.** The erasure certificate lists what was destroyed.")
        await workflow.execute_activity_method(
            WorkflowTerminationActivities.terminate_service_workflows,
            step,
            task_queue=activity_queue(ActivityKind.LONG),
            summary="14 · terminate the workflows of the services",
            start_to_close_timeout=timing.ERASE_ATTEMPT,
            heartbeat_timeout=timing.HEARTBEAT,
            retry_policy=timing.RETRY,
        )
        return True

    async def _announce(self, step: StepInput, kind: NotificationKind, summary: str) -> None:
        try:
            await run_activity(
                NotificationActivities.announce,
                AnnounceInput(**step.model_dump(), kind=kind),
                summary,
                timing.DELIVERY_ATTEMPT,
                timing.DELIVERY_DEADLINE,
                kind=ActivityKind.LONG,
            )
        except ActivityError:
            workflow.logger.warning("notification not sent; the outbox sweep retries")


async def _signal_gone(workflow_id: str) -> None:
    try:
        await workflow.get_external_workflow_handle(workflow_id).signal(TENANT_GONE)
    except ApplicationError:  # it has ended already
        workflow.logger.info("no running workflow to signal")
