"""Rotating keys: the order of the steps, what ends them early, who is refused meanwhile, what the schedule starts."""

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest
from temporalio.client import Client
from temporalio.worker import Worker

from tenancy import ids
from tenancy.leaving_messages import LeaveRequest
from tenancy.lifecycle import State
from tenancy.rotation import Scope
from tenancy.rotation_messages import DueRotation, RotateRequest, RotationPlan
from tests.workflows.entities import Entity, an_entity
from tests.workflows.scripted_rotation import RotationScript
from workflows.gateway import UpdateRefused
from workflows.platform import NoticeRootKeyVersions, RotateDueKeys
from workflows.rotate import ROTATION_DUE, RotateKeys
from workflows.tenant import Tenant

SERVICE_KEYS = ["prepare-service-keys", "activate-service-keys"]
RETIRED = ["rewrap-keys", "retire-tenant-key"]
EVERYTHING = ["plan-rotation", "rotate-tenant-key", *SERVICE_KEYS, *RETIRED, "finish-rotation"]
TOLD = "announce keys-rotated"


@pytest.fixture
def script() -> RotationScript:
    return RotationScript()


@pytest.fixture
async def queue(client: Client, script: RotationScript) -> AsyncIterator[str]:
    name = ids.task_queue(f"eu-{uuid.uuid4().hex}-1")
    workflows = [Tenant, RotateKeys, RotateDueKeys, NoticeRootKeyVersions]
    async with Worker(client, task_queue=name, workflows=workflows, activities=script.activities()):
        yield name


@pytest.fixture
async def entity(client: Client, queue: str) -> Entity:
    return await an_entity(client, queue)


def asked(**changed: object) -> RotateRequest:
    request = RotateRequest(request_id=uuid.uuid4().hex, services=Scope.ALL, tenant_key=True)
    return request.model_copy(update=changed)


async def rotate(entity: Entity, **changed: object) -> None:
    await entity.gateway.rotate_keys(entity.tenant_id, asked(**changed))


async def calls(script: RotationScript, name: str, times: int = 1) -> None:
    async with asyncio.timeout(15):
        while script.attempts[name] < times:  # noqa: ASYNC110 - another task's counter
            await asyncio.sleep(0.05)


async def test_a_rotation_of_everything_goes_through_every_step_and_people_are_told(
    entity: Entity, script: RotationScript
) -> None:
    await rotate(entity)
    assert script.calls == [*EVERYTHING, TOLD]


async def test_a_rotation_takes_only_the_steps_that_it_needs(entity: Entity, script: RotationScript) -> None:
    script.plan = RotationPlan(services=1, retires=False, destroys=False)
    await rotate(entity, tenant_key=False, services=Scope.ONE, service="orders")
    assert script.calls == ["plan-rotation", *SERVICE_KEYS, "finish-rotation", TOLD]
    script.calls.clear()
    script.plan = RotationPlan(services=0, retires=True, destroys=False)
    await rotate(entity, services=Scope.NONE)
    assert script.calls == ["plan-rotation", "rotate-tenant-key", *RETIRED, "finish-rotation", TOLD]


async def test_what_is_compromised_is_deleted_and_destroyed_last(entity: Entity, script: RotationScript) -> None:
    script.plan = RotationPlan(services=2, retires=True, destroys=True)
    await rotate(entity, compromised=True)
    assert script.calls == [*EVERYTHING[:-1], "trim-tenant-key", "destroy-compromised-keys", EVERYTHING[-1], TOLD]


async def test_what_is_stored_under_the_old_version_meanwhile_is_wrapped_in_another_round(
    entity: Entity, script: RotationScript
) -> None:
    script.rounds = 3
    await rotate(entity)
    assert script.calls == [*EVERYTHING[:-1], *RETIRED, *RETIRED, EVERYTHING[-1], TOLD]


async def test_the_old_version_is_retired_a_while_after_the_last_new_wrap(
    client: Client, entity: Entity, script: RotationScript
) -> None:
    script.rewrapped = 1
    rotating = asyncio.create_task(rotate(entity))
    await calls(script, "rewrap-keys")
    running = client.get_workflow_handle(ids.rotation_workflow(entity.tenant_id, 1))
    async with asyncio.timeout(15):
        while not any(  # noqa: ASYNC110 - a history has nothing to wait for
            event.HasField("timer_started_event_attributes") for event in (await running.fetch_history()).events
        ):
            await asyncio.sleep(0.05)
    assert "retire-tenant-key" not in script.calls
    await rotating
    assert script.calls == [*EVERYTHING, TOLD]


