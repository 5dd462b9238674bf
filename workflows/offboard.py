"""OffboardTenant: the grace of a tenant that leaves, and then the end of everything that it has.

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
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.closing import ClosingActivities
    from activities.destruction import DestructionActivities
    from activities.leaving import LeavingActivities
    from activities.notifications import NotificationActivities
    from core import names as ids
    from core.messages.base import AnnounceInput, StepInput
    from core.messages.tenants import OffboardInput, OffboardResult
    from core.notifications import AnnouncementKind
    from core.tenants.offboarding import reminders
    from workflows import timing
    from workflows.service import TENANT_GONE
    from workflows.steps import note, perform

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
        await note(LeavingActivities.remind_of_leaving, step, f"2 · reminder {number}")
        await self._announce(step, AnnouncementKind.LEAVING_REMINDER, f"2 · reminder {number}: announce")

    async def _destroy(self) -> bool:
        """Destroy everything, unless the tenant was restored in the last moment."""
        step, tenant_id = self._step, self._leaving.tenant_id
        begun = await perform(LeavingActivities.begin_destruction, step, "3 · the point of no return")
        if not begun.begun:
            workflow.set_current_details("**Restored** in the last moment; nothing was destroyed.")
            return False
        workflow.set_current_details("**Destroying.** Nothing can be restored any more.")
        stock = await perform(DestructionActivities.take_stock, step, "4 · write down what is to be destroyed")
        for activity, summary in _DESTRUCTION:
            await perform(activity, step, summary)
        await perform(
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
            ClosingActivities.close_workflows,
            step,
            summary="10 · wait until the tenant's workflows are over",
            start_to_close_timeout=timing.ERASE_ATTEMPT,
            heartbeat_timeout=timing.HEARTBEAT,
            retry_policy=timing.RETRY,
        )
        await perform(DestructionActivities.destroy_payload_key, step, "11 · destroy the key of workflow payloads")
        await perform(DestructionActivities.certify_destruction, step, "12 · sign what was destroyed")
        await self._announce(step, AnnouncementKind.FAREWELL, "13 · farewell")
        workflow.set_current_details("**Offboarded.** The certificate says what was destroyed.")
        return True

    async def _announce(self, step: StepInput, kind: AnnouncementKind, summary: str) -> None:
        try:
            await perform(
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
