"""Root key changes, status changes and root key monitoring: order, rejections and concurrent requests."""

import asyncio
import uuid
from datetime import timedelta

import pytest
from temporalio.client import WorkflowExecutionStatus

from core import names as ids
from core.messages.keys import PreflightResult, WatchRootKeysInput, WrapProgress
from core.messages.tenants import StatusChange, StatusChangeResult
from core.tenants.lifecycle import State
from tests.concurrency import wait_until_async
from tests.workflows.entities import Entity, fast_forward, refused
from tests.workflows.scripted import SWITCHED
from workflows.client.updates import OperationTimeout
from workflows.client.workflow_client import WorkflowClient
from workflows.root_keys import ChangeRootKey, MonitorRootKeys
from workflows.runtime import timeouts as timing
from workflows.tenants import Tenant

WORKFLOWS = [Tenant, ChangeRootKey, MonitorRootKeys]
CHANGE = ["register-root-key", "preflight-root-key", "wrap-service-keys", "switch-root-key"]
DENIED = PreflightResult(problems=2, code="root_key_denied")


async def test_change_takes_every_step_and_shows_the_new_mode(entity, script):
    await entity.change_root_key()
    assert script.calls == [*CHANGE, "send-notification root-key-changed", "apply-root-key-health"]
    await entity.reaches(State.ACTIVE)
    assert (await entity.state())[1] == "openbao"


async def test_key_of_a_service_connected_meanwhile_is_wrapped_in_another_round(entity, script):
    script.rounds = 3
    await entity.change_root_key()
    assert script.calls[:-2] == [*CHANGE, *CHANGE[2:], *CHANGE[2:]]


async def test_wrapping_is_repeated_until_a_time_slice_leaves_no_key(entity, script):
    slices = iter([True, True, False])
    script.answers["wrap-service-keys"] = lambda _: WrapProgress(total=3, wrapped=3, more=next(slices))
    await entity.change_root_key()
    assert script.calls[:-2] == [*CHANGE[:2], *CHANGE[2:3] * 3, CHANGE[3]]


async def test_failed_preflight_ends_the_change_without_effect(entity, script):
    script.answers["preflight-root-key"] = DENIED
    await refused("root_key_denied", entity.change_root_key())
    assert script.calls == [*CHANGE[:2], "abandon-root-key"]
    assert (await entity.state())[1] is None


async def test_failed_step_abandons_the_change_with_its_code_and_the_next_one_may_start(entity, script):
    for step in CHANGE:
        script.refused = {step: "root_key_disabled"}
        await refused("root_key_disabled", entity.change_root_key())
        abandoned = script.inputs["abandon-root-key"][-1]
        assert (abandoned.code, abandoned.reason) == ("root_key_disabled", step)
    script.refused.clear()
    await entity.change_root_key()
    assert script.calls[-len(CHANGE) - 2 : -2] == CHANGE


async def test_switch_that_completed_despite_an_error_counts(entity, script):
    script.refused["switch-root-key"] = "internal"
    script.answers["abandon-root-key"] = SWITCHED
    await entity.change_root_key()
    await entity.reaches(State.ACTIVE)
    assert (await entity.state())[1] == "openbao"


async def test_failed_step_is_retried(entity, script):
    script.fail_first(*CHANGE)
    await entity.change_root_key()
    assert [script.attempts[step] for step in CHANGE] == [2] * len(CHANGE)


async def test_each_change_has_its_own_number_and_workflow(client, entity, script):
    await entity.change_root_key()
    await entity.change_root_key()
    for number in (1, 2):
        await client.get_workflow_handle(ids.root_key_workflow(entity.tenant_id, number)).result()
    assert [step.operation_id for step in script.inputs["register-root-key"]] == ["root-key-1", "root-key-2"]


async def test_repeated_request_is_one_change(entity, script):
    request = uuid.uuid4().hex
    await asyncio.gather(*(entity.change_root_key(request) for _ in range(2)))
    assert script.calls.count("switch-root-key") == 1


async def test_running_change_rejects_a_second_one_but_not_a_lock(entity, script):
    script.down.add("wrap-service-keys")
    first = asyncio.create_task(entity.change_root_key())
    await wait_until_async(lambda: script.attempts["wrap-service-keys"])
    await refused("operation_running", entity.change_root_key())
    await entity.move(StatusChange.LOCK)
    assert script.calls[-1] in {"change-status", "send-notification locked"}
    script.down.clear()
    await first


async def test_lock_that_comes_while_the_change_ends_is_not_lost(entity, script):
    locked = StatusChangeResult(state=State.LOCKED)
    script.on("send-notification root-key-changed", lambda: script.answers.update({"apply-root-key-health": locked}))
    await entity.change_root_key()
    await entity.reaches(State.LOCKED)


