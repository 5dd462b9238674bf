"""Key rotation: the order of the steps, failures, rejections during a rotation, and scheduled rotations."""

import asyncio
from datetime import timedelta

import pytest

from core import names as ids
from core.keys.rotation import RotationScope
from core.messages.keys import DueRotation, DueTenants, RotationPlan, RotationProgress
from tests.concurrency import wait_until_async
from tests.workflows.entities import a_rotation, fast_forward, refused, run_platform
from workflows.client.updates import UpdateRejected
from workflows.root_keys import DetectRootKeyVersions
from workflows.rotation import RotateDueKeys, RotateKeys
from workflows.runtime import timeouts as timing
from workflows.runtime.signals import ROTATION_DUE
from workflows.tenants import Tenant

WORKFLOWS = [Tenant, RotateKeys, RotateDueKeys, DetectRootKeyVersions]
SERVICE_KEYS = ["prepare-service-keys", "activate-service-keys"]
PACED = ("prepare-service-keys", "rewrap-keys")
RETIRED = ["rewrap-keys", "retire-tenant-key"]
EVERYTHING = ["plan-rotation", "rotate-tenant-key", *SERVICE_KEYS, *RETIRED, "finish-rotation"]
ANNOUNCED = "send-notification keys-rotated"
FOLLOWED = ["plan-rotation", "rewrap-keys", "finish-rotation", ANNOUNCED]
FOLLOWS = RotationPlan(services=0, retires=False, destroys=False, follows=True)


async def signal_until(entity, holds):
    """Repeat the signal until `holds`, as the schedule does: a signal during an operation is dropped."""

    async def signalled() -> bool:
        await entity.handle.signal(ROTATION_DUE)
        await asyncio.sleep(0.1)
        return holds()

    await wait_until_async(signalled)


@pytest.mark.parametrize(
    ("plan", "request_", "steps"),
    [
        ({"services": 2, "retires": True}, {}, EVERYTHING),
        ({"services": 2, "retires": True, "follows": True}, {}, EVERYTHING),
        (
            {"services": 1, "retires": False},
            {"tenant_key": False, "services": RotationScope.ONE, "service": "orders"},
            ["plan-rotation", *SERVICE_KEYS, "finish-rotation"],
        ),
        (
            {"services": 0, "retires": True},
            {"services": RotationScope.NONE},
            ["plan-rotation", "rotate-tenant-key", *RETIRED, "finish-rotation"],
        ),
        (
            {"services": 2, "retires": True, "destroys": True},
            {"compromised": True},
            [*EVERYTHING[:-1], "trim-tenant-key", "destroy-compromised-keys", "finish-rotation"],
        ),
    ],
    ids=["everything", "everything, and follows the root key", "one service", "tenant key", "compromised"],
)
async def test_rotation_takes_the_steps_of_its_plan_and_is_notified(entity, script, plan, request_, steps):
    script.answers["plan-rotation"] = RotationPlan.model_validate({"destroys": False} | plan)
    await entity.rotate(**request_)
    assert script.calls == [*steps, ANNOUNCED]


async def test_key_stored_under_the_old_version_meanwhile_is_wrapped_in_another_round(entity, script):
    script.rounds = 3
    await entity.rotate()
    assert script.calls == [*EVERYTHING[:-1], *RETIRED, *RETIRED, EVERYTHING[-1], ANNOUNCED]


async def test_paced_step_is_repeated_until_a_time_slice_leaves_no_key(entity, script):
    for step in PACED:
        slices = iter([True, True, False])
        script.answers[step] = lambda _, slices=slices: RotationProgress(total=0, done=0, more=next(slices))
    await entity.rotate()
    steps = [step for step in EVERYTHING for _ in range(3 if step in PACED else 1)]
    assert script.calls == [*steps, ANNOUNCED]


async def test_old_version_is_retired_after_a_pause_behind_the_last_new_wrap(client, entity, script):
    script.answers["rewrap-keys"] = RotationProgress(total=1, done=1)
    rotating = asyncio.create_task(entity.rotate())
    running = client.get_workflow_handle(ids.rotation_workflow(entity.tenant_id, 1))
    await wait_until_async(lambda: script.attempts["rewrap-keys"])
    await fast_forward(client, running, timing.SETTLE + timedelta(seconds=1))
    await rotating
    assert script.calls == [*EVERYTHING, ANNOUNCED]
    order = [
        event.activity_task_scheduled_event_attributes.activity_type.name or "timer"
        for event in (await running.fetch_history()).events
        if event.WhichOneof("attributes")
        in {"activity_task_scheduled_event_attributes", "timer_started_event_attributes"}
    ]
    assert order[order.index("timer") - 1 : order.index("timer") + 2] == ["rewrap-keys", "timer", "retire-tenant-key"]


async def test_failed_step_ends_the_rotation_with_its_code_and_the_next_one_may_start(entity, script):
    for number, step in enumerate(EVERYTHING, start=1):
        script.refused = {step: "root_key_disabled"}
        script.calls.clear()
        why = await refused("root_key_disabled", entity.rotate())
        assert "all keys still work" in str(why)
        assert script.calls == [*EVERYTHING[: EVERYTHING.index(step)], "abandon-rotation"]
        ended = script.inputs["abandon-rotation"][-1]
        assert (ended.number, ended.code, ended.reason) == (number, "root_key_disabled", step)
    script.refused.clear()
    script.calls.clear()
    await entity.rotate()
    assert script.calls == [*EVERYTHING, ANNOUNCED]


async def test_failed_step_is_retried(entity, script):
    script.fail_first(*EVERYTHING)
    await entity.rotate()
    assert [script.attempts[step] for step in EVERYTHING] == [2] * len(EVERYTHING)
    assert script.calls == [*EVERYTHING, ANNOUNCED]


