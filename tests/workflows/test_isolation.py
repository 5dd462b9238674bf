"""Isolation assessments and the check for due tenants: order, one per tenant at a time, and the effect of a breach."""

import asyncio
import time
import uuid
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError

from core import names as ids
from core.errors.compliance import AssessmentFailed
from core.messages.base import StepInput
from core.messages.compliance import BoundariesInput, DueExamination, DueInput, DueResult, ExamineInput, ExamineResult
from core.messages.tenants import StatusChange, StatusChangeInput, StatusChangeResult
from core.tenants.lifecycle import State
from tests.concurrency import wait_until_async
from tests.workflows.entities import a_tenant_id, refused, run_platform
from tests.workflows.scripted import Script
from workflows.client.workflow_client import WorkflowClient
from workflows.isolation import AssessDueTenants, AssessIsolation
from workflows.runtime import timeouts as timing
from workflows.tenants import Tenant

WORKFLOWS = [Tenant, AssessIsolation, AssessDueTenants]


class Examinations:
    """The activities of assessments: `breached` tenants have a failed check, `broken` ones cannot be assessed."""

    def __init__(self, script: Script) -> None:
        self.done: list[tuple[str, str]] = []
        self.breached: set[str] = set()
        self.broken: set[str] = set()
        self.due: list[str] = []
        self.region = ""
        self.regions: dict[str, str] = {}
        """Regions other than `region`, by tenant."""
        self.running = self.most = 0
        self.per_second, self.page, self.seconds = 100.0, 3, 0.01
        self.starts: list[float] = []
        self.hold = asyncio.Event()
        self.hold.set()
        self._locked: set[str] = set()
        script.answers |= {
            "assess-tenant": self._examine,
            "apply-isolation-result": self._follow,
            "change-status": self._change,
            "find-due-assessments": self._find,
        }

    async def _examine(self, step: ExamineInput) -> ExamineResult:
        self.running += 1
        self.starts.append(time.monotonic())
        self.most = max(self.most, self.running)
        try:
            await self.hold.wait()
            await asyncio.sleep(self.seconds)
        finally:
            self.running -= 1
        if step.tenant_id in self.broken:
            raise ApplicationError("refused", type="conflicting_resource", non_retryable=True)
        self.done.append((step.tenant_id, step.operation_id))
        breached = int(step.tenant_id in self.breached)
        return ExamineResult(examined=True, held=3, breached=breached, not_checked=1, complete=not step.daily)

    def _follow(self, step: StepInput) -> StatusChangeResult:
        self._locked |= {step.tenant_id} & self.breached
        return StatusChangeResult(state=State.LOCKED if step.tenant_id in self._locked else State.ACTIVE)

    def _change(self, step: StatusChangeInput) -> StatusChangeResult:
        if step.move is not StatusChange.CLEAR_BREACH:
            return StatusChangeResult(state=State.LOCKED)
        if step.tenant_id in self.breached:
            raise ApplicationError("not yet", type="isolation_lock_not_cleared", non_retryable=True)
        self._locked.discard(step.tenant_id)
        return StatusChangeResult(state=State.ACTIVE)

    def _find(self, due: DueInput) -> DueResult:
        page = sorted(one for one in self.due if one > due.after)[: self.page]
        return DueResult(
            tenants=tuple(DueExamination(tenant_id=one, region=self.regions.get(one, self.region)) for one in page),
            per_second=self.per_second,
        )


@pytest.fixture
def examinations(script):
    return Examinations(script)


