"""Two people in the entity: what waits and is shown, what is done when it was approved, and what ends in time."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import pytest
from temporalio.client import Client, WorkflowHandle
from temporalio.worker import Worker

from tenancy import ids
from tenancy.approval_errors import ApprovalNotNeeded, ApprovalRequired
from tenancy.approvals import Action, ApprovalState
from tenancy.lifecycle import State
from tenancy.messages import PendingApproval, PolicyRequest, TenantInput, TenantMemory
from tenancy.policy import TenantPolicy
from tests.workflows.scripted_approvals import ApprovalScript
from workflows import visibility
from workflows.gateway import Gateway, UpdateRefused
from workflows.root_key import ChangeRootKey
from workflows.rotate import RotateKeys
from workflows.tenant import Tenant


@pytest.fixture
def script() -> ApprovalScript:
    return ApprovalScript()


@pytest.fixture
async def queue(client: Client, script: ApprovalScript) -> AsyncIterator[str]:
    name = ids.task_queue(f"eu-{uuid.uuid4().hex}-1")
    async with Worker(
        client, task_queue=name, workflows=[Tenant, ChangeRootKey, RotateKeys], activities=script.activities()
    ):
        yield name


class Entity:
    """A tenant's entity, asked as the dashboard asks it."""

    def __init__(self, client: Client, handle: WorkflowHandle, tenant_id: str) -> None:
        self.handle, self.tenant_id = handle, tenant_id
        self.gateway = Gateway(client, 180, patience_seconds=15)

    async def propose(self, approval_id: str | None = None) -> str:
        approval_id = approval_id or uuid.uuid4().hex
        await self.gateway.propose(self.tenant_id, approval_id)
        return approval_id

    async def decide(self, approval_id: str) -> None:
        await self.gateway.decide(self.tenant_id, approval_id)

    async def shows_waiting(self, number: int) -> None:
        """Wait until the entity's current details, which the Temporal UI shows, list so many requests."""
        async with asyncio.timeout(15):
            while True:
                shown = (await self.handle.query("__temporal_workflow_metadata")).current_details
                if shown.count("`lock` waits for a second person until") == number:
                    return
                await asyncio.sleep(0.05)


async def an_entity(client: Client, queue: str, **memory: object) -> Entity:
    tenant_id = f"t-{uuid.uuid4().hex[:12]}"
    handle = await client.start_workflow(
        Tenant.run,
        TenantInput(
            tenant_id=tenant_id,
            region=queue.removeprefix("lifecycle."),
            promise_seconds=60,
            memory=TenantMemory.model_validate({"state": State.ACTIVE} | memory),
        ),
        id=ids.tenant_workflow(tenant_id),
        task_queue=queue,
    )
    return Entity(client, handle, tenant_id)


@pytest.fixture
async def entity(client: Client, queue: str) -> Entity:
    return await an_entity(client, queue)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not true():  # noqa: ASYNC110 - another task's counter
            await asyncio.sleep(0.05)


async def test_what_waits_is_told_and_shown_until_it_is_decided(entity: Entity, script: ApprovalScript) -> None:
    approval_id = await entity.propose()
    await until(lambda: "announce approval-waiting" in script.calls)
    await entity.shows_waiting(1)
    await entity.decide(approval_id)
    await entity.shows_waiting(0)


async def test_what_is_approved_is_done_with_the_approval_and_put_on_record(
    entity: Entity, script: ApprovalScript
) -> None:
    approval_id = await entity.propose()
    await entity.decide(approval_id)
    assert script.with_approval == [approval_id]
    assert script.closed == [(approval_id, "")]
    attributes = (await entity.handle.describe()).typed_search_attributes
    assert attributes.get(visibility.LIFECYCLE_STATE) == State.LOCKED


@pytest.mark.parametrize("state", [ApprovalState.REFUSED, ApprovalState.WITHDRAWN, ApprovalState.EXPIRED])
async def test_what_is_not_approved_is_not_done(entity: Entity, script: ApprovalScript, state: ApprovalState) -> None:
    script.says = state
    await entity.decide(await entity.propose())
    assert (script.with_approval, script.closed) == ([], [])


async def test_the_root_key_is_changed_by_the_request_that_was_approved_after_what_runs(
    client: Client, entity: Entity, script: ApprovalScript
) -> None:
    script.asks, script.argument = Action.ROOT_KEY_TO_PLATFORM, {"request_id": "a" * 32}
    script.down.add("wrap-service-keys")
    running = asyncio.create_task(entity.gateway.change_root_key(entity.tenant_id, "b" * 32))
    await until(lambda: bool(script.attempts["wrap-service-keys"]))
    approval_id = await entity.propose()
    approved = asyncio.create_task(entity.decide(approval_id))
    await until(lambda: "decide-approval" in script.calls)
    assert script.calls.count("admit-root-key") == 1
    script.down.clear()
    await asyncio.gather(running, approved)
    assert script.closed == [(approval_id, "")]
    second = client.get_workflow_handle(ids.root_key_workflow(entity.tenant_id, 2))
    described = await second.fetch_history()
    [started] = described.events[0].workflow_execution_started_event_attributes.input.payloads
    assert f'"approval_id":"{approval_id}"' in started.data.decode()
    assert f'"request_id":"{"a" * 32}"' in started.data.decode()


