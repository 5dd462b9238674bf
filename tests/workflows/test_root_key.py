"""Changing the root key, moving the standing and following the watch: order, refusals, and who waits for whom."""

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest
from temporalio.client import Client
from temporalio.worker import Worker

from tenancy import ids
from tenancy.lifecycle import State
from tenancy.messages import (
    PreflightResult,
    StandingMove,
    WatchRootKeysInput,
)
from tests.workflows.entities import Entity, an_entity
from tests.workflows.scripted_root_key import RootKeyScript
from workflows.gateway import Gateway, NotDoneInTime, UpdateRefused
from workflows.root_key import ChangeRootKey
from workflows.root_keys import WatchRootKeys
from workflows.tenant import Tenant

CHANGE = ["admit-root-key", "preflight-root-key", "wrap-service-keys", "switch-root-key"]


@pytest.fixture
def script() -> RootKeyScript:
    return RootKeyScript()


@pytest.fixture
async def queue(client: Client, script: RootKeyScript) -> AsyncIterator[str]:
    name = ids.task_queue(f"eu-{uuid.uuid4().hex}-1")
    workflows = [Tenant, ChangeRootKey, WatchRootKeys]
    async with Worker(client, task_queue=name, workflows=workflows, activities=script.activities()):
        yield name


@pytest.fixture
async def entity(client: Client, queue: str) -> Entity:
    return await an_entity(client, queue)


async def test_a_change_goes_through_every_step_and_says_who_holds_the_key(
    entity: Entity, script: RootKeyScript
) -> None:
    await entity.change()
    assert script.calls == [*CHANGE, "announce root-key-changed", "follow-root-key"]
    await entity.reaches(State.ACTIVE)
    assert (await entity.state())[1] == "openbao"


async def test_a_service_that_comes_meanwhile_is_wrapped_in_another_round(
    entity: Entity, script: RootKeyScript
) -> None:
    script.rounds = 3
    await entity.change()
    assert script.calls[:-2] == [*CHANGE, *CHANGE[2:], *CHANGE[2:]]


async def test_what_the_preflight_finds_ends_the_change_without_effect(entity: Entity, script: RootKeyScript) -> None:
    script.problems = PreflightResult(problems=2, code="root_key_denied")
    with pytest.raises(UpdateRefused) as refused:
        await entity.change()
    assert refused.value.code == "root_key_denied"
    assert script.calls == [*CHANGE[:2], "abandon-root-key"]
    assert (await entity.state())[1] is None


@pytest.mark.parametrize("step", CHANGE)
async def test_whatever_step_is_refused_the_change_is_abandoned_with_its_code(
    entity: Entity, script: RootKeyScript, step: str
) -> None:
    script.refused[step] = "root_key_disabled"
    with pytest.raises(UpdateRefused) as refused:
        await entity.change()
    assert refused.value.code == "root_key_disabled"
    assert (script.abandoned[0].code, script.abandoned[0].reason) == ("root_key_disabled", step)
    script.refused.clear()
    await entity.change()
    assert script.calls[-len(CHANGE) - 2 : -2] == CHANGE


async def test_a_switch_that_was_given_up_too_soon_counts(entity: Entity, script: RootKeyScript) -> None:
    script.refused["switch-root-key"] = "internal"
    script.was_switched = True
    await entity.change()
    await entity.reaches(State.ACTIVE)
    assert (await entity.state())[1] == "openbao"


@pytest.mark.parametrize("step", CHANGE)
async def test_a_step_that_fails_is_tried_again(entity: Entity, script: RootKeyScript, step: str) -> None:
    script.down.add(step)
    script.on(step, lambda: script.down.clear() if script.attempts[step] == 2 else None)
    await entity.change()
    assert script.attempts[step] == 2


async def test_each_change_has_a_number_and_a_workflow_of_its_own(
    client: Client, entity: Entity, script: RootKeyScript
) -> None:
    await entity.change()
    await entity.change()
    for number in (1, 2):
        await client.get_workflow_handle(ids.root_key_workflow(entity.tenant_id, number)).result()
    assert {f"root-key-{number}" for number in (1, 2)} <= set(script.operations)


async def test_the_same_request_asked_twice_is_one_change(entity: Entity, script: RootKeyScript) -> None:
    request = uuid.uuid4().hex
    await asyncio.gather(entity.change(request), entity.change(request))
    assert script.calls.count("switch-root-key") == 1


