"""Rolling an authority: order, refusals, who is told; and what the platform's hourly looks set going."""

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest
from temporalio.client import Client, WorkflowHandle
from temporalio.worker import Worker

from tenancy import ids
from tenancy.lifecycle import State
from tenancy.messages import LateService, StandingMove
from tests.workflows.scripted_authority import AuthorityScript
from tests.workflows.scripted_root_key import RootKeyScript
from tests.workflows.scripted_service import ServiceScript
from tests.workflows.test_root_key import Entity, an_entity
from workflows.authority import RollAuthority
from workflows.certificates import CheckExpiry, RollDueAuthorities
from workflows.gateway import UpdateRefused
from workflows.root_key import ChangeRootKey
from workflows.service import ConnectService
from workflows.tenant import Tenant

ROLL = ["plan-authority", "prepare-authority", "verify-authority", "activate-authority"]
AFTER = ["unrenewed-services", "publish-revocation-list"]
WORKFLOWS = [Tenant, RollAuthority, ChangeRootKey, ConnectService, CheckExpiry, RollDueAuthorities]


@pytest.fixture
def script() -> AuthorityScript:
    return AuthorityScript()


@pytest.fixture
def services() -> ServiceScript:
    return ServiceScript()


@pytest.fixture
async def queue(client: Client, script: AuthorityScript, services: ServiceScript) -> AsyncIterator[str]:
    name = ids.task_queue(f"eu-{uuid.uuid4().hex}-1")
    activities = [
        *script.activities(),
        *script.platforms(),
        *services.activities(),
        *RootKeyScript().activities(),
    ]
    async with Worker(client, task_queue=name, workflows=WORKFLOWS, activities=activities):
        yield name


@pytest.fixture
async def entity(client: Client, queue: str) -> Entity:
    return await an_entity(client, queue)


async def roll(entity: Entity) -> None:
    await entity.gateway.roll_authority(entity.tenant_id)


async def eventually(script: AuthorityScript, name: str, times: int = 1) -> None:
    async with asyncio.timeout(15):
        while script.calls.count(name) < times:  # noqa: ASYNC110 - another process is watched
            await asyncio.sleep(0.02)


def connected(entity: Entity, queue: str, service: str = "orders-db") -> "asyncio.Future[None]":
    region = queue.removeprefix("lifecycle.")
    return asyncio.ensure_future(entity.gateway.connect_service(entity.tenant_id, region, service, "request-1"))


async def test_a_roll_prepares_verifies_activates_and_publishes_in_this_order(entity, script):
    await roll(entity)
    assert script.calls == [*ROLL, *AFTER]
    await roll(entity)
    assert set(script.operations) == {"authority-roll-1", "authority-roll-2"}


async def test_the_services_are_told_to_renew_and_one_without_a_workflow_holds_nobody_up(
    entity, script, services, queue
):
    await connected(entity, queue)
    script.unrenewed = ("gone-db", "orders-db")
    await roll(entity)
    async with asyncio.timeout(15):
        while len(services.issued) < 2:  # noqa: ASYNC110 - another process is watched
            await asyncio.sleep(0.02)
    assert services.calls[-2:] == ["plan-renewal", "issue-certificate"]


@pytest.mark.parametrize("step", ROLL[1:])
async def test_what_stops_a_roll_ends_it_without_effect_and_the_next_one_may_begin(entity, script, step):
    script.refused[step] = "conflicting_resource"
    with pytest.raises(UpdateRefused) as refused:
        await roll(entity)
    assert refused.value.code == "conflicting_resource"
    assert script.calls[-1] == "abandon-authority"
    script.refused.clear()
    await roll(entity)
    assert script.calls[-len(ROLL + AFTER) :] == [*ROLL, *AFTER]


async def test_a_roll_that_was_activated_after_all_is_no_failure(entity, script):
    script.refused["activate-authority"] = "overtaken"
    script.was_activated = True
    await roll(entity)
    assert script.calls[-2:] == AFTER