@pytest.mark.parametrize("step", EVERYTHING)
async def test_whatever_step_is_refused_the_rotation_is_ended_with_its_code_and_can_be_asked_for_again(
    entity: Entity, script: RotationScript, step: str
) -> None:
    script.refused[step] = "root_key_disabled"
    with pytest.raises(UpdateRefused) as refused:
        await rotate(entity)
    assert refused.value.code == "root_key_disabled"
    assert "every key that worked works" in str(refused.value)
    assert script.calls == [*EVERYTHING[: EVERYTHING.index(step)], "abandon-rotation"]
    [ended] = script.abandoned
    assert (ended.number, ended.code, ended.reason) == (1, "root_key_disabled", step)
    script.refused.clear()
    await rotate(entity)
    assert script.calls[-len(EVERYTHING) - 1 :] == [*EVERYTHING, TOLD]
    assert script.plans[-1].number == 2


@pytest.mark.parametrize("step", EVERYTHING)
async def test_a_step_that_fails_is_tried_again(entity: Entity, script: RotationScript, step: str) -> None:
    script.down.add(step)
    script.on(step, lambda: script.down.clear() if script.attempts[step] == 2 else None)
    await rotate(entity)
    assert script.attempts[step] == 2
    assert script.calls == [*EVERYTHING, TOLD]


async def test_a_second_operation_is_refused_while_one_runs(entity: Entity, script: RotationScript) -> None:
    script.down.add("rewrap-keys")
    first = asyncio.create_task(rotate(entity))
    await calls(script, "rewrap-keys")
    for second in (
        rotate(entity),
        entity.change(),
        entity.gateway.retire_service_key(entity.tenant_id, "orders", 1),
        entity.gateway.roll_authority(entity.tenant_id),
        entity.gateway.offboard(entity.tenant_id, LeaveRequest(now=True)),
        entity.gateway.restore(entity.tenant_id),
    ):
        with pytest.raises(UpdateRefused) as refused:
            await second
        assert refused.value.code == "operation_running"
        assert "a rotation of keys" in str(refused.value)
    await entity.handle.signal(ROTATION_DUE)
    script.down.clear()
    await first
    assert script.attempts["look-for-due-rotation"] == 0


async def test_the_same_request_asked_twice_is_one_rotation(entity: Entity, script: RotationScript) -> None:
    request = asked()
    await asyncio.gather(*(entity.gateway.rotate_keys(entity.tenant_id, request) for _ in range(2)))
    assert script.calls.count("plan-rotation") == 1


@pytest.mark.parametrize("state", [state for state in State if state not in {State.ACTIVE, State.SUSPENDED}])
async def test_a_tenant_that_is_not_in_use_rotates_nothing(
    client: Client, queue: str, script: RotationScript, state: State
) -> None:
    entity = await an_entity(client, queue, state)
    for question in (rotate(entity), entity.gateway.retire_service_key(entity.tenant_id, "orders", 1)):
        with pytest.raises(UpdateRefused) as refused:
            await question
        assert refused.value.code == "tenant_closed"
    assert script.calls == []


async def test_what_is_due_is_rotated_and_on_record_as_scheduled(entity: Entity, script: RotationScript) -> None:
    script.due = DueRotation(request=asked(services=Scope.DUE, tenant_key=False))
    await entity.handle.signal(ROTATION_DUE)
    await calls(script, TOLD)
    [plan] = script.plans
    assert (plan.scheduled, plan.request.services, plan.number) == (True, Scope.DUE, 1)


async def test_when_nothing_is_due_nothing_is_begun(entity: Entity, script: RotationScript) -> None:
    await entity.handle.signal(ROTATION_DUE)
    await calls(script, "look-for-due-rotation")
    await rotate(entity)
    assert script.plans[0].number == 1


async def test_a_scheduled_rotation_that_fails_leaves_the_entity_to_others(
    entity: Entity, script: RotationScript
) -> None:
    script.due = DueRotation(request=asked())
    script.refused["rotate-tenant-key"] = "key_unavailable"
    await entity.handle.signal(ROTATION_DUE)
    await calls(script, "abandon-rotation")
    script.refused["look-for-due-rotation"] = "database_refused"
    async with asyncio.timeout(15):
        while not script.attempts["look-for-due-rotation"] > 1:
            await entity.handle.signal(ROTATION_DUE)
            await asyncio.sleep(0.1)
    script.refused.clear()
    await rotate(entity)
    assert script.calls[-1] == TOLD