class CountingClient:
    """A client that counts the callers' requests, so that a test can wait for them."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.started = self.found = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def start_workflow(self, *args: Any, **options: Any) -> Any:
        handle = await self._client.start_workflow(*args, **options)
        self.started += 1
        return handle

    def get_workflow_handle(self, *args: Any, **options: Any) -> Any:
        self.found += 1
        return self._client.get_workflow_handle(*args, **options)


@pytest.fixture
def counted(client):
    return CountingClient(client)


@pytest.fixture
def check(counted, region, examinations):
    """Return a function that assesses a tenant and returns the run."""
    examinations.region = region

    async def check(tenant_id: str, *, after_running: bool = False) -> str:
        return await WorkflowClient(counted, 180).check_boundaries(tenant_id, region, repeat=after_running)

    return check


async def test_concurrent_callers_share_one_assessment(check, counted, examinations):
    examinations.hold.clear()
    tenant_id = a_tenant_id()
    requested = [asyncio.create_task(check(tenant_id)) for _ in range(5)]
    await wait_until_async(lambda: examinations.running and counted.started == len(requested))
    examinations.hold.set()
    runs = await asyncio.gather(*requested)
    assert len(set(runs)) == 1
    assert examinations.done == [(tenant_id, runs[0])]
    again = await check(tenant_id)
    assert again != runs[0]
    assert examinations.done[-1] == (tenant_id, again)


async def test_new_assessment_starts_after_its_request(check, counted, examinations):
    examinations.hold.clear()
    tenant_id = a_tenant_id()
    before = asyncio.create_task(check(tenant_id))
    await wait_until_async(lambda: examinations.running)
    now = asyncio.create_task(check(tenant_id, after_running=True))
    await wait_until_async(lambda: counted.found)
    examinations.hold.set()
    assert await before != await now
    assert [run for _, run in examinations.done] == [await before, await now]


async def test_breach_locks_the_tenant_until_it_is_cleared(check, entity, examinations):
    await check(entity.tenant_id)
    assert await entity.state() == (None, None)
    examinations.breached.add(entity.tenant_id)
    await check(entity.tenant_id)
    await entity.reaches(State.LOCKED)
    await refused("isolation_lock_not_cleared", entity.move(StatusChange.CLEAR_BREACH))
    examinations.breached.clear()
    await entity.move(StatusChange.CLEAR_BREACH)
    await entity.reaches(State.ACTIVE)


async def test_breach_of_a_tenant_without_a_tenant_workflow_causes_no_failure(check, examinations):
    tenant_id = a_tenant_id()
    examinations.breached.add(tenant_id)
    await check(tenant_id)


async def test_assessment_without_a_result_fails(client, queue, check, examinations):
    tenant_id = a_tenant_id()
    examinations.broken.add(tenant_id)
    with pytest.raises(AssessmentFailed):
        await check(tenant_id)
    with pytest.raises(WorkflowFailureError):
        await client.execute_workflow(
            AssessIsolation.run,
            BoundariesInput(tenant_id=tenant_id, region=examinations.region),
            id=ids.boundaries_workflow(tenant_id),
            task_queue=queue,
        )


@pytest.mark.usefixtures("check")
async def test_due_tenants_are_assessed_a_few_at_a_time_and_a_failure_stops_no_other(
    client, queue, script, examinations
):
    prefix = a_tenant_id()
    due = examinations.due = [f"{prefix}-{number:02}" for number in range(8)]
    examinations.broken = {due[0], due[4]}
    examinations.seconds = 0.5  # so long that the next one begins meanwhile
    await run_platform(client, queue, AssessDueTenants)
    assert {one for one, _ in examinations.done} == set(due) - examinations.broken
    assert [step.after for step in script.inputs["find-due-assessments"]] == ["", due[2], due[5], due[7]]
    assert 1 < examinations.most <= 4


@pytest.mark.usefixtures("check")
async def test_due_tenants_are_assessed_with_the_rate_of_the_setting(client, queue, examinations):
    prefix = a_tenant_id()
    examinations.due = [f"{prefix}-{number:02}" for number in range(13)]
    examinations.per_second, examinations.page = 8.0, 13
    await run_platform(client, queue, AssessDueTenants)
    starts = examinations.starts
    assert len(starts) == 13
    # The first one runs alone, then four start together; the eight others follow in two seconds' turns of four.
    assert starts[-1] - starts[1] >= 2 * 4 / 8 - 0.1


async def test_due_tenants_are_assessed_once_when_the_worker_dies(client, script, examinations):
    examinations.region = region = f"eu-{uuid.uuid4().hex}-1"
    queue, prefix = ids.operation_queue(region), a_tenant_id()
    examinations.due = [f"{prefix}-{number:02}" for number in range(10)]
    examinations.per_second = 100.0
    async with script.worker(client, region, WORKFLOWS):
        sweep = await client.start_workflow(AssessDueTenants.run, id=f"platform/{uuid.uuid4().hex}", task_queue=queue)
        await wait_until_async(lambda: len(examinations.done) >= 4)
        examinations.hold.clear()
        await wait_until_async(lambda: examinations.running)
    done = len(examinations.done)
    assert 4 <= done < 10
    examinations.hold.set()
    async with script.worker(client, region, WORKFLOWS):
        await sweep.result()
    assert sorted(one for one, _ in examinations.done) == examinations.due
    steps = [step for step in script.inputs["assess-tenant"] if step.tenant_id in examinations.due]
    assert len({(step.tenant_id, step.operation_id) for step in steps}) == 10
    assert all(step.daily for step in steps)


async def test_due_tenant_with_a_running_assessment_is_skipped(client, queue, check, examinations):
    tenant_id = a_tenant_id()
    examinations.due = [tenant_id]
    examinations.hold.clear()
    requested = asyncio.create_task(check(tenant_id))
    await wait_until_async(lambda: examinations.running)
    await run_platform(client, queue, AssessDueTenants)
    assert examinations.done == []
    examinations.hold.set()
    run = await requested
    assert examinations.done == [(tenant_id, run)]


@pytest.mark.usefixtures("check")
async def test_region_without_a_worker_is_tried_once_and_delays_no_other(client, queue, examinations, monkeypatch):
    monkeypatch.setattr(timing, "EXAMINATION", timedelta(seconds=4))
    prefix = a_tenant_id()
    *dead, live = examinations.due = [f"{prefix}-{number:02}" for number in range(7)]
    examinations.regions = dict.fromkeys(dead, "eu-nowhere-1")
    await run_platform(client, queue, AssessDueTenants)
    assert [one for one, _ in examinations.done] == [live]
    with pytest.raises(RPCError, match="not found"):
        await client.get_workflow_handle(ids.boundaries_workflow(dead[1])).describe()
