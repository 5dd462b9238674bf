"""Approvals in the tenant workflow: pending requests are shown, approved ones executed and undecided ones expire."""

import asyncio
from datetime import timedelta

import pytest

from core import names as ids
from core.errors.tenants import ApprovalNotNeeded, ApprovalRequired
from core.messages.tenants import PendingApproval, PolicyRequest
from core.tenants.approvals import Action, ApprovalState
from core.tenants.lifecycle import State
from core.tenants.policy import TenantPolicy
from tests.concurrency import wait_until_async
from tests.workflows.entities import Entity, refused
from tests.workflows.scripted import Script
from workflows.root_keys import ChangeRootKey
from workflows.rotation import RotateKeys
from workflows.tenants import Tenant

WORKFLOWS = [Tenant, ChangeRootKey, RotateKeys]


async def shows_waiting(entity: Entity, number: int) -> None:
    """Wait until the current details of the workflow, which the Temporal UI shows, list `number` requests."""

    async def shown() -> bool:
        details = (await entity.handle.query("__temporal_workflow_metadata")).current_details
        return details.count("`lock` waits for a second person until") == number

    await wait_until_async(shown)


def closed(script: Script) -> list[tuple[str, str]]:
    return [(step.approval_id, step.code) for step in script.inputs["close-approval"]]


async def test_pending_request_is_notified_and_shown_until_it_is_decided(entity, script):
    approval_id = await entity.propose()
    await wait_until_async(lambda: "send-notification approval-pending" in script.calls)
    await shows_waiting(entity, 1)
    await entity.decide(approval_id)
    await shows_waiting(entity, 0)


async def test_approved_action_is_executed_once_after_repeated_decisions(entity, script):
    approval_id = await entity.propose()
    await asyncio.gather(*(entity.decide(approval_id) for _ in range(3)))
    assert [step.approval_id for step in script.inputs["change-status"]] == [approval_id]
    assert closed(script) == [(approval_id, "")]
    assert (await entity.state())[0] == State.LOCKED


async def test_action_without_approval_is_not_executed(entity, script):
    for script.approvals.says in (ApprovalState.REFUSED, ApprovalState.WITHDRAWN, ApprovalState.EXPIRED):
        await entity.decide(await entity.propose())
    assert (script.inputs["change-status"], closed(script)) == ([], [])


async def test_approved_root_key_change_waits_for_the_running_one(client, entity, script):
    script.approvals.asks, script.approvals.argument = Action.ROOT_KEY_TO_PLATFORM, {"request_id": "a" * 32}
    script.down.add("wrap-service-keys")
    running = asyncio.create_task(entity.change_root_key("b" * 32))
    await wait_until_async(lambda: script.attempts["wrap-service-keys"])
    approval_id = await entity.propose()
    approved = asyncio.create_task(entity.decide(approval_id))
    await wait_until_async(lambda: "decide-approval" in script.calls)
    assert script.calls.count("register-root-key") == 1
    script.down.clear()
    await asyncio.gather(running, approved)
    assert closed(script) == [(approval_id, "")]
    second = await client.get_workflow_handle(ids.root_key_workflow(entity.tenant_id, 2)).fetch_history()
    [started] = second.events[0].workflow_execution_started_event_attributes.input.payloads
    assert f'"approval_id":"{approval_id}"' in started.data.decode()
    assert f'"request_id":"{"a" * 32}"' in started.data.decode()


async def test_approved_policy_is_set(entity, script):
    policy = TenantPolicy(tenant_key_days=200, four_eyes=frozenset({Action.LOCK}))
    script.approvals.asks, script.approvals.argument = Action.CHANGE_POLICY, dict(policy.as_argument())
    approval_id = await entity.propose()
    await entity.decide(approval_id)
    [changed] = script.inputs["change-policy"]
    assert (changed.tenant_key_days, changed.four_eyes, changed.approval_id) == (200, ("lock",), approval_id)


@pytest.mark.parametrize(
    ("action", "argument", "step"),
    [
        (Action.LOCK, {}, "change-status"),
        (Action.OFFBOARD, {"now": True}, "start-offboarding"),
        (Action.COMPROMISE, {"services": "all", "service": None, "tenant_key": True}, "plan-rotation"),
        (Action.RETIRE_KEY_VERSION, {"service": "orders", "version": 1}, "retire-service-key"),
    ],
)
async def test_rejected_action_closes_its_approval_with_the_code(entity, script, action, argument, step):
    script.approvals.asks, script.approvals.argument = action, argument
    script.refused |= {step: "invalid_transition", "retire-service-key orders 1": "invalid_transition"}
    approval_id = await entity.propose()
    await refused("invalid_transition", entity.decide(approval_id))
    [asked] = script.inputs[step]
    assert getattr(asked, "request", asked).approval_id == approval_id
    assert closed(script) == [(approval_id, "invalid_transition")]


async def test_request_that_needs_no_approval_is_rejected_with_a_hint(entity, script):
    script.approvals.code = ApprovalNotNeeded.code
    assert (await refused(ApprovalNotNeeded.code, entity.propose())).hint == ApprovalNotNeeded.hint
    assert "send-notification approval-pending" not in script.calls


async def test_direct_request_that_needs_an_approval_is_rejected(entity, script):
    script.refused["change-policy"] = ApprovalRequired.code
    await refused(ApprovalRequired.code, entity.gateway.change_policy(entity.tenant_id, TenantPolicy()))


async def test_policy_out_of_bounds_never_enters_the_history(entity, script):
    request = PolicyRequest(tenant_key_days=1, service_key_days=90)
    asked = entity.gateway._update_tenant(entity.tenant_id, Tenant.change_policy, [request])
    assert (await refused("policy_refused", asked)).hint == "tenant key days: 30 to 730"
    assert script.calls == []


async def test_undecided_requests_expire_by_one_timer(entity, script):
    await entity.propose()
    script.approvals.lasts = timedelta(seconds=2)
    for _ in range(2):
        await entity.propose()
    await wait_until_async(lambda: len(script.approvals.waiting) == 1)
    await shows_waiting(entity, 1)
    events = (await entity.handle.fetch_history()).events
    # One timer at a time, restarted when another event wakes the workflow.
    assert sum(event.HasField("timer_started_event_attributes") for event in events) <= 6


async def test_expiry_is_retried_when_the_clock_of_the_database_is_behind(entity, script):
    script.approvals.lasts, script.approvals.clock_behind = timedelta(seconds=1), timedelta(seconds=2)
    await entity.propose()
    await wait_until_async(lambda: not script.approvals.waiting)
    assert 1 < script.attempts["expire-approvals"] < 6


async def test_pending_requests_survive_continue_as_new(client, region, script):
    left = PendingApproval.model_validate(
        {"approval_id": "c" * 32, "action": "lock", "expires_at": "2026-01-01T00:00:00Z"}
    )
    script.approvals.waiting = {left.approval_id: left}
    entity = await Entity.start(client, region, waiting=(left,))
    await wait_until_async(lambda: not script.approvals.waiting)
    await shows_waiting(entity, 0)
