"""Status changes of the tenant workflow: one at a time, and none that fails repeatedly delays a lock for long."""

import asyncio

import pytest
from temporalio.client import WorkflowHandle, WorkflowUpdateStage

from core.messages.tenants import OffboardRequest, StatusChange
from core.tenants.lifecycle import State
from tests.concurrency import wait_until_async
from tests.workflows.entities import Entity
from workflows.runtime import timeouts
from workflows.runtime.signals import BOUNDARIES_REPORTED, ROOT_KEY_REPORTED
from workflows.tenants import Tenant

WORKFLOWS = [Tenant]


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
