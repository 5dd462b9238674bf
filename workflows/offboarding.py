"""The part of a tenant's entity that lets it leave, brings it back within the grace, and ends with it.

The grace and what comes after it are a workflow of their own (`OffboardTenant`), which outlives this one. Who comes
first, restoring or destroying, is decided by the tenant's row; what is remembered here only refuses early.

OffboardTenant: the grace of a tenant that leaves, and then the end of everything that it has.

The steps carry the numbers of docs/offboarding.md, which argues their order. Until step 3 the tenant can be restored,
which cancels this workflow; whether it was in time is decided by the tenant's row. From then on nothing ends it early.
Its payloads lie under the platform's key (core/names.py), because it destroys the tenant's; so what it signals to the
tenant's workflows carries nothing.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, WorkflowAlreadyStartedError

with workflow.unsafe.imports_passed_through():
    from activities.notifications import NotificationActivities
    from activities.offboarding.destruction import DestructionActivities, WorkflowTerminationActivities
    from activities.offboarding.grace_period import GracePeriodActivities
    from core import names as ids
    from core.errors.tenants import InvalidTransition
    from core.messages.base import AnnounceInput, StepInput
    from core.messages.tenants import (
        LeaveInput,
        LeaveReason,
        OffboardingResult,
        OffboardInput,
        OffboardRequest,
        OffboardResult,
    )
    from core.notifications import NotificationKind
    from core.tenants.lifecycle import State, Transition, transitions_from
    from core.tenants.offboarding import reminders
    from core.tenants.provisioning import EventKind
    from workflows.runtime import options as priorities
    from workflows.runtime import timeouts as timing
    from workflows.runtime.activity_calls import run_activity, run_local_activity
    from workflows.runtime.failures import code_of, refusal, refusal_of
    from workflows.runtime.tenant_base import LIVE, StatusHandlers
    from workflows.services import TENANT_GONE


LEAVING = "leaving"
_STILL_ENDING = timedelta(seconds=1)
"""How long the run of a leaving that was undone is given to end before the next one is tried to be begun again."""


class OffboardingHandlers(StatusHandlers):
    _gone = False

    @workflow.update(name="offboard", description="Let the tenant leave: a grace, then its keys are destroyed for good")
    async def offboard(self, request: OffboardRequest) -> None:
        with self._at_work(LEAVING):
            await self._leave_on_demand(request)

    async def _leave_on_demand(self, request: OffboardRequest) -> None:
        try:
            await self._leave(request)
        except ActivityError as failed:
            raise refusal_of(failed) from None

    @offboard.validator
    def _may_offboard(self, request: OffboardRequest) -> None:
        del request
        self._refuse_while_at_work()
        if self._memory.state not in LIVE | {State.LEAVING}:
            raise refusal(InvalidTransition(self._memory.state, Transition.LEAVE, transitions_from(self._memory.state)))

    @workflow.update(name="restore", description="Bring a tenant that is leaving back to where it was")
    async def restore(self) -> None:
        try:
            await self._come_back()
        except ActivityError as failed:
            raise refusal_of(failed) from None

    @restore.validator
    def _may_restore(self) -> None:
        self._refuse_while_at_work()
        if self._memory.state is not State.LEAVING:
            raise refusal(
                InvalidTransition(self._memory.state, Transition.RESTORE, transitions_from(self._memory.state))
            )

    @workflow.signal(name=TENANT_GONE, description="Everything of the tenant is destroyed and erased")
    def tenant_gone(self) -> None:
        if self._memory.state is State.LEAVING:
            self._enter(State.OFFBOARDED)
            self._gone = True

    @property
    def _may_follow_wish(self) -> bool:
        """Whether the marketplace's last word waits and nothing hinders it."""
        return self._memory.wish is not None and self._operation is None

    def _wish_for(self, kind: EventKind) -> None:
        """Keep the marketplace's last word: nobody is there to be refused, so it waits for what runs."""
        self._remember(wish=kind)

    async def _follow_wish(self) -> None:
        wish = self._memory.wish
        self._remember(wish=None)
        try:
            if wish is EventKind.SERVICE_DISABLED and self._memory.state in LIVE:
                with self._at_work(LEAVING):
                    await self._leave(OffboardRequest(reason=LeaveReason.MARKETPLACE))
            elif wish is EventKind.SERVICE_ENABLED and self._memory.state is State.LEAVING:
                # A customer who enables again within the grace wants the same tenant back.
                await self._come_back()
        except ActivityError as failed:
            workflow.logger.warning("event of the marketplace not followed", extra={"code": code_of(failed)})

    async def _leave(self, request: OffboardRequest) -> None:
        """Leave, or join a leaving that is under way; its workflow is begun again should somebody have ended it."""
        async with self._standing:
            anew = self._memory.state is not State.LEAVING
            if anew:
                self._remember(leavings=self._memory.leavings + 1)
            step = LeaveInput(**self._step("leave").model_dump(), **request.model_dump())
            begun = await run_local_activity(GracePeriodActivities.begin_leaving, step, "1 · leave")
            self._stand(step, begun)
            while not await self._begin_offboarding(begun) and anew:
                await workflow.sleep(_STILL_ENDING, summary="the leaving before this one is ending")

    async def _begin_offboarding(self, begun: OffboardingResult) -> bool:
        """Begin the workflow of the grace; False when there is one."""
        tenant = self._tenant
        try:
            child = await workflow.start_child_workflow(
                OffboardTenant.run,
                OffboardInput(
                    tenant_id=tenant.tenant_id,
                    region=tenant.region,
                    number=self._memory.leavings,
                    since=begun.since,
                    until=begun.until,
                ),
                id=ids.offboard_workflow(tenant.tenant_id),
                parent_close_policy=workflow.ParentClosePolicy.ABANDON,
                priority=priorities.service(tenant.tenant_id),
                # No static summary: that would lie under this workflow's own key, which does not outlive it.
                search_attributes=self._found_by(),
            )
        except WorkflowAlreadyStartedError:
            return False
        # It ends as it may, cancelled for one; how is on record and not looked at here.
        child.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        return True

    async def _come_back(self) -> None:
        async with self._standing:
            step = self._step("restore")
            self._stand(
                step, await run_local_activity(GracePeriodActivities.restore_tenant, step, "restore the tenant")
            )
            # Before anybody else's turn: a leaving that was begun anew must not be what is ended.
            try:
                await workflow.get_external_workflow_handle(ids.offboard_workflow(self._tenant.tenant_id)).cancel()
            except ApplicationError:
                workflow.logger.info("no leaving to end")
        # Whether the root key does its part was not looked at while nothing could be opened anyway.
        await self._follow_root_key()