async def test_running_operation_rejects_a_second_one(entity, script):
    script.down.add("rewrap-keys")
    first = asyncio.create_task(entity.rotate())
    await wait_until_async(lambda: script.attempts["rewrap-keys"])
    for second in (
        entity.rotate(),
        entity.change_root_key(),
        entity.retire(1),
        entity.roll_authority(),
        entity.offboard(now=True),
        entity.restore(),
    ):
        assert "a rotation of keys" in str(await refused("operation_running", second))
    await entity.handle.signal(ROTATION_DUE)
    script.down.clear()
    await first
    assert script.attempts["look-for-due-rotation"] == 0


async def test_repeated_request_is_one_rotation(entity, script):
    request = a_rotation()
    await asyncio.gather(*(entity.gateway.rotate_keys(entity.tenant_id, request) for _ in range(2)))
    assert script.calls.count("plan-rotation") == 1


async def test_due_rotation_is_planned_as_scheduled(entity, script):
    script.answers["look-for-due-rotation"] = DueRotation(
        request=a_rotation(services=RotationScope.DUE, tenant_key=False)
    )
    await entity.handle.signal(ROTATION_DUE)
    await wait_until_async(lambda: ANNOUNCED in script.calls)
    [plan] = script.inputs["plan-rotation"]
    assert (plan.scheduled, plan.request.services, plan.number) == (True, RotationScope.DUE, 1)


async def test_no_rotation_starts_without_due_keys(entity, script):
    await entity.handle.signal(ROTATION_DUE)
    await wait_until_async(lambda: "look-for-due-rotation" in script.calls)
    await entity.rotate()
    assert script.inputs["plan-rotation"][0].number == 1


async def test_failed_scheduled_rotation_does_not_block_the_tenant_workflow(entity, script):
    script.answers["look-for-due-rotation"] = DueRotation(request=a_rotation())
    script.refused["rotate-tenant-key"] = "key_unavailable"
    await entity.handle.signal(ROTATION_DUE)
    await wait_until_async(lambda: "abandon-rotation" in script.calls)
    script.refused["look-for-due-rotation"] = "database_refused"
    await signal_until(entity, lambda: script.attempts["look-for-due-rotation"] > 1)
    script.refused.clear()
    script.answers["look-for-due-rotation"] = DueRotation()

    async def rotated() -> bool:
        try:
            await entity.rotate()
        except UpdateRejected as error:  # the search for due keys may still run
            return error.code != "operation_running"
        return True

    await wait_until_async(rotated)
    assert script.calls[-1] == ANNOUNCED


async def test_version_is_retired_and_a_rejection_returns_code_and_hint(entity, script):
    await entity.retire(1)
    assert script.calls == ["retire-service-key orders 1"]
    script.refused["retire-service-key orders 2"] = "key_version_in_use"
    assert (await refused("key_version_in_use", entity.retire(2))).hint == "ask"


async def test_schedule_signals_tenants_that_are_due_and_skips_missing_ones(client, queue, entity, script):
    script.answers["find-due-rotations"] = DueTenants(tenants=("no-such-tenant", entity.tenant_id))
    await run_platform(client, queue, RotateDueKeys)
    await wait_until_async(lambda: "look-for-due-rotation" in script.calls)
    # A failed rotation is notified before it is retried.
    assert script.calls == ["find-stalled-rotations", "find-due-rotations", "look-for-due-rotation"]


async def test_failed_check_for_stalled_rotations_stops_no_rotation(client, queue, entity, script):
    script.answers["find-due-rotations"] = DueTenants(tenants=(entity.tenant_id,))
    script.refused["find-stalled-rotations"] = "database_refused"
    await run_platform(client, queue, RotateDueKeys)
    await wait_until_async(lambda: "look-for-due-rotation" in script.calls)


async def test_new_root_key_version_starts_a_rotation_of_each_outdated_tenant(client, queue, entity, script):
    script.answers |= {
        "detect-root-key-versions": DueTenants(tenants=("no-such-tenant", entity.tenant_id)),
        "look-for-due-rotation": DueRotation(request=a_rotation(services=RotationScope.NONE, tenant_key=False)),
        "plan-rotation": FOLLOWS,
    }
    await run_platform(client, queue, DetectRootKeyVersions)
    await wait_until_async(lambda: ANNOUNCED in script.calls)
    assert script.calls == ["detect-root-key-versions", "look-for-due-rotation", *FOLLOWED]
    [plan] = script.inputs["plan-rotation"]
    assert (plan.scheduled, plan.request.services, plan.request.tenant_key) == (True, RotationScope.NONE, False)


async def test_check_of_root_key_versions_is_retried_and_signals_no_tenant_that_is_current(client, queue, script):
    script.fail_first("detect-root-key-versions")
    await run_platform(client, queue, DetectRootKeyVersions)
    assert script.calls == ["detect-root-key-versions"]


async def test_root_key_that_fails_half_way_leaves_the_rest_to_the_next_check(entity, script):
    script.answers |= {
        "look-for-due-rotation": DueRotation(request=a_rotation(services=RotationScope.NONE, tenant_key=False)),
        "plan-rotation": FOLLOWS,
    }
    script.refused["rewrap-keys"] = "root_key_disabled"
    await entity.handle.signal(ROTATION_DUE)
    await wait_until_async(lambda: "abandon-rotation" in script.calls)
    assert [ended.code for ended in script.inputs["abandon-rotation"]] == ["root_key_disabled"]
    script.refused.clear()
    await signal_until(entity, lambda: ANNOUNCED in script.calls)
    # A signal sent meanwhile may have started the next rotation already.
    first = script.calls.index(ANNOUNCED)
    assert script.calls[first - len(FOLLOWED) + 1 : first + 1] == FOLLOWED