async def test_a_second_change_is_refused_while_one_runs_and_a_lock_waits_for_none(
    entity: Entity, script: RootKeyScript
) -> None:
    script.down.add("wrap-service-keys")
    first = asyncio.create_task(entity.change())
    async with asyncio.timeout(15):
        while not script.attempts["wrap-service-keys"]:  # noqa: ASYNC110 - another task's counter
            await asyncio.sleep(0.05)
    with pytest.raises(UpdateRefused) as refused:
        await entity.change()
    assert refused.value.code == "operation_running"
    await entity.stand(StandingMove.LOCK)
    assert script.calls[-1] in {"change-standing", "announce locked"}
    script.down.clear()
    await first


async def test_a_lock_that_comes_while_the_change_ends_is_not_forgotten(entity: Entity, script: RootKeyScript) -> None:
    script.on("announce root-key-changed", lambda: setattr(script, "follows", State.LOCKED))
    await entity.change()
    await entity.reaches(State.LOCKED)


async def test_a_change_that_takes_long_goes_on_by_itself(
    client: Client, entity: Entity, script: RootKeyScript
) -> None:
    entity.gateway = Gateway(client, 180, patience_seconds=0.5)
    script.down.add("admit-root-key")
    with pytest.raises(NotDoneInTime):
        await entity.change()
    script.down.clear()
    await client.get_workflow_handle(ids.root_key_workflow(entity.tenant_id, 1)).result()
    assert "switch-root-key" in script.calls


@pytest.mark.parametrize("state", [State.REQUESTED, State.PROVISIONING, State.FAILED, State.LEAVING, State.OFFBOARDED])
async def test_a_tenant_that_is_not_in_use_neither_changes_nor_moves(
    client: Client, queue: str, script: RootKeyScript, state: State
) -> None:
    entity = await an_entity(client, queue, state)
    for asked in (
        entity.change(),
        entity.gateway.preflight_root_key(entity.tenant_id, uuid.uuid4().hex),
        *(entity.stand(move) for move in StandingMove),
    ):
        with pytest.raises(UpdateRefused):
            await asked
    assert script.calls == []


async def test_the_standing_moves_and_people_are_told(entity: Entity, script: RootKeyScript) -> None:
    for move, state in (
        (StandingMove.SUSPEND, State.SUSPENDED),
        (StandingMove.LOCK, State.LOCKED),
        (StandingMove.UNLOCK, State.ACTIVE),
        (StandingMove.RESUME, State.ACTIVE),
    ):
        await entity.stand(move)
        await entity.reaches(state)
    assert script.calls.count("announce locked") == 1
    assert len(set(script.operations)) == len(script.operations)


async def test_a_refused_move_says_why_and_changes_nothing(entity: Entity, script: RootKeyScript) -> None:
    script.refused["change-standing"] = "illegal_move"
    with pytest.raises(UpdateRefused) as refused:
        await entity.stand(StandingMove.RESUME)
    assert (refused.value.code, refused.value.hint) == ("illegal_move", "mend it")


async def test_a_preflight_changes_nothing(entity: Entity, script: RootKeyScript) -> None:
    script.problems = PreflightResult(problems=1, code="root_key_denied")
    await entity.gateway.preflight_root_key(entity.tenant_id, uuid.uuid4().hex)
    assert script.calls == ["preflight-root-key"]


async def test_the_watch_tells_those_concerned_and_leaves_no_event_for_a_check(
    client: Client, queue: str, entity: Entity, script: RootKeyScript
) -> None:
    region = queue.removeprefix("lifecycle.")
    script.follows = State.LOCKED
    script.reports = [(entity.tenant_id, "nobody-there"), (), (entity.tenant_id,)]
    watch = await client.start_workflow(
        WatchRootKeys.run, WatchRootKeysInput(region=region), id=ids.watch_workflow(region), task_queue=queue
    )
    await entity.reaches(State.LOCKED)
    async with asyncio.timeout(15):
        while script.attempts["watch-root-keys"] < 4:  # noqa: ASYNC110 - another task's counter
            await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)
    before = len((await watch.fetch_history()).events)
    await asyncio.sleep(2)
    assert len((await watch.fetch_history()).events) == before
    assert script.calls.count("follow-root-key") == 2
    await watch.terminate()