async def test_change_continues_after_the_callers_timeout(client, entity, script):
    entity.gateway = WorkflowClient(client, 180, patience_seconds=0.5)
    script.down.add("register-root-key")
    request = uuid.uuid4().hex
    while not script.attempts["register-root-key"]:
        with pytest.raises(OperationTimeout):
            await entity.change_root_key(request)
    script.down.clear()
    await client.get_workflow_handle(ids.root_key_workflow(entity.tenant_id, 1)).result()
    assert "switch-root-key" in script.calls


async def test_each_status_change_is_an_operation_and_a_lock_is_notified(entity, script):
    for move, state in (
        (StatusChange.SUSPEND, State.SUSPENDED),
        (StatusChange.LOCK, State.LOCKED),
        (StatusChange.UNLOCK, State.ACTIVE),
        (StatusChange.RESUME, State.ACTIVE),
    ):
        await entity.move(move)
        await entity.reaches(state)
    assert script.calls.count("send-notification locked") == 1
    assert len({step.operation_id for step in script.inputs["change-status"]}) == 4


async def test_rejected_status_change_returns_code_and_hint(entity, script):
    script.refused["change-status"] = "invalid_transition"
    assert (await refused("invalid_transition", entity.move(StatusChange.RESUME))).hint == "ask"


async def test_preflight_changes_nothing(entity, script):
    script.answers["preflight-root-key"] = DENIED
    await preflight(entity)
    assert script.calls == ["preflight-root-key"]


async def test_monitoring_continues_after_a_rejection(client, region, script):
    script.refused["monitor-root-keys"] = "database_refused"
    watch = await client.start_workflow(
        MonitorRootKeys.run,
        WatchRootKeysInput(region=region),
        id=ids.watch_workflow(region),
        task_queue=ids.tenant_queue(region),
    )
    await wait_until_async(lambda: script.attempts["monitor-root-keys"])
    await fast_forward(client, watch, timing.WATCH_PAUSE)
    await wait_until_async(lambda: script.attempts["monitor-root-keys"] > 1)
    assert (await watch.describe()).status is WorkflowExecutionStatus.RUNNING
    await watch.terminate()


async def test_preflight_and_every_step_of_a_change_have_a_deadline(client, entity):
    await preflight(entity)
    await entity.change_root_key()
    change = client.get_workflow_handle(ids.root_key_workflow(entity.tenant_id, 1))
    deadlines = [
        (one.activity_type.name, one.schedule_to_close_timeout.ToTimedelta())
        for handle in (entity.handle, change)
        for event in (await handle.fetch_history()).events
        if (one := event.activity_task_scheduled_event_attributes).activity_type.name in CHANGE
    ]
    assert [name for name, _ in deadlines] == ["preflight-root-key", *CHANGE]
    assert all(timedelta() < deadline <= timing.WRAP_DEADLINE for _, deadline in deadlines), deadlines


async def test_lock_is_accepted_while_preflights_wait_for_a_key_server(entity, script):
    script.down.add("preflight-root-key")
    asked = [asyncio.create_task(preflight(entity)) for _ in range(12)]
    await wait_until_async(lambda: sum(one.done() for one in asked) == 9)
    for one in asked:
        if one.done():
            await refused("operation_running", one)
    await entity.move(StatusChange.LOCK)
    script.down.clear()
    await asyncio.wait(asked)
    await preflight(entity)


async def preflight(entity: Entity) -> None:
    await entity.gateway.preflight_root_key(entity.tenant_id, uuid.uuid4().hex)


async def test_monitoring_signals_each_tenant_and_waits_without_events(client, region, entity, script):
    script.answers["apply-root-key-health"] = StatusChangeResult(state=State.LOCKED)
    script.reports = [(entity.tenant_id, "no-such-tenant"), ()]
    watch = await client.start_workflow(
        MonitorRootKeys.run,
        WatchRootKeysInput(region=region),
        id=ids.watch_workflow(region),
        task_queue=ids.tenant_queue(region),
    )
    await entity.reaches(State.LOCKED)
    script.reports.append((entity.tenant_id,))
    await wait_until_async(
        lambda: script.attempts["monitor-root-keys"] == 4 and script.calls.count("apply-root-key-health") == 2
    )
    events = (await watch.fetch_history()).events
    assert sum(event.HasField("activity_task_scheduled_event_attributes") for event in events) == 4
    assert not [event for event in events if event.HasField("timer_started_event_attributes")]
    await watch.terminate()
