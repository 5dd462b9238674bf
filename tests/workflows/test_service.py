"""A service's connection as those outside see it, through the gateway: turns, answers, renewals, the end."""

import asyncio
import sys
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import TimeSkipper, TimeSkippingConfig, WorkflowEnvironment
from temporalio.worker import Worker

from tenancy import ids
from tenancy.errors import TenantClosed
from tenancy.messages import EnrolInput, ServiceInput, ServiceMemory
from tests.workflows.scripted_service import RENEWED_AFTER, ServiceScript
from workflows import timing, visibility
from workflows.gateway import Gateway, NotDoneInTime, UpdateRefused
from workflows.service import ConnectService

SERVICE = "orders-db"
STEPS = ["record-service", "create-service-key", "issue-certificate", "mark-connected"]
RENEWAL = ["plan-renewal", "issue-certificate"]


class Stand:
    """One service of one tenant, a worker whose steps are scripted, and the door."""

    def __init__(self, client: Client, region: str, script: ServiceScript) -> None:
        self.client, self.region, self.script = client, region, script
        self.gateway = Gateway(client, 60)
        self.tenant_id = f"t-{uuid.uuid4().hex[:12]}"

    @property
    def handle(self) -> WorkflowHandle[ConnectService, None]:
        return self.client.get_workflow_handle_for(ConnectService.run, ids.service_workflow(self.tenant_id, SERVICE))

    async def connect(self, request_id: str = "request-1") -> None:
        await self.gateway.connect_service(self.tenant_id, self.region, SERVICE, request_id)

    async def renew(self) -> None:
        await self.gateway.renew_service(self.tenant_id, self.region, SERVICE)

    async def disconnect(self) -> None:
        await self.gateway.disconnect_service(self.tenant_id, self.region, SERVICE)

    async def fast_forward(self, time: timedelta) -> None:
        skipper = TimeSkipper(self.client, config=TimeSkippingConfig(enabled=False))
        await skipper.fast_forward(self.handle, time)

    async def assert_issued(self, generation: int) -> None:
        async with asyncio.timeout(15):
            while len(self.script.issued) < generation:  # noqa: ASYNC110 - another process is watched
                await asyncio.sleep(0.02)
        assert [step.generation for step in self.script.issued] == list(range(1, generation + 1))

    async def assert_running(self, *, running: bool) -> None:
        described = await self.handle.describe()
        assert (described.status is WorkflowExecutionStatus.RUNNING) is running


@pytest.fixture
async def stand(client: Client) -> AsyncIterator[Stand]:
    script, region = ServiceScript(), f"eu-{uuid.uuid4().hex}-1"
    async with Worker(
        client, task_queue=ids.task_queue(region), workflows=[ConnectService], activities=script.activities()
    ):
        yield Stand(client, region, script)


async def test_a_service_is_connected_in_four_numbered_steps(stand):
    await stand.connect()
    assert stand.script.calls == STEPS
    history = await stand.handle.fetch_history()
    summaries = [e.user_metadata.summary.data.decode() for e in history.events if e.user_metadata.HasField("summary")]
    for title in ("1 · record", "2 · create the service key", "3 · issue", "4 · connected", "renew certificate 1"):
        assert any(title in summary for summary in summaries), title
    described = await stand.handle.describe()
    assert described.typed_search_attributes.get(visibility.TENANT_ID) == stand.tenant_id
    assert await described.static_summary() == f"service {SERVICE} of {stand.tenant_id}"


async def test_the_same_request_twice_is_one_certificate(stand):
    await asyncio.gather(stand.connect(), stand.connect(), stand.connect())
    assert stand.script.calls == STEPS


async def test_two_enrolments_at_once_take_turns_and_get_a_certificate_each(stand):
    await asyncio.gather(stand.connect("request-1"), stand.connect("request-2"))
    assert stand.script.calls == STEPS * 2
    assert {step.request_id for step in stand.script.issued} == {"request-1", "request-2"}
    await stand.assert_issued(2)


async def test_each_certificate_is_an_operation_of_its_own(stand):
    await stand.connect()
    await stand.renew()
    await stand.disconnect()
    assert {f"service-{SERVICE}-1", f"service-{SERVICE}-2"} <= stand.script.operations
    assert len(stand.script.operations) == len({"plan", "first", "second", "end"})


