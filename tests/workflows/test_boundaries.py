"""CheckBoundaries and the look for who is due: order, one of a tenant at a time, and what is done about a breach."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable

import pytest
from temporalio import activity
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker

from tenancy import ids
from tenancy.examination_errors import ExaminationFailed
from tenancy.lifecycle import State
from tenancy.messages import (
    BoundariesInput,
    DueExamination,
    DueInput,
    DueResult,
    ExamineInput,
    ExamineResult,
    StandingInput,
    StandingMove,
    StandingResult,
    StepInput,
)
from tests.workflows.entities import Entity, an_entity
from workflows.boundaries import CheckBoundaries, ExamineDueTenants
from workflows.gateway import Gateway
from workflows.tenant import Tenant


class Walls:
    """What the activities do; `breached` are tenants whose walls fell, `broken` those that cannot be examined."""

    def __init__(self) -> None:
        self.examined: list[tuple[str, str]] = []
        self.breached: set[str] = set()
        self.broken: set[str] = set()
        self.locked: set[str] = set()
        self.due: list[str] = []
        self.asked: list[str] = []
        self.region = f"eu-{uuid.uuid4().hex}-1"
        self.now, self.most = 0, 0
        self.begun = asyncio.Event()
        self.hold = asyncio.Event()
        self.hold.set()

    def examined_after(self, run: str) -> list[str]:
        return [tenant_id for tenant_id, of_run in self.examined if of_run == run]

    def activities(self) -> list[Callable[..., object]]:
        @activity.defn(name="examine-tenant")
        async def examine(step: ExamineInput) -> ExamineResult:
            self.now += 1
            self.most = max(self.most, self.now)
            self.begun.set()
            try:
                await self.hold.wait()
                await asyncio.sleep(0.01)
            finally:
                self.now -= 1
            if step.tenant_id in self.broken:
                raise ApplicationError("refused", type="conflicting_resource", non_retryable=True)
            self.examined.append((step.tenant_id, step.operation_id))
            return ExamineResult(examined=True, held=3, breached=int(step.tenant_id in self.breached), not_checked=1)

        @activity.defn(name="follow-boundaries")
        async def follow(step: StepInput) -> StandingResult:
            if step.tenant_id in self.breached:
                self.locked.add(step.tenant_id)
            return StandingResult(state=State.LOCKED if step.tenant_id in self.locked else State.ACTIVE)

        @activity.defn(name="change-standing")
        async def change(step: StandingInput) -> StandingResult:
            if step.move is not StandingMove.CLEAR_BREACH:
                return StandingResult(state=State.LOCKED)
            if step.tenant_id in self.breached:
                raise ApplicationError("not yet", type="breach_not_cleared", non_retryable=True)
            self.locked.discard(step.tenant_id)
            return StandingResult(state=State.ACTIVE)

        @activity.defn(name="find-due-examinations")
        async def find(due: DueInput) -> DueResult:
            self.asked.append(due.after)
            page = sorted(one for one in self.due if one > due.after)[:3]
            return DueResult(tenants=tuple(DueExamination(tenant_id=one, region=self.region) for one in page))

        return [examine, follow, change, find]


@pytest.fixture
def walls() -> Walls:
    return Walls()


@pytest.fixture
async def queue(client: Client, walls: Walls) -> AsyncIterator[str]:
    name = ids.task_queue(walls.region)
    workflows = [Tenant, CheckBoundaries, ExamineDueTenants]
    async with Worker(client, task_queue=name, workflows=workflows, activities=walls.activities()):
        yield name


async def examine_due(client: Client, queue: str) -> None:
    await client.execute_workflow(ExamineDueTenants.run, id=f"platform/boundaries-{uuid.uuid4().hex}", task_queue=queue)


def gateway(client: Client) -> Gateway:
    return Gateway(client, 180, patience_seconds=15)


async def test_an_examination_is_made_once_for_all_who_ask_meanwhile(client, queue, walls) -> None:
    del queue
    walls.hold.clear()
    tenant_id = f"t-{uuid.uuid4().hex[:12]}"
    asked = [
        asyncio.create_task(gateway(client).check_boundaries(tenant_id, walls.region, anew=False)) for _ in range(5)
    ]
    async with asyncio.timeout(15):
        await walls.begun.wait()
    await asyncio.sleep(0.2)
    walls.hold.set()
    runs = await asyncio.gather(*asked)
    assert len(set(runs)) == 1
    assert walls.examined == [(tenant_id, runs[0])]
    again = await gateway(client).check_boundaries(tenant_id, walls.region, anew=False)
    assert again != runs[0]
    assert walls.examined[-1] == (tenant_id, again)


async def test_whoever_asks_how_it_is_now_gets_no_examination_that_began_before(client, queue, walls) -> None:
    del queue
    walls.hold.clear()
    tenant_id = f"t-{uuid.uuid4().hex[:12]}"
    before = asyncio.create_task(gateway(client).check_boundaries(tenant_id, walls.region, anew=False))
    async with asyncio.timeout(15):
        await walls.begun.wait()
    now = asyncio.create_task(gateway(client).check_boundaries(tenant_id, walls.region, anew=True))
    await asyncio.sleep(0.2)
    walls.hold.set()
    assert await before != await now
    assert [run for _, run in walls.examined] == [await before, await now]


async def test_a_breach_has_the_entity_lock_and_only_what_clears_it_opens(client, queue, walls) -> None:
    entity: Entity = await an_entity(client, queue)
    await entity.gateway.check_boundaries(entity.tenant_id, walls.region, anew=False)
    assert await entity.state() == (None, None)
    walls.breached.add(entity.tenant_id)
    await entity.gateway.check_boundaries(entity.tenant_id, walls.region, anew=False)
    await entity.reaches(State.LOCKED)
    with pytest.raises(Exception, match="not yet"):
        await entity.stand(StandingMove.CLEAR_BREACH)
    walls.breached.clear()
    await entity.stand(StandingMove.CLEAR_BREACH)
    await entity.reaches(State.ACTIVE)


async def test_what_clears_a_breach_is_refused_where_a_tenant_is_not_open(client, queue) -> None:
    entity = await an_entity(client, queue, State.LEAVING)
    with pytest.raises(Exception, match="leaving cannot unlock"):
        await entity.stand(StandingMove.CLEAR_BREACH)


async def test_a_breach_of_a_tenant_without_an_entity_fails_nothing(client, queue, walls) -> None:
    del queue
    tenant_id = f"t-{uuid.uuid4().hex[:12]}"
    walls.breached.add(tenant_id)
    await gateway(client).check_boundaries(tenant_id, walls.region, anew=False)


async def test_an_examination_without_a_result_is_said_to_be_none(client, queue, walls) -> None:
    tenant_id = f"t-{uuid.uuid4().hex[:12]}"
    walls.broken.add(tenant_id)
    with pytest.raises(ExaminationFailed):
        await gateway(client).check_boundaries(tenant_id, walls.region, anew=False)
    with pytest.raises(WorkflowFailureError):
        await client.execute_workflow(
            CheckBoundaries.run,
            BoundariesInput(tenant_id=tenant_id, region=walls.region),
            id=ids.boundaries_workflow(tenant_id),
            task_queue=queue,
        )


async def test_all_who_are_due_are_examined_one_after_the_other_whoever_fails(client, queue, walls) -> None:
    prefix = uuid.uuid4().hex[:8]
    walls.due = [f"t-{prefix}-{number:02}" for number in range(8)]
    walls.broken = {walls.due[0], walls.due[4]}
    await examine_due(client, queue)
    assert {one for one, _ in walls.examined} == set(walls.due) - walls.broken
    assert walls.asked == ["", walls.due[2], walls.due[5], walls.due[7]]
    assert walls.most == 1


async def test_who_is_being_examined_already_is_left_alone(client, queue, walls) -> None:
    tenant_id = f"t-{uuid.uuid4().hex[:12]}"
    walls.due = [tenant_id]
    walls.hold.clear()
    asked = asyncio.create_task(gateway(client).check_boundaries(tenant_id, walls.region, anew=False))
    async with asyncio.timeout(15):
        await walls.begun.wait()
    await examine_due(client, queue)
    assert walls.examined == []
    walls.hold.set()
    assert walls.examined_after(await asked) == [tenant_id]
