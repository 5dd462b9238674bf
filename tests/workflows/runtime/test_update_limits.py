"""Temporal's limit of ten updates in flight: a lock is accepted while the maximum of everything else waits."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import WorkflowUpdateFailedError, WorkflowUpdateHandle, WorkflowUpdateStage
from temporalio.exceptions import ApplicationError

from core.errors.tenants import OperationRunning
from core.messages.keys import RootKeyRequest
from core.messages.tenants import ApprovalRequest, OffboardRequest, PolicyRequest, StatusChange, StatusChangeRequest
from core.tenants.approvals import Action
from core.tenants.lifecycle import State
from core.tenants.policy import TenantPolicy
from tests.concurrency import wait_until_async
from tests.workflows.entities import Entity
from tests.workflows.scripted import Script
from workflows.root_keys import ChangeRootKey
from workflows.runtime.update_limits import UpdateKind, UpdatesInFlight
from workflows.tenants import Tenant

WORKFLOWS = [Tenant, ChangeRootKey]

LOCK = (Tenant.change_standing, StatusChangeRequest(move=StatusChange.LOCK))
UNLOCK = (Tenant.change_standing, StatusChangeRequest(move=StatusChange.UNLOCK))
POLICY = (Tenant.change_policy, PolicyRequest.model_validate(TenantPolicy().as_argument()))
PREFLIGHT = (Tenant.preflight_root_key, RootKeyRequest(request_id="c" * 32))


async def submit(entity: Entity, *requests: tuple[Any, ...]) -> list[WorkflowUpdateHandle[None]]:
    """Return the accepted updates; the others are rejected at once, and none exceeds Temporal's limit."""
    accepted = []
    for update, *arguments in requests:
        async with asyncio.timeout(20):  # Temporal's client repeats a submission above the limit
            sent = await entity.handle.start_update(
                update, args=arguments, wait_for_stage=WorkflowUpdateStage.ACCEPTED, rpc_timeout=timedelta(seconds=20)
            )
        if sent._known_outcome is None:
            accepted.append(sent)
            continue
        with pytest.raises(WorkflowUpdateFailedError) as rejected:
            await sent.result()
        assert isinstance(rejected.value.cause, ApplicationError)
        assert rejected.value.cause.type == OperationRunning.code
        assert "retry" in rejected.value.cause.message
    return accepted


@asynccontextmanager
async def running_operation(entity: Entity, script: Script) -> AsyncIterator[list[WorkflowUpdateHandle[None]]]:
    """Run an operation that waits for a server; at the end every update completes."""
    script.down.add("wrap-service-keys")
    updates = await submit(entity, (Tenant.change_root_key, RootKeyRequest(request_id="b" * 32)))
    await wait_until_async(lambda: script.attempts["wrap-service-keys"])
    yield updates
    script.down.clear()
    async with asyncio.timeout(120):
        for update in updates:
            await update.result()


async def decisions_on_root_keys(entity: Entity, script: Script, number: int) -> list[tuple[Any, ...]]:
    """Return decisions on admitted requests for approval."""
    script.approvals.asks, script.approvals.argument = Action.ROOT_KEY_TO_PLATFORM, {"request_id": "a" * 32}
    return [(Tenant.decide, ApprovalRequest(approval_id=await entity.propose())) for _ in range(number)]


@pytest.mark.parametrize(
    ("kind", "limit"),
    [(UpdateKind.CHANGE, 5), (UpdateKind.DECISION, 3), (UpdateKind.PREFLIGHT, 3), (UpdateKind.PROPOSAL, 2)],
)
def test_updates_of_each_kind_have_a_limit_and_locks_none(kind, limit):
    updates = UpdatesInFlight()
    with ExitStack() as running:
        for _ in range(limit):
            updates.require_capacity(kind)
            running.enter_context(updates.counted(kind))
        with pytest.raises(ApplicationError, match="the maximum number of"):
            updates.require_capacity(kind)
        updates.require_capacity(UpdateKind.LOCK)
    updates.require_capacity(kind)


async def test_lock_is_accepted_while_approved_actions_wait(entity, script):
    async with running_operation(entity, script) as updates:
        decisions = await decisions_on_root_keys(entity, script, 12)
        waiting = await submit(entity, *decisions)
        updates.extend(waiting)
        assert len(waiting) == 3
        await entity.move(StatusChange.SUSPEND)
        await entity.move(StatusChange.LOCK)
        assert (await entity.state())[0] == State.LOCKED
    assert await submit(entity, decisions[-1])


async def test_lock_with_and_without_approval_is_accepted_while_the_maximum_of_everything_else_waits(entity, script):
    async with running_operation(entity, script) as updates:
        script.approvals.asks = Action.LOCK
        lock = await entity.propose()
        decisions = await decisions_on_root_keys(entity, script, 4)
        script.down.add("preflight-root-key")
        for requests, limit in ((decisions, 3), ([PREFLIGHT] * 3, 2)):
            waiting = await submit(entity, *requests)
            updates.extend(waiting)
            assert len(waiting) == limit
        others = [(Tenant.restore,), (Tenant.retry,), (Tenant.offboard, OffboardRequest())]
        assert await submit(entity, POLICY, UNLOCK, *others) == []
        script.approvals.asks, script.approvals.argument = Action.LOCK, {}
        await entity.decide(lock)
        assert (await entity.state())[0] == State.LOCKED
        script.approvals.asks = Action.ROOT_KEY_TO_PLATFORM
        await entity.move(StatusChange.LOCK)
        assert (await entity.state())[0] == State.LOCKED


async def test_lock_is_accepted_while_unlocks_are_retried_and_is_in_force_at_the_end(entity, script):
    script.down.add("change-status")
    unlocks = await submit(entity, *[UNLOCK] * 12)
    assert len(unlocks) == 5
    locks = await submit(entity, *[LOCK] * 5)
    assert len(locks) == 5
    script.down.clear()
    for lock in locks:
        await lock.result()
    for unlock in unlocks:
        with suppress(WorkflowUpdateFailedError):  # a later lock is complete
            await unlock.result()
    assert (await entity.state())[0] == State.LOCKED