async def test_a_certificate_is_renewed_after_two_thirds_of_its_life_and_again(stand):
    await stand.connect()
    await stand.fast_forward(RENEWED_AFTER + timedelta(minutes=1))
    await stand.assert_issued(2)
    await stand.fast_forward(RENEWED_AFTER)
    await stand.assert_issued(3)
    assert {step.request_id for step in stand.script.issued} == {"request-1"}
    assert stand.script.calls == [*STEPS, *RENEWAL, *RENEWAL]


async def test_a_renewal_on_demand_moves_the_timer(stand):
    await stand.connect()
    await stand.renew()
    await stand.fast_forward(RENEWED_AFTER + timedelta(minutes=1))
    await stand.renew()
    assert stand.script.calls == [*STEPS, *RENEWAL, *RENEWAL]


async def test_a_renewal_that_is_refused_rests_and_is_tried_again(stand):
    closed = TenantClosed("locked")
    await stand.connect()
    stand.script.refused["plan-renewal"] = (closed.code, closed.message, closed.hint)
    tried = asyncio.Event()
    stand.script.on("plan-renewal", tried.set)
    await stand.fast_forward(RENEWED_AFTER + timedelta(minutes=1))
    await asyncio.wait_for(tried.wait(), 15)
    stand.script.refused.clear()
    await stand.fast_forward(timing.RENEWAL_PAUSE)
    await stand.assert_issued(2)


async def test_a_refusal_reaches_the_caller_and_leaves_no_workflow_behind(stand):
    closed = TenantClosed("locked")
    stand.script.refused["record-service"] = (closed.code, closed.message, closed.hint)
    with pytest.raises(UpdateRefused) as refused:
        await stand.connect()
    assert (refused.value.code, refused.value.message, refused.value.hint) == (
        closed.code,
        closed.message,
        closed.hint,
    )
    await stand.handle.result()
    assert stand.script.calls == []


async def test_what_fails_after_the_intent_is_put_on_record(stand):
    stand.script.refused["issue-certificate"] = ("csr_refused", "its signature does not fit its key", "sign it")
    with pytest.raises(UpdateRefused) as refused:
        await stand.connect()
    assert refused.value.code == "csr_refused"
    assert stand.script.calls == ["record-service", "create-service-key", "record-connect-failure"]
    stand.script.refused.clear()
    await stand.connect("request-2")
    assert stand.script.calls[3:] == STEPS


async def test_a_refused_further_enrolment_leaves_the_connection_alone(stand):
    await stand.connect()
    stand.script.refused["issue-certificate"] = ("csr_refused", "refused", "")
    with pytest.raises(UpdateRefused):
        await stand.connect("request-2")
    await stand.assert_running(running=True)
    stand.script.refused.clear()
    await stand.renew()


@pytest.mark.parametrize("request_id", ["", "short", "x" * 65, "has space-here", "../../etc/passwd"])
async def test_nonsense_is_refused_before_it_is_history(stand, request_id):
    with pytest.raises(UpdateRefused) as refused:
        await stand.connect(request_id)
    assert refused.value.code == "invalid_name"
    history = await stand.handle.fetch_history()
    assert not [e for e in history.events if e.HasField("workflow_execution_update_accepted_event_attributes")]
    await stand.fast_forward(timing.FIRST_REQUEST + timedelta(seconds=1))
    await stand.handle.result()


async def test_a_discovered_service_waits_for_its_agent_and_is_connected_by_it(stand):
    for _ in range(2):
        await stand.gateway.discover_service(stand.tenant_id, stand.region, SERVICE)
    await stand.fast_forward(timing.FIRST_REQUEST * 2)
    await stand.assert_running(running=True)
    assert stand.script.calls == []
    await stand.connect()
    assert stand.script.calls == STEPS
    await stand.gateway.discover_service(stand.tenant_id, stand.region, SERVICE)
    assert stand.script.calls == STEPS


async def test_a_discovered_service_that_nobody_enrols_leaves_no_workflow_behind(stand):
    await stand.gateway.discover_service(stand.tenant_id, stand.region, SERVICE)
    await stand.fast_forward(timing.DISCOVERED + timedelta(seconds=1))
    await stand.handle.result()
    await stand.connect()
    assert stand.script.calls == STEPS


