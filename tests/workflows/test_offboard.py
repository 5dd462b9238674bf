"""A tenant's leaving as those outside see it, through the gateway: the grace, the way back, the end of everything."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import pytest
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.common import SearchAttributePair, TypedSearchAttributes
from temporalio.testing import TimeSkipper, TimeSkippingConfig
from temporalio.worker import Worker

from tenancy import ids
from tenancy.leaving_messages import LeaveReason, LeaveRequest
from tenancy.lifecycle import State
from tenancy.messages import ServiceInput, ServiceMemory, StandingMove, TenantInput, TenantMemory
from tenancy.rotation import Scope
from tenancy.rotation_messages import RotateRequest
from tests.workflows.scripted_leaving import DESTRUCTION, LeavingScript
from tests.workflows.scripted_service import ServiceScript
from workflows import visibility
from workflows.gateway import Gateway, UpdateRefused
from workflows.offboard import OffboardTenant
from workflows.service import ConnectService
from workflows.tenant import Tenant

GRACE = LeaveRequest()
NOW = LeaveRequest(now=True)
HOUR = LeaveRequest(grace_seconds=3600)


class Stand:
    """One tenant's entity, a worker whose steps are scripted, and the door."""

    def __init__(self, client: Client, region: str, script: LeavingScript) -> None:
        self.client, self.region, self.script = client, region, script
        self.gateway = Gateway(client, 60)
        self.tenant_id = f"t-{uuid.uuid4().hex[:12]}"

    async def begin(self, state: State = State.ACTIVE) -> None:
        await self.client.start_workflow(
            Tenant.run,
            TenantInput(
                tenant_id=self.tenant_id,
                region=self.region,
                promise_seconds=60,
                memory=TenantMemory(state=state),
            ),
            id=ids.tenant_workflow(self.tenant_id),
            task_queue=ids.task_queue(self.region),
        )

    @property
    def entity(self) -> WorkflowHandle[Tenant, None]:
        return self.client.get_workflow_handle_for(Tenant.run, ids.tenant_workflow(self.tenant_id))

    @property
    def offboarding(self) -> WorkflowHandle[OffboardTenant, object]:
        return self.client.get_workflow_handle_for(OffboardTenant.run, ids.offboard_workflow(self.tenant_id))

    async def offboard(self, request: LeaveRequest = GRACE) -> None:
        await self.gateway.offboard(self.tenant_id, request)

    async def restore(self) -> None:
        await self.gateway.restore(self.tenant_id)

    async def fast_forward(self, time: timedelta) -> None:
        skipper = TimeSkipper(self.client, config=TimeSkippingConfig(enabled=False))
        await skipper.fast_forward(self.offboarding, time)

    async def assert_ends(self, handle: WorkflowHandle, status: WorkflowExecutionStatus) -> None:
        await until(lambda: _has(handle, status))

    async def assert_reaches(self, state: State) -> None:
        async def reached() -> bool:
            described = await self.entity.describe()
            return described.typed_search_attributes.get(visibility.LIFECYCLE_STATE) == state

        await until(reached)

    async def assert_refused(self, code: str, ask: Callable[[], object]) -> None:
        with pytest.raises(UpdateRefused) as refused:
            await ask()
        assert refused.value.code == code


async def _has(handle: WorkflowHandle, status: WorkflowExecutionStatus) -> bool:
    return (await handle.describe()).status is status