async def test_a_version_is_retired_and_a_refusal_says_why(entity: Entity, script: RotationScript) -> None:
    await entity.gateway.retire_service_key(entity.tenant_id, "orders", 1)
    assert script.calls == ["retire-service-key orders 1"]
    script.refused["retire-service-key orders 2"] = "key_version_in_use"
    with pytest.raises(UpdateRefused) as refused:
        await entity.gateway.retire_service_key(entity.tenant_id, "orders", 2)
    assert (refused.value.code, refused.value.hint) == ("key_version_in_use", "mend it")


async def test_the_schedule_tells_those_who_are_due_and_passes_over_who_is_not_there(
    client: Client, queue: str, entity: Entity, script: RotationScript
) -> None:
    script.due_tenants = ("nobody-there", entity.tenant_id)
    await client.execute_workflow(RotateDueKeys.run, id=f"platform/rotations-{uuid.uuid4().hex}", task_queue=queue)
    await calls(script, "look-for-due-rotation")
    # What failed is told before it is tried again.
    assert script.calls == ["check-rotations", "find-due-rotations", "look-for-due-rotation"]


async def test_that_nobody_can_be_told_of_a_stuck_rotation_keeps_no_key_from_being_rotated(
    client: Client, queue: str, entity: Entity, script: RotationScript
) -> None:
    script.due_tenants = (entity.tenant_id,)
    script.refused["check-rotations"] = "database_refused"
    await client.execute_workflow(RotateDueKeys.run, id=f"platform/rotations-{uuid.uuid4().hex}", task_queue=queue)
    await calls(script, "look-for-due-rotation")


FOLLOWED = ["plan-rotation", "rewrap-keys", "finish-rotation", TOLD]


async def test_a_new_version_of_the_root_key_is_followed_by_who_is_behind(
    client: Client, queue: str, entity: Entity, script: RotationScript
) -> None:
    script.behind = ("nobody-there", entity.tenant_id)
    script.due = DueRotation(request=asked(services=Scope.NONE, tenant_key=False))
    script.plan = RotationPlan(services=0, retires=False, destroys=False, follows=True)
    name = f"platform/root-key-versions-{uuid.uuid4().hex}"
    await client.execute_workflow(NoticeRootKeyVersions.run, id=name, task_queue=queue)
    await calls(script, TOLD)
    assert script.calls == ["notice-root-key-versions", "look-for-due-rotation", *FOLLOWED]
    [plan] = script.plans
    assert (plan.scheduled, plan.request.services, plan.request.tenant_key) == (True, Scope.NONE, False)


async def test_a_rotation_that_retires_follows_with_the_same_wraps(entity: Entity, script: RotationScript) -> None:
    script.plan = RotationPlan(services=2, retires=True, destroys=False, follows=True)
    await rotate(entity)
    assert script.calls == [*EVERYTHING, TOLD]


async def test_a_look_that_finds_nobody_behind_tells_nobody(
    client: Client, queue: str, entity: Entity, script: RotationScript
) -> None:
    assert entity.tenant_id
    script.down.add("notice-root-key-versions")
    script.on("notice-root-key-versions", script.down.clear)
    name = f"platform/root-key-versions-{uuid.uuid4().hex}"
    await client.execute_workflow(NoticeRootKeyVersions.run, id=name, task_queue=queue)
    assert script.calls == ["notice-root-key-versions"]


async def test_a_root_key_that_fails_half_way_leaves_the_rest_to_the_next_look(
    entity: Entity, script: RotationScript
) -> None:
    script.due = DueRotation(request=asked(services=Scope.NONE, tenant_key=False))
    script.plan = RotationPlan(services=0, retires=False, destroys=False, follows=True)
    script.refused["rewrap-keys"] = "root_key_disabled"
    await entity.handle.signal(ROTATION_DUE)
    await calls(script, "abandon-rotation")
    assert [ended.code for ended in script.abandoned] == ["root_key_disabled"]
    script.refused.clear()
    async with asyncio.timeout(15):
        while TOLD not in script.calls:
            await entity.handle.signal(ROTATION_DUE)
            await asyncio.sleep(0.1)
    assert script.calls[-len(FOLLOWED) :] == FOLLOWED