_DESTRUCTION: tuple[tuple[Callable[[Any, StepInput], None], str], ...] = (
    (DestructionActivities.disconnect_services, "5 · revoke every certificate, withdraw the route"),
    (DestructionActivities.destroy_service_keys, "6 · destroy the wraps of all service keys"),
    (DestructionActivities.destroy_tenant_key, "7 · destroy the tenant key"),
    (DestructionActivities.destroy_authority_key, "8 · destroy the key of the certificate authority"),
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
            await self._wait_out(leaving.since, leaving.until)
        except asyncio.CancelledError:
            workflow.set_current_details("**Restored** within the grace; nothing was destroyed.")
            raise
        destruction = asyncio.create_task(self._destroy())
        try:
            destroyed = await asyncio.shield(destruction)
        except asyncio.CancelledError:
            # Too late: half a destruction is worth neither the tenant nor its end.
            destroyed = await destruction
        return OffboardResult(destroyed=destroyed)

    async def _wait_out(self, since: datetime, until: datetime) -> None:
        """Step 2: wait for the end of the grace, reminding the customer of it."""
        end = f"{until:%Y-%m-%d %H:%M} UTC"
        workflow.set_current_details(f"**In the grace**: it can be restored until {end}. Nothing is destroyed yet.")
        for number, due in enumerate(reminders(since, until), start=1):
            if due > workflow.now():
                await self._sleep_until(due, f"2 · grace: reminder {number}")
                await self._remind(number)
        await self._sleep_until(until, f"2 · grace: until {end}")

    async def _sleep_until(self, due: datetime, summary: str) -> None:
        left = due - workflow.now()
        if left > timedelta():
            await workflow.sleep(left, summary=summary)

    async def _remind(self, number: int) -> None:
        step = self._step.model_copy(update={"operation_id": f"{self._step.operation_id}-reminder-{number}"})
        await run_local_activity(GracePeriodActivities.remind_of_leaving, step, f"2 · reminder {number}")
        await self._announce(step, NotificationKind.LEAVING_REMINDER, f"2 · reminder {number}: announce")

    async def _destroy(self) -> bool:
        """Destroy everything, unless the tenant was restored in the last moment."""
        step, tenant_id = self._step, self._leaving.tenant_id
        begun = await run_activity(GracePeriodActivities.begin_destruction, step, "3 · the point of no return")
        if not begun.begun:
            workflow.set_current_details("**Restored** in the last moment; nothing was destroyed.")
            return False
        workflow.set_current_details("**Destroying.** Nothing can be restored any more.")
        stock = await run_activity(DestructionActivities.take_stock, step, "4 · write down what is to be destroyed")
        for activity, summary in _DESTRUCTION:
            await run_activity(activity, step, summary)
        await run_activity(
            DestructionActivities.erase_rows,
            step,
            "9 · erase the rows",
            timing.ERASE_ATTEMPT,
            heartbeat=timing.HEARTBEAT,
        )
        for workflow_id in (
            *(ids.service_workflow(tenant_id, service) for service in stock.services),
            ids.tenant_workflow(tenant_id),
        ):
            await _tell(workflow_id)
        await workflow.execute_activity_method(
            WorkflowTerminationActivities.close_workflows,
            step,
            summary="10 · wait until the tenant's workflows are over",
            start_to_close_timeout=timing.ERASE_ATTEMPT,
            heartbeat_timeout=timing.HEARTBEAT,
            retry_policy=timing.RETRY,
        )
        await run_activity(DestructionActivities.destroy_payload_key, step, "11 · destroy the key of workflow payloads")
        await run_activity(DestructionActivities.certify_destruction, step, "12 · sign what was destroyed")
        await self._announce(step, NotificationKind.FAREWELL, "13 · farewell")
        workflow.set_current_details("**Offboarded.** The certificate says what was destroyed.")
        return True

    async def _announce(self, step: StepInput, kind: NotificationKind, summary: str) -> None:
        try:
            await run_activity(
                NotificationActivities.announce,
                AnnounceInput(**step.model_dump(), kind=kind),
                summary,
                timing.DELIVERY_ATTEMPT,
                timing.DELIVERY_PATIENCE,
            )
        except ActivityError:
            workflow.logger.warning("announcement left to the outbox sweep")


async def _tell(workflow_id: str) -> None:
    try:
        await workflow.get_external_workflow_handle(workflow_id).signal(TENANT_GONE)
    except ApplicationError:  # over already
        workflow.logger.info("no such workflow to tell that the tenant has left")