async def until(true: Callable[[], object], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not await true():  # noqa: ASYNC110 - another process is watched
            await asyncio.sleep(0.05)


async def called(script: LeavingScript, name: str) -> None:
    async def seen() -> bool:
        await asyncio.sleep(0)
        return name in script.calls

    await until(seen)


@pytest.fixture
async def stand(client: Client) -> AsyncIterator[Stand]:
    script, region = LeavingScript(), f"eu-{uuid.uuid4().hex}-1"
    services = ServiceScript().activities()
    async with Worker(
        client,
        task_queue=ids.task_queue(region),
        workflows=[Tenant, OffboardTenant, ConnectService],
        activities=[*script.activities(), *services],
    ):
        stand = Stand(client, region, script)
        await stand.begin()
        yield stand


# ── the grace ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_leaving_begins_a_grace_that_is_shown_and_destroys_nothing(stand) -> None:
    await stand.offboard()
    await stand.assert_reaches(State.LEAVING)
    await called(stand.script, "announce leaving")
    described = await stand.offboarding.describe()
    assert described.status is WorkflowExecutionStatus.RUNNING
    assert described.typed_search_attributes.get(visibility.TENANT_ID) == stand.tenant_id
    assert set(stand.script.calls) == {"begin-leaving", "announce leaving"}


async def test_the_customer_is_reminded_a_week_and_a_day_before_the_end(stand) -> None:
    await stand.offboard()
    await stand.fast_forward(timedelta(days=23, minutes=1))
    await called(stand.script, "remind offboard-1-reminder-1")
    assert "remind offboard-1-reminder-2" not in stand.script.calls
    await stand.fast_forward(timedelta(days=6))
    await called(stand.script, "remind offboard-1-reminder-2")
    await called(stand.script, "announce leaving-reminder")
    assert "begin-destruction" not in stand.script.calls
    summaries = await _summaries(stand.offboarding)
    assert [text for text in summaries if text.startswith("2 · grace")] == [
        "2 · grace: reminder 1",
        "2 · grace: reminder 2",
        f"2 · grace: until {stand.script.leaving.until:%Y-%m-%d %H:%M} UTC",
    ]


async def _summaries(handle: WorkflowHandle) -> list[str]:
    history = await handle.fetch_history()
    return [
        e.user_metadata.summary.data.decode().strip('"') for e in history.events if e.user_metadata.HasField("summary")
    ]


async def test_a_restore_in_the_grace_ends_it_and_nothing_was_destroyed(stand) -> None:
    await stand.offboard()
    await stand.restore()
    await stand.assert_reaches(State.ACTIVE)
    await stand.assert_ends(stand.offboarding, WorkflowExecutionStatus.CANCELED)
    await called(stand.script, "announce restored")
    assert "begin-destruction" not in stand.script.calls
    assert "follow-root-key" in stand.script.calls


async def test_who_was_restored_can_leave_again_with_a_grace_of_its_own(stand) -> None:
    for number in (1, 2, 3):
        await stand.offboard(HOUR)
        await stand.assert_reaches(State.LEAVING)
        if number < 3:
            await stand.restore()
    await stand.fast_forward(timedelta(minutes=61))
    await called(stand.script, "announce farewell")
    assert stand.script.calls.count("begin-destruction") == 1


async def test_the_same_again_joins_and_another_end_is_refused(stand) -> None:
    await stand.offboard(HOUR)
    await stand.offboard(HOUR)
    await stand.offboard(GRACE)
    await stand.assert_refused("leaving_otherwise", lambda: stand.offboard(NOW))
    history = await stand.entity.fetch_history()
    assert sum(e.HasField("child_workflow_execution_started_event_attributes") for e in history.events) == 1


async def test_a_leaving_whose_workflow_somebody_ended_is_taken_up_by_asking_again(stand) -> None:
    await stand.offboard(HOUR)
    await stand.offboarding.terminate()
    await stand.offboard(HOUR)
    assert await _has(stand.offboarding, WorkflowExecutionStatus.RUNNING)


async def test_while_it_leaves_everything_else_is_refused(stand) -> None:
    await stand.offboard()
    for move in StandingMove:
        await stand.assert_refused(
            "illegal_move", lambda move=move: stand.gateway.change_standing(stand.tenant_id, move)
        )
    rotation = RotateRequest(request_id="a" * 32, services=Scope.ALL, tenant_key=True)
    for ask in (
        lambda: stand.gateway.change_root_key(stand.tenant_id, "a" * 32),
        lambda: stand.gateway.rotate_keys(stand.tenant_id, rotation),
        lambda: stand.gateway.retire_service_key(stand.tenant_id, "orders-db", 1),
        lambda: stand.gateway.roll_authority(stand.tenant_id),
    ):
        await stand.assert_refused("tenant_closed", ask)
    assert stand.script.attempts["lock"] == 0


@pytest.mark.parametrize("state", [State.REQUESTED, State.PROVISIONING, State.FAILED, State.OFFBOARDED])
async def test_who_is_not_open_does_not_leave(client, stand, state) -> None:
    other = Stand(client, stand.region, stand.script)
    await other.begin(state)
    await other.assert_refused("illegal_move", other.offboard)
    await other.assert_refused("illegal_move", other.restore)
    assert stand.script.calls == []


async def test_who_does_not_leave_is_not_restored(stand) -> None:
    await stand.assert_refused("illegal_move", stand.restore)
    assert stand.script.calls == []


# ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_at_the_end_of_the_grace_everything_is_destroyed_in_order(stand) -> None:
    await stand.offboard(HOUR)
    await stand.fast_forward(timedelta(minutes=59))
    assert "begin-destruction" not in stand.script.calls
    await stand.fast_forward(timedelta(minutes=2))
    await stand.assert_ends(stand.offboarding, WorkflowExecutionStatus.COMPLETED)
    assert [call for call in stand.script.calls if call in DESTRUCTION] == DESTRUCTION
    await stand.assert_ends(stand.entity, WorkflowExecutionStatus.COMPLETED)
    await stand.assert_reaches(State.OFFBOARDED)


async def test_without_a_grace_it_begins_at_once(stand) -> None:
    await stand.offboard(NOW)
    await stand.assert_ends(stand.offboarding, WorkflowExecutionStatus.COMPLETED)
    assert [call for call in stand.script.calls if call in DESTRUCTION] == DESTRUCTION


async def test_behind_the_point_of_no_return_a_restore_is_refused_and_a_cancel_is_too_late(stand) -> None:
    stand.script.down.add("destroy-tenant-key")
    await stand.offboard(NOW)
    await called(stand.script, "destroy-service-keys")
    await stand.assert_refused("destruction_begun", stand.restore)
    await stand.assert_reaches(State.LEAVING)
    await stand.offboard(NOW)
    await stand.assert_refused("leaving_otherwise", lambda: stand.offboard(HOUR))
    await stand.offboarding.cancel()
    await asyncio.sleep(0.5)
    stand.script.down.clear()
    await stand.assert_ends(stand.offboarding, WorkflowExecutionStatus.COMPLETED)
    assert [call for call in stand.script.calls if call in DESTRUCTION] == DESTRUCTION


async def test_a_tenant_that_was_restored_in_the_last_moment_is_left_alone(stand) -> None:
    stand.script.on("begin-destruction", lambda: setattr(stand.script, "leaving", None))
    await stand.offboard(NOW)
    await stand.assert_ends(stand.offboarding, WorkflowExecutionStatus.COMPLETED)
    assert "take-stock" not in stand.script.calls


async def test_the_services_workflows_end_without_another_renewal(stand) -> None:
    stand.script.services = ("orders-db",)
    service = await stand.client.start_workflow(
        ConnectService.run,
        ServiceInput(
            tenant_id=stand.tenant_id, region=stand.region, service="orders-db", memory=ServiceMemory(generation=1)
        ),
        id=ids.service_workflow(stand.tenant_id, "orders-db"),
        task_queue=ids.task_queue(stand.region),
    )
    await stand.offboard(NOW)
    await stand.assert_ends(service, WorkflowExecutionStatus.COMPLETED)
    await stand.assert_ends(stand.offboarding, WorkflowExecutionStatus.COMPLETED)


async def test_the_payload_key_is_not_destroyed_while_a_workflow_of_the_tenant_runs(stand) -> None:
    straggler = await stand.client.start_workflow(
        ConnectService.run,
        ServiceInput(
            tenant_id=stand.tenant_id, region=stand.region, service="straggler", memory=ServiceMemory(generation=1)
        ),
        id=ids.service_workflow(stand.tenant_id, "straggler"),
        task_queue="nobody-polls-here",
        search_attributes=TypedSearchAttributes([SearchAttributePair(visibility.TENANT_ID, stand.tenant_id)]),
    )
    await stand.offboard(NOW)
    await called(stand.script, "erase-rows")
    await asyncio.sleep(1)
    assert "destroy-payload-key" not in stand.script.calls
    await straggler.terminate()
    await stand.assert_ends(stand.offboarding, WorkflowExecutionStatus.COMPLETED)


async def test_what_is_signalled_carries_nothing_that_would_need_the_tenants_key(stand) -> None:
    stand.script.services = ("orders-db",)
    await stand.offboard(NOW)
    await stand.assert_ends(stand.offboarding, WorkflowExecutionStatus.COMPLETED)
    history = await stand.offboarding.fetch_history()
    signalled = [
        e.signal_external_workflow_execution_initiated_event_attributes
        for e in history.events
        if e.HasField("signal_external_workflow_execution_initiated_event_attributes")
    ]
    assert len(signalled) == 2
    assert all(not sent.input.payloads for sent in signalled)


@pytest.mark.parametrize("step", DESTRUCTION[:-1])
async def test_whatever_is_down_for_a_while_nothing_is_left_out_or_done_twice(stand, step) -> None:
    stand.script.down.add(step)
    await stand.offboard(NOW)

    async def tried() -> bool:
        await asyncio.sleep(0)
        return stand.script.attempts[step] > 1

    await until(tried)
    stand.script.down.clear()
    await stand.assert_ends(stand.offboarding, WorkflowExecutionStatus.COMPLETED)
    assert [call for call in stand.script.calls if call in DESTRUCTION] == DESTRUCTION


# ── the marketplace ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_event_that_disables_lets_the_tenant_leave_and_one_that_enables_brings_it_back(stand) -> None:
    await stand.gateway.disable(stand.tenant_id, "event-off")
    await stand.assert_reaches(State.LEAVING)
    assert [asked.reason for asked in stand.script.asked] == [LeaveReason.MARKETPLACE]
    assert not stand.script.asked[0].now
    await stand.gateway.enable(stand.tenant_id, stand.region, "event-on")
    await stand.assert_reaches(State.ACTIVE)
    await stand.assert_ends(stand.offboarding, WorkflowExecutionStatus.CANCELED)


async def test_the_same_event_again_is_no_second_leaving(stand) -> None:
    await stand.gateway.disable(stand.tenant_id, "event-off")
    await stand.assert_reaches(State.LEAVING)
    await stand.restore()
    await stand.gateway.disable(stand.tenant_id, "event-off")
    await stand.gateway.change_standing(stand.tenant_id, StandingMove.RESUME)
    assert len(stand.script.asked) == 1


async def test_nobody_to_disable_is_said(stand) -> None:
    with pytest.raises(Exception, match="no such tenant"):
        await stand.gateway.disable("nobody-corp-1", "event-off")