async def test_disconnecting_ends_the_workflow_and_connecting_again_starts_one(stand):
    await stand.connect()
    await stand.disconnect()
    await stand.handle.result()
    await stand.connect("request-2")
    await stand.assert_running(running=True)
    assert stand.script.calls == [*STEPS, "disconnect-service", *STEPS]
    await stand.assert_issued(2)


async def test_disconnecting_waits_for_no_step_that_is_stuck(stand):
    await stand.connect()
    stand.script.down.add("issue-certificate")
    stuck = asyncio.Event()
    stand.script.on("issue-certificate", stuck.set)
    renewing = asyncio.create_task(stand.renew())
    await asyncio.wait_for(stuck.wait(), 15)
    await stand.disconnect()
    assert not renewing.done()
    # What the real step finds now: the service is disconnected.
    stand.script.refused["issue-certificate"] = ("service_unknown", "the service was disconnected", "connect it")
    stand.script.down.clear()
    with pytest.raises(UpdateRefused) as refused:
        await renewing
    assert refused.value.code == "service_unknown"
    await stand.handle.result()


async def test_disconnecting_works_when_no_workflow_is_left(stand):
    await stand.disconnect()
    await stand.handle.result()
    assert stand.script.calls == ["disconnect-service"]


async def test_a_service_disconnected_behind_the_workflow_ends_it_at_the_next_renewal(stand):
    await stand.connect()
    stand.script.refused["plan-renewal"] = ("service_unknown", "the service was disconnected", "")
    await stand.fast_forward(RENEWED_AFTER + timedelta(minutes=1))
    await asyncio.wait_for(stand.handle.result(), 15)


async def test_a_run_that_was_continued_renews_what_the_one_before_connected(stand):
    await stand.connect()
    [first] = stand.script.issued
    memory = ServiceMemory(generation=1, renew_at=stand.script.renew_at(first))
    await stand.handle.terminate()
    await stand.client.start_workflow(
        ConnectService.run,
        ServiceInput(tenant_id=stand.tenant_id, region=stand.region, service=SERVICE, memory=memory),
        id=stand.handle.id,
        task_queue=ids.task_queue(stand.region),
    )
    await stand.fast_forward(RENEWED_AFTER + timedelta(minutes=1))
    await stand.assert_issued(2)


async def test_a_request_that_takes_too_long_is_said_so_and_goes_on_by_itself(stand):
    stand.script.down.add("create-service-key")
    stand.gateway = Gateway(stand.client, 60, patience_seconds=0.5)
    with pytest.raises(NotDoneInTime):
        await stand.connect()
    stand.script.down.clear()
    await stand.assert_issued(1)


async def test_a_request_without_a_worker_is_said_to_be_not_done(client):
    stand = Stand(client, f"eu-{uuid.uuid4().hex}-1", ServiceScript())
    stand.gateway = Gateway(client, 60, patience_seconds=0.5)
    with pytest.raises(NotDoneInTime):
        await stand.connect()


async def test_a_long_history_is_continued_as_new_and_goes_on_where_it_was():
    suggested = ("--dynamic-config-value", "limit.historyCount.suggestContinueAsNew=40")
    async with await WorkflowEnvironment.start_local(
        data_converter=pydantic_data_converter,
        search_attributes=visibility.ALL,
        dev_server_existing_path=str(Path(sys.executable).with_name("temporal")),
        dev_server_extra_args=suggested,
    ) as environment:
        script = ServiceScript()
        stand = Stand(environment.client, "eu-long-1", script)
        async with Worker(
            environment.client,
            task_queue=ids.task_queue(stand.region),
            workflows=[ConnectService],
            activities=script.activities(),
        ):
            await stand.connect()
            first = (await stand.handle.describe()).run_id
            for _ in range(8):
                await stand.renew()
            assert (await stand.handle.describe()).run_id != first
            await stand.assert_issued(9)
            assert {step.request_id for step in script.issued} == {"request-1"}
            await stand.disconnect()
            await stand.handle.result()


async def test_a_bad_message_fails_its_update_and_wedges_nothing(stand):
    await stand.connect()
    with pytest.raises(Exception, match="update"):
        await stand.handle.execute_update("enrol", {"unknown": "field"})
    await stand.handle.execute_update(ConnectService.enrol, EnrolInput(request_id="request-2"))
    await stand.assert_issued(2)
