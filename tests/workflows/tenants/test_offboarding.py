"""Offboarding through the workflow client: grace period, restoration and destruction."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowHandle
from temporalio.common import SearchAttributePair, TypedSearchAttributes

from core import names as ids
from core.errors.tenants import EventSuperseded, InvalidTransition, TenantUnknown
from core.messages.services import ServiceInput, ServiceWorkflowState
from core.messages.tenants import LeaveReason, OffboardInput, StatusChange, StatusChangeResult
from core.tenants.lifecycle import State, Transition
from core.tenants.offboarding import offboarding_number
from tests.activities.offboarding.leaving import STEPS
from tests.concurrency import wait_until_async
from tests.workflows.entities import Entity, ends, fast_forward, refused, summaries
from workflows.offboarding import OffboardTenant
from workflows.provisioning import ProvisionTenant
from workflows.runtime import options as visibility
from workflows.services import TENANT_GONE, ConnectService
from workflows.tenants import Tenant

WORKFLOWS = [Tenant, OffboardTenant, ConnectService, ProvisionTenant]
HOUR = {"grace_seconds": 3600}
DESTRUCTION = [*STEPS, "send-notification offboarded"]


def destroyed(script) -> list[str]:
    return [call for call in script.calls if call in DESTRUCTION]


async def forward(entity: Entity, time: timedelta) -> None:
    await fast_forward(entity.client, entity.offboarding, time)


async def a_service(entity: Entity, service: str, queue: str, **options: object) -> WorkflowHandle:
    memory = ServiceWorkflowState(generation=1)
    attributes = TypedSearchAttributes([SearchAttributePair(visibility.TENANT_ID, entity.tenant_id)])
    return await entity.client.start_workflow(
        ConnectService.run,
        ServiceInput(tenant_id=entity.tenant_id, region=entity.region, service=service, memory=memory),
        id=ids.service_workflow(entity.tenant_id, service),
        task_queue=queue,
        **({"search_attributes": attributes} | options),
    )


# ── grace period ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_offboarding_starts_a_visible_grace_period_and_destroys_nothing(entity, script):
    await entity.offboard()
    await entity.reaches(State.LEAVING)
    await wait_until_async(lambda: "send-notification offboarding-started" in script.calls)
    described = await entity.offboarding.describe()
    assert described.status is WorkflowExecutionStatus.RUNNING
    assert described.typed_search_attributes.get(visibility.TENANT_ID) == entity.tenant_id
    assert set(script.calls) == {"start-offboarding", "send-notification offboarding-started"}


async def test_reminders_are_sent_a_week_and_a_day_before_the_end(entity, script):
    await entity.offboard()
    reminder = f"remind-of-offboarding offboard-{offboarding_number(script.leaving.leaving.since)}-reminder-"
    await forward(entity, timedelta(days=23, minutes=1))
    await wait_until_async(lambda: f"{reminder}1" in script.calls)
    assert f"{reminder}2" not in script.calls
    await forward(entity, timedelta(days=6))
    await wait_until_async(lambda: f"{reminder}2" in script.calls)
    await wait_until_async(lambda: "send-notification offboarding-reminder" in script.calls)
    assert "start-destruction" not in script.calls
    end = f"2 · grace period: until {script.leaving.leaving.until:%Y-%m-%d %H:%M} UTC"
    shown = [text for text in await summaries(entity.offboarding) if text.startswith("2 · grace")]
    assert shown == ["2 · grace period: reminder 1", "2 · grace period: reminder 2", end]


async def test_restore_in_the_grace_period_ends_it_and_destroys_nothing(entity, script):
    await entity.offboard()
    await entity.restore()
    await entity.reaches(State.ACTIVE)
    await ends(entity.offboarding, WorkflowExecutionStatus.CANCELED)
    await wait_until_async(lambda: "send-notification restored" in script.calls)
    assert "start-destruction" not in script.calls
    assert "apply-root-key-health" in script.calls


async def test_restore_ends_an_offboarding_whose_reminder_cannot_be_sent(entity, script):
    reminder = "send-notification offboarding-reminder"
    script.down.add(reminder)
    await entity.offboard()
    await forward(entity, timedelta(days=23, seconds=1))
    await wait_until_async(lambda: script.attempts[reminder] > 0)
    await entity.restore()
    await ends(entity.offboarding, WorkflowExecutionStatus.CANCELED)
    assert "start-destruction" not in script.calls


async def test_new_offboarding_replaces_a_restored_one_that_does_not_end(entity):
    await entity.client.start_workflow(
        OffboardTenant.run,
        OffboardInput(
            tenant_id=entity.tenant_id, region=entity.region, number=1, since=datetime.now(UTC), until=datetime.now(UTC)
        ),
        id=entity.offboarding.id,
        task_queue="no-worker-polls-here",
    )
    await entity.offboard(**HOUR)
    await entity.reaches(State.LEAVING)
    described = await entity.offboarding.describe()
    assert (described.status, described.task_queue) == (
        WorkflowExecutionStatus.RUNNING,
        ids.operation_queue(entity.region),
    )
    events = (await entity.handle.fetch_history()).events
    assert not [event for event in events if event.HasField("timer_started_event_attributes")]
    await entity.restore()
    await entity.reaches(State.ACTIVE)


async def test_restored_tenant_can_be_offboarded_again_with_a_new_grace_period(entity, script):
    for number in (1, 2, 3):
        await entity.offboard(**HOUR)
        await entity.reaches(State.LEAVING)
        if number < 3:
            await entity.restore()
    await forward(entity, timedelta(minutes=61))
    await wait_until_async(lambda: "send-notification offboarded" in script.calls)
    assert script.calls.count("start-destruction") == 1


async def test_repeated_request_joins_and_another_end_is_rejected(entity, script):
    await entity.offboard(**HOUR)
    await entity.offboard(**HOUR)
    await entity.offboard()
    script.row = State.LEAVING
    await refused("offboarding_already_scheduled", entity.offboard(now=True))
    events = (await entity.handle.fetch_history()).events
    assert sum(e.HasField("child_workflow_execution_started_event_attributes") for e in events) == 1


async def test_terminated_offboarding_is_resumed_by_a_repeated_request(entity):
    await entity.offboard(**HOUR)
    await entity.offboarding.terminate()
    await entity.offboard(**HOUR)
    assert (await entity.offboarding.describe()).status is WorkflowExecutionStatus.RUNNING


async def test_tenant_is_restored_when_its_offboarding_workflow_is_missing(client, region, script):
    entity = await Entity.start(client, region, State.LEAVING)
    await entity.restore()
    await entity.reaches(State.ACTIVE)
    assert {"restore-tenant", "apply-root-key-health"} <= set(script.calls)


async def test_row_decides_whether_a_tenant_is_restored(entity, script):
    """The answer of the step that offboarded the tenant was lost, so its workflow has the state before."""
    await entity.restore()
    await entity.reaches(State.ACTIVE)
    assert script.calls.count("restore-tenant") == 1


async def test_refused_request_repairs_an_outdated_state(entity, script):
    script.row = State.LEAVING
    script.refused["change-status"] = InvalidTransition(State.LEAVING, Transition.SUSPEND, ())
    await refused("invalid_transition", entity.move(StatusChange.SUSPEND))
    await entity.reaches(State.LEAVING)


async def test_failed_tenant_is_retried_although_its_workflow_has_another_state(client, region, script):
    script.row = State.FAILED
    entity = await Entity.start(client, region, State.LEAVING)
    await entity.gateway.retry(entity.tenant_id)
    await entity.reaches(State.ACTIVE)


@pytest.mark.parametrize(("known", "row"), [(State.LEAVING, State.ACTIVE), (State.ACTIVE, State.LEAVING)])
async def test_event_is_processed_although_the_state_is_outdated(client, region, script, known, row):
    script.row = row
    pending = ("service_disabled",) if row is State.ACTIVE else ("service_enabled",)
    entity = await Entity.start(client, region, known, pending_events=pending)
    step = "start-offboarding" if row is State.ACTIVE else "restore-tenant"
    await wait_until_async(lambda: step in script.calls)
    await entity.reaches(State.LEAVING if row is State.ACTIVE else State.ACTIVE)


async def test_tenant_workflow_ends_with_an_outdated_state(entity, script):
    script.row = State.OFFBOARDED
    await entity.handle.signal(TENANT_GONE)
    await ends(entity.handle)


# ── destruction ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_end_of_the_grace_period_destroys_everything_in_order(entity, script):
    await entity.offboard(**HOUR)
    await forward(entity, timedelta(minutes=59))
    assert "start-destruction" not in script.calls
    await forward(entity, timedelta(minutes=2))
    await ends(entity.offboarding)
    assert destroyed(script) == DESTRUCTION
    await ends(entity.handle)
    await entity.reaches(State.OFFBOARDED)


async def test_restore_and_cancel_are_rejected_after_the_destruction_started(entity, script):
    script.down.add("destroy-tenant-key")
    await entity.offboard(now=True)
    await wait_until_async(lambda: "destroy-service-keys" in script.calls)
    script.row = State.LEAVING
    await refused("destruction_started", entity.restore())
    await entity.reaches(State.LEAVING)
    await entity.offboard(now=True)
    await refused("offboarding_already_scheduled", entity.offboard(**HOUR))
    await entity.offboarding.cancel()
    tried = script.attempts["destroy-tenant-key"]
    await wait_until_async(lambda: script.attempts["destroy-tenant-key"] > tried)  # the cancel has arrived by then
    script.down.clear()
    await ends(entity.offboarding)
    assert destroyed(script) == DESTRUCTION


async def test_tenant_restored_at_the_last_moment_keeps_everything(entity, script):
    script.on("start-destruction", lambda: setattr(script.leaving, "leaving", None))
    await entity.offboard(now=True)
    await ends(entity.offboarding)
    assert "inventory-keys" not in script.calls


async def test_tenant_workflow_ends_by_a_signal_without_payload(entity):
    await entity.offboard(now=True)
    await ends(entity.offboarding)
    await ends(entity.handle)
    events = (await entity.offboarding.fetch_history()).events
    signals = [e.signal_external_workflow_execution_initiated_event_attributes for e in events]
    [sent] = [signal for signal in signals if signal.signal_name]
    # A payload would need the tenant's key, which is destroyed.
    assert not sent.input.payloads


async def test_workflows_of_many_services_are_terminated_without_an_event_for_each(entity):
    """No worker runs them, and one has no search attribute: neither delays the destruction."""
    services = await asyncio.gather(*(a_service(entity, f"orders-{n}", "no-worker-polls-here") for n in range(120)))
    services.append(await a_service(entity, "unlisted", "no-worker-polls-here", search_attributes=None))
    neighbour = await a_service(Entity(entity.client, entity.region, f"{entity.tenant_id}-2"), "other", "no-worker")
    await entity.offboard(now=True)
    await ends(entity.offboarding)
    for service in services:
        assert (await service.describe()).status is WorkflowExecutionStatus.TERMINATED
    assert (await neighbour.describe()).status is WorkflowExecutionStatus.RUNNING
    assert len((await entity.offboarding.fetch_history()).events) < 150


async def test_payload_key_is_not_destroyed_while_a_workflow_of_the_tenant_runs(entity, script):
    straggler = await entity.client.start_workflow(
        "GenerateReport", id=ids.report_workflow(entity.tenant_id, "1"), task_queue="no-worker-polls-here"
    )
    await entity.offboard(now=True)
    await wait_until_async(lambda: "erase-rows" in script.calls)

    async def waits() -> bool:
        pending = (await entity.offboarding.describe()).raw_description.pending_activities
        return any(one.activity_type.name == "terminate-workflows" for one in pending)

    await wait_until_async(waits)
    assert "destroy-payload-key" not in script.calls
    await straggler.terminate()
    await ends(entity.offboarding)
    assert destroyed(script) == DESTRUCTION


async def test_failed_step_is_retried_and_no_step_is_skipped_or_repeated(entity, script):
    script.fail_first(*DESTRUCTION[:-1])
    await entity.offboard(now=True)
    await ends(entity.offboarding)
    assert [script.attempts[step] for step in DESTRUCTION[:-1]] == [2] * (len(DESTRUCTION) - 1)
    assert destroyed(script) == DESTRUCTION


# ── marketplace ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_marketplace_event_disables_once_and_another_enables_again(entity, script):
    await entity.gateway.disable(entity.tenant_id, "event-off")
    await entity.reaches(State.LEAVING)
    [step] = script.inputs["start-offboarding"]
    assert (step.reason, step.now) == (LeaveReason.MARKETPLACE, False)
    await entity.gateway.enable(entity.tenant_id, entity.region, "event-on")
    await entity.reaches(State.ACTIVE)
    await ends(entity.offboarding, WorkflowExecutionStatus.CANCELED)
    await entity.gateway.disable(entity.tenant_id, "event-off")
    await entity.move(StatusChange.RESUME)
    assert len(script.inputs["start-offboarding"]) == 1


async def test_superseded_event_leaves_the_tenant_unchanged_and_operable(entity, script):
    script.row = State.ACTIVE
    script.refused["start-offboarding"] = EventSuperseded()
    await entity.gateway.disable(entity.tenant_id, "event-off")
    await wait_until_async(lambda: script.attempts["start-offboarding"] == 1)
    await entity.move(StatusChange.SUSPEND)
    await entity.reaches(State.SUSPENDED)
    script.refused.clear()
    await entity.offboard(**HOUR)
    script.row = State.LEAVING
    script.refused["restore-tenant"] = EventSuperseded()
    await entity.gateway.enable(entity.tenant_id, entity.region, "event-on")
    await wait_until_async(lambda: script.attempts["restore-tenant"] == 1)
    assert script.inputs["restore-tenant"][0].reason is LeaveReason.MARKETPLACE
    await entity.reaches(State.LEAVING)


async def until_sending(script, kind: str) -> None:
    """Wait until the tenant workflow sends a notification; marketplace events wait for its end."""
    await wait_until_async(lambda: script.attempts[f"send-notification {kind}"] > 0)


async def test_earlier_disable_that_arrives_late_displaces_no_enable_within_the_grace_period(entity, script):
    script.down.add("send-notification offboarding-started")
    await entity.offboard(**HOUR)
    await until_sending(script, "offboarding-started")
    await entity.gateway.enable(entity.tenant_id, entity.region, "event-on")
    await entity.gateway.disable(entity.tenant_id, "event-earlier")
    script.down.clear()
    await entity.reaches(State.ACTIVE)
    assert [step.reason for step in script.inputs["restore-tenant"]] == [LeaveReason.MARKETPLACE]
    assert len(script.inputs["start-offboarding"]) == 1


async def test_earlier_enable_that_arrives_late_displaces_no_disable(entity, script):
    script.down.add("send-notification locked")
    await entity.move(StatusChange.LOCK)
    await until_sending(script, "locked")
    await entity.gateway.disable(entity.tenant_id, "event-off")
    await entity.gateway.enable(entity.tenant_id, entity.region, "event-earlier")
    script.down.clear()
    await entity.reaches(State.LEAVING)


async def test_failed_tenant_is_offboarded_and_provisioned_again_when_enabled(client, region, script):
    entity = await Entity.start(client, region, State.FAILED)
    failed = StatusChangeResult(state=State.FAILED)
    script.answers |= {"restore-tenant": failed, "apply-root-key-health": failed}
    await entity.offboard(**HOUR)
    await entity.reaches(State.LEAVING)
    await entity.restore()
    await entity.reaches(State.FAILED)
    await entity.gateway.disable(entity.tenant_id, "event-off")
    await entity.reaches(State.LEAVING)
    await entity.gateway.enable(entity.tenant_id, region, "event-on")
    await entity.reaches(State.ACTIVE)
    assert "activate" in script.calls


async def test_disabling_an_unknown_tenant_fails(entity):
    with pytest.raises(TenantUnknown):
        await entity.gateway.disable("no-such-tenant-1", "event-off")