async def test_an_overlap_refuses_the_next_roll_before_anything_is_made(entity, script):
    script.refused["plan-authority"] = "authority_overlaps"
    with pytest.raises(UpdateRefused) as refused:
        await roll(entity)
    assert refused.value.code == "authority_overlaps"
    assert script.calls == []


async def test_a_second_roll_and_another_operation_are_refused_while_one_runs(entity, script):
    script.down.add("prepare-authority")
    tried = asyncio.Event()
    script.on("prepare-authority", tried.set)
    running = asyncio.ensure_future(roll(entity))
    await asyncio.wait_for(tried.wait(), 15)
    for another in (roll(entity), entity.change()):
        with pytest.raises(UpdateRefused) as refused:
            await another
        assert refused.value.code == "operation_running"
    await entity.handle.signal("authority-due")
    await entity.stand(StandingMove.LOCK)  # a kill switch waits for nobody
    script.down.clear()
    await running
    assert script.calls.count("plan-authority") == 1


async def test_a_list_that_cannot_be_published_now_is_left_to_the_schedule(entity, script):
    script.refused["publish-revocation-list"] = "vault_refused"
    await roll(entity)
    assert script.calls[: len(ROLL)] == ROLL


@pytest.mark.parametrize("state", [State.REQUESTED, State.FAILED, State.LEAVING])
async def test_a_tenant_that_is_not_open_is_not_rolled_asked_or_due(client, queue, script, state):
    closed = await an_entity(client, queue, state)
    await closed.handle.signal("authority-due")
    with pytest.raises(UpdateRefused) as refused:
        await roll(closed)
    assert refused.value.code == "tenant_closed"
    assert script.calls == []


async def run(client: Client, queue: str, workflow: type) -> None:
    await client.execute_workflow(workflow.__name__, id=f"platform/{uuid.uuid4().hex}", task_queue=queue)


async def test_the_hourly_look_has_due_authorities_rolled_and_a_tenant_that_is_gone_holds_up_nobody(
    client, entity, script, queue
):
    script.due = ("gone-corp", entity.tenant_id)
    await run(client, queue, RollDueAuthorities)
    await eventually(script, "publish-revocation-list")
    assert script.calls == ["end-authorities", "due-authorities", *ROLL, *AFTER]


async def test_disconnecting_has_the_revocation_list_made_anew(entity, script, queue):
    await connected(entity, queue)
    region = queue.removeprefix("lifecycle.")
    await entity.gateway.disconnect_service(entity.tenant_id, region, "orders-db")
    await eventually(script, "publish-revocation-list")


async def test_many_disconnections_at_once_are_few_lists(entity, script):
    handle: WorkflowHandle = entity.handle
    await asyncio.gather(*(handle.signal("certificates-revoked") for _ in range(20)))
    await eventually(script, "publish-revocation-list")
    await entity.stand(StandingMove.SUSPEND)  # by now all signals were taken up
    assert script.calls.count("publish-revocation-list") < 20


async def test_a_late_service_is_renewed_by_its_workflow_and_where_that_is_lost_by_a_new_one(
    client, entity, script, services, queue
):
    await connected(entity, queue)
    region = queue.removeprefix("lifecycle.")
    lost = LateService(tenant_id=entity.tenant_id, region=region, service="users-db", generation=7)
    script.late = (lost.model_copy(update={"service": "orders-db", "generation": 1}), lost)
    await run(client, queue, CheckExpiry)
    async with asyncio.timeout(15):
        while len(services.issued) < 3:  # noqa: ASYNC110 - another process is watched
            await asyncio.sleep(0.02)
    assert {step.service for step in services.issued} == {"orders-db", "users-db"}
    started = client.get_workflow_handle(ids.service_workflow(entity.tenant_id, "users-db"))
    assert (await started.describe()).status.name == "RUNNING"