async def test_a_policy_is_changed_to_what_was_approved(entity: Entity, script: ApprovalScript) -> None:
    policy = TenantPolicy(tenant_key_days=200, four_eyes=frozenset({Action.LOCK}))
    script.asks, script.argument = Action.CHANGE_POLICY, dict(policy.as_argument())
    approval_id = await entity.propose()
    await entity.decide(approval_id)
    [changed] = script.policies
    assert (changed.tenant_key_days, changed.four_eyes, changed.approval_id) == (200, ("lock",), approval_id)


async def test_what_stops_an_approved_action_is_told_and_on_record(entity: Entity, script: ApprovalScript) -> None:
    script.refused["change-standing"] = "illegal_move"
    approval_id = await entity.propose()
    with pytest.raises(UpdateRefused) as refused:
        await entity.decide(approval_id)
    assert refused.value.code == "illegal_move"
    assert script.closed == [(approval_id, "illegal_move")]


@pytest.mark.parametrize(
    ("action", "argument", "step"),
    [
        (Action.OFFBOARD, {"now": True}, "begin-leaving"),
        (Action.COMPROMISE, {"services": "all", "service": None, "tenant_key": True}, "plan-rotation"),
        (Action.RETIRE_KEY_VERSION, {"service": "orders", "version": 1}, "retire-service-key"),
    ],
)
async def test_each_action_is_begun_with_its_approval(
    entity: Entity, script: ApprovalScript, action: Action, argument: dict[str, object], step: str
) -> None:
    script.asks, script.argument = action, argument
    approval_id = await entity.propose()
    with pytest.raises(UpdateRefused) as refused:
        await entity.decide(approval_id)
    assert (refused.value.code, script.with_approval) == ("seen", [approval_id])
    assert step in script.calls
    assert script.closed == [(approval_id, "seen")]


async def test_two_who_decide_at_once_do_it_once(entity: Entity, script: ApprovalScript) -> None:
    approval_id = await entity.propose()
    await asyncio.gather(*(entity.decide(approval_id) for _ in range(3)))
    assert script.with_approval == [approval_id]


async def test_what_needs_nobody_is_refused_with_the_way_to_do_it(entity: Entity, script: ApprovalScript) -> None:
    script.code = ApprovalNotNeeded.code
    with pytest.raises(UpdateRefused) as refused:
        await entity.propose()
    assert (refused.value.code, refused.value.hint) == (ApprovalNotNeeded.code, ApprovalNotNeeded.hint)
    assert "announce approval-waiting" not in script.calls


async def test_a_direct_request_that_needs_two_people_says_so(entity: Entity, script: ApprovalScript) -> None:
    script.refused["change-policy"] = ApprovalRequired.code
    with pytest.raises(UpdateRefused) as refused:
        await entity.gateway.change_policy(entity.tenant_id, TenantPolicy())
    assert refused.value.code == ApprovalRequired.code


async def test_a_policy_outside_of_its_bounds_never_enters_the_history(entity: Entity, script: ApprovalScript) -> None:
    with pytest.raises(UpdateRefused) as refused:
        await entity.gateway._of_tenant(
            entity.tenant_id, Tenant.change_policy, [PolicyRequest(tenant_key_days=1, service_key_days=90)]
        )
    assert (refused.value.code, refused.value.hint) == ("policy_refused", "tenant key days: 30 to 730")
    assert script.policies == []


async def test_what_nobody_decides_ends_in_time_by_one_timer(entity: Entity, script: ApprovalScript) -> None:
    await entity.propose()
    script.lasts = timedelta(seconds=2)
    for _ in range(2):
        await entity.propose()
    await until(lambda: "expire-approvals" in script.calls)
    await until(lambda: len(script.waiting) == 1)
    await entity.shows_waiting(1)
    started = [
        event
        for event in (await entity.handle.fetch_history()).events
        if event.HasField("timer_started_event_attributes")
    ]
    assert len(started) <= 6  # one at a time, begun anew when the entity was woken for something else


async def test_a_database_whose_clock_is_behind_is_asked_again(entity: Entity, script: ApprovalScript) -> None:
    script.lasts, script.behind = timedelta(seconds=1), timedelta(seconds=2)
    await entity.propose()
    await until(lambda: not script.waiting)
    assert 1 < script.calls.count("expire-approvals") < 6


async def test_what_waits_survives_the_entitys_next_run(client: Client, queue: str, script: ApprovalScript) -> None:
    left = PendingApproval.model_validate(
        {"approval_id": "c" * 32, "action": "lock", "expires_at": "2026-01-01T00:00:00Z"}
    )
    script.waiting = {left.approval_id: left}
    entity = await an_entity(client, queue, waiting=(left,))
    await until(lambda: "expire-approvals" in script.calls)
    await until(lambda: not script.waiting)
    await entity.shows_waiting(0)


@pytest.mark.parametrize("state", [State.REQUESTED, State.PROVISIONING, State.FAILED, State.OFFBOARDED])
async def test_a_tenant_that_is_not_in_use_has_nobody_to_ask(
    client: Client, queue: str, script: ApprovalScript, state: State
) -> None:
    entity = await an_entity(client, queue, state=state)
    for asked in (
        entity.propose(),
        entity.decide("a" * 32),
        entity.gateway.change_policy(entity.tenant_id, TenantPolicy()),
    ):
        with pytest.raises(UpdateRefused):
            await asked
    assert script.calls == []
