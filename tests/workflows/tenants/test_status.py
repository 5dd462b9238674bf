"""Status changes of the tenant workflow: one at a time, and none that fails repeatedly delays a lock for long."""

import asyncio

import pytest
from temporalio.client import WorkflowHandle, WorkflowUpdateStage
from temporalio.exceptions import ApplicationError

from core.errors.tenants import OperationRepeated
from core.messages.base import StepInput
from core.messages.tenants import OffboardRequest, StatusChange, StatusChangeInput, StatusChangeResult
from core.tenants.lifecycle import State
from tests.concurrency import wait_until_async
from tests.workflows.entities import Entity, refused
from workflows.offboarding import OffboardTenant
from workflows.runtime import timeouts
from workflows.runtime.signals import BOUNDARIES_REPORTED, ROOT_KEY_REPORTED
from workflows.tenants import Tenant

WORKFLOWS = [Tenant, OffboardTenant]


async def report_breach(tenant: WorkflowHandle) -> None:
    await tenant.signal(BOUNDARIES_REPORTED)


async def report_root_key(tenant: WorkflowHandle) -> None:
    await tenant.signal(ROOT_KEY_REPORTED)


async def offboard(tenant: WorkflowHandle) -> None:
    await tenant.start_update(Tenant.offboard, OffboardRequest(), wait_for_stage=WorkflowUpdateStage.ACCEPTED)


CHANGES = {
    "apply-isolation-result": report_breach,
    "apply-root-key-health": report_root_key,
    "start-offboarding": offboard,
}


@pytest.mark.parametrize("step", CHANGES)
async def test_change_that_fails_repeatedly_delays_no_lock(client, region, script, step):
    script.down.add(step)
    entity = await Entity.start(client, region, State.ACTIVE)
    await CHANGES[step](entity.handle)
    await wait_until_async(lambda: script.attempts[step])
    async with asyncio.timeout(timeouts.ATTEMPT.total_seconds()):
        await entity.move(StatusChange.LOCK)
    assert step not in script.calls
    script.down.clear()
    await wait_until_async(lambda: step in script.calls)


async def test_change_without_an_answer_delays_a_lock_by_one_attempt(client, region, script):
    silent, answer = "apply-root-key-health", script.answers["apply-root-key-health"]
    script.answers[silent] = lambda _step: asyncio.Event().wait()
    entity = await Entity.start(client, region, State.ACTIVE)
    await report_root_key(entity.handle)
    await wait_until_async(lambda: script.attempts[silent])
    async with asyncio.timeout(timeouts.ATTEMPT.total_seconds() + 4):
        await entity.move(StatusChange.LOCK)
    script.answers[silent] = answer
    await wait_until_async(lambda: silent in script.calls)


async def test_retried_request_undoes_no_later_one(client, region, script):
    """An unlock that its key server delays ends when a lock completes meanwhile; an earlier lock changes nothing."""
    step, answer = "change-status", script.answers["change-status"]

    def change(request: StatusChangeInput) -> StatusChangeResult:
        if request.move is StatusChange.UNLOCK and unlock_fails:
            raise ApplicationError("down", "start it", type="vault_unavailable")
        return answer(request)

    script.answers[step], unlock_fails = change, True
    entity = await Entity.start(client, region, State.ACTIVE)
    await entity.move(StatusChange.LOCK)
    unlock = asyncio.create_task(entity.move(StatusChange.UNLOCK))
    await wait_until_async(lambda: script.attempts[step] > 2)
    await entity.move(StatusChange.LOCK)
    unlock_fails = False
    await refused(OperationRepeated.code, unlock)
    assert (await entity.state())[0] == State.LOCKED
    await entity.move(StatusChange.UNLOCK)
    assert (await entity.state())[0] == State.ACTIVE


async def test_retried_request_is_completed_after_a_later_one_that_it_does_not_undo(client, region, script):
    step, answer = "change-status", script.answers["change-status"]

    def change(request: StatusChangeInput) -> StatusChangeResult:
        if request.move is StatusChange.LOCK and lock_fails:
            raise ApplicationError("down", "start it", type="database_unavailable")
        return answer(request)

    script.answers[step], lock_fails = change, True
    entity = await Entity.start(client, region, State.ACTIVE)
    lock = asyncio.create_task(entity.move(StatusChange.LOCK))
    await wait_until_async(lambda: script.attempts[step])
    for later in (StatusChange.CLEAR_BREACH, StatusChange.SUSPEND):
        await entity.move(later)
    lock_fails = False
    await lock
    assert (await entity.state())[0] == State.LOCKED


async def test_retried_restore_undoes_no_later_offboarding(client, region, script):
    entity = await Entity.start(client, region, State.ACTIVE)
    await entity.offboard()
    script.down.add("restore-tenant")
    restore = asyncio.create_task(entity.restore())
    await wait_until_async(lambda: script.attempts["restore-tenant"])
    await entity.offboard()
    script.down.clear()
    await refused(OperationRepeated.code, restore)
    assert (await entity.state())[0] == State.LEAVING


SIGNALS = {"apply-isolation-result": report_breach, "apply-root-key-health": report_root_key}


@pytest.mark.parametrize("step", SIGNALS)
async def test_repeated_signals_during_an_outage_have_one_handler(client, region, script, step):
    script.down.add(step)
    script.answers[step] = StatusChangeResult(state=State.ACTIVE)
    entity = await Entity.start(client, region, State.ACTIVE)
    for _ in range(20):
        await SIGNALS[step](entity.handle)
    await entity.move(StatusChange.LOCK)
    assert script.attempts[step] < 20
    script.down.clear()
    await wait_until_async(lambda: step in script.calls)
    await entity.move(StatusChange.UNLOCK)
    assert script.calls.count(step) == 1


@pytest.mark.parametrize("step", SIGNALS)
async def test_signals_during_an_attempt_cause_another_attempt(client, region, script, step):
    """The attempt may have read the rows before the change that the signals report."""
    proceeds = asyncio.Event()

    async def attempt(_step: StepInput) -> StatusChangeResult:
        await proceeds.wait()
        return StatusChangeResult(state=State.ACTIVE)

    script.answers[step] = attempt
    entity = await Entity.start(client, region, State.ACTIVE)
    await SIGNALS[step](entity.handle)
    await wait_until_async(lambda: script.attempts[step])
    for _ in range(10):
        await SIGNALS[step](entity.handle)
    proceeds.set()
    await wait_until_async(lambda: script.calls.count(step) > 1)
    await entity.move(StatusChange.LOCK)
    assert script.calls.count(step) < 10
