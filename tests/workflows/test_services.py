"""Service connections through the workflow client: concurrency, results, renewals and disconnection."""

import asyncio
import gc
from collections.abc import Sequence
from datetime import timedelta

import pytest
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.contrib.pydantic import pydantic_data_converter

from core import names as ids
from core.errors.tenants import TenantNotOperational
from core.messages.services import EnrolInput, ServiceInput, ServiceWorkflowState
from devstack.servers.temporal import TemporalServer
from tests.concurrency import wait_until_async
from tests.ports import free_ports
from tests.workflows.entities import a_tenant_id, fast_forward, refused, summaries
from tests.workflows.scripted import RENEWED_AFTER, Script
from workflows.client.updates import OperationQueued, OperationTimeout
from workflows.client.workflow_client import WorkflowClient
from workflows.runtime import options as visibility
from workflows.runtime import timeouts as timing
from workflows.services import ConnectService

WORKFLOWS = [ConnectService]
SERVICE = "orders-db"
STEPS = ["record-service", "create-service-key", "issue-certificate", "mark-connected"]
RENEWAL = ["plan-renewal", "issue-certificate"]


class Connection:
    """One service of one tenant, and its requests through the workflow client."""

    def __init__(self, client: Client, region: str, script: Script) -> None:
        self.client, self.region, self.script = client, region, script
        self.services = script.services
        self.gateway = WorkflowClient(client, 60)
        self.tenant_id = a_tenant_id()
        self.handle = client.get_workflow_handle_for(ConnectService.run, ids.service_workflow(self.tenant_id, SERVICE))

    async def connect(self, request_id: str = "request-1") -> None:
        await self.gateway.connect_service(self.tenant_id, self.region, SERVICE, request_id)

    async def discover(self) -> None:
        await self.gateway.discover_service(self.tenant_id, self.region, SERVICE)

    async def renew(self) -> None:
        await self.gateway.renew_service(self.tenant_id, self.region, SERVICE)

    async def disconnect(self) -> None:
        await self.gateway.disconnect_service(self.tenant_id, self.region, SERVICE)

    async def forward(self, time: timedelta) -> None:
        await fast_forward(self.client, self.handle, time)

    async def has_issued(self, generation: int) -> None:
        await wait_until_async(lambda: len(self.services.issued) >= generation)
        assert [step.generation for step in self.services.issued] == list(range(1, generation + 1))

    async def runs(self) -> bool:
        return (await self.handle.describe()).status is WorkflowExecutionStatus.RUNNING

    def operations(self) -> set[str]:
        return {step.operation_id for steps in self.script.inputs.values() for step in steps}


@pytest.fixture
def service(client, region, script) -> Connection:
    return Connection(client, region, script)


async def test_service_is_connected_in_four_numbered_steps(service, script):
    await service.connect()
    assert script.calls == STEPS
    shown = await summaries(service.handle)
    for title in (
        "1 · record",
        "2 · create the service key",
        "3 · issue",
        "4 · mark the service connected",
        "renew certificate 1",
    ):
        assert any(title in summary for summary in shown), title
    described = await service.handle.describe()
    assert described.typed_search_attributes.get(visibility.TENANT_ID) == service.tenant_id
    assert await described.static_summary() == f"service {SERVICE} of {service.tenant_id}"


async def test_repeated_request_is_one_certificate(service, script):
    await asyncio.gather(service.connect(), service.connect(), service.connect())
    assert script.calls == STEPS


async def test_two_enrolments_at_once_get_a_certificate_each(service, script):
    await asyncio.gather(service.connect("request-1"), service.connect("request-2"))
    assert script.calls == STEPS * 2
    assert {step.request_id for step in service.services.issued} == {"request-1", "request-2"}
    await service.has_issued(2)


async def test_each_certificate_has_its_own_operation(service):
    await service.connect()
    await service.renew()
    await service.disconnect()
    assert {f"service-{SERVICE}-1-request-1", f"service-{SERVICE}-2-request-1"} <= service.operations()
    assert len(service.operations()) == len({"plan", "first", "second", "end"})


async def test_certificate_is_renewed_after_two_thirds_of_its_life_and_again(service, script):
    await service.connect()
    await service.forward(RENEWED_AFTER + timedelta(minutes=1))
    await service.has_issued(2)
    await service.forward(RENEWED_AFTER)
    await service.has_issued(3)
    assert {step.request_id for step in service.services.issued} == {"request-1"}
    assert script.calls == [*STEPS, *RENEWAL, *RENEWAL]


async def test_renewal_on_demand_moves_the_timer(service, script):
    await service.connect()
    await service.renew()
    await service.forward(RENEWED_AFTER + timedelta(minutes=1))
    await service.renew()
    assert script.calls == [*STEPS, *RENEWAL, *RENEWAL]


async def test_certificate_of_an_appliance_is_renewed_only_on_request(service, script):
    service.services.by_hand = True
    await service.connect()
    await service.forward(RENEWED_AFTER + timedelta(minutes=1))
    await wait_until_async(lambda: script.calls.count("plan-renewal") == 1)
    await service.forward(timing.BY_HAND_PAUSE + timedelta(minutes=1))
    await wait_until_async(lambda: script.calls.count("plan-renewal") == 2)
    await service.has_issued(1)
    await service.renew()
    await service.has_issued(2)
    assert await service.runs()


async def test_rejected_renewal_is_retried_after_a_pause(service, script):
    await service.connect()
    script.refused["plan-renewal"] = TenantNotOperational("locked")
    await service.forward(RENEWED_AFTER + timedelta(minutes=1))
    await wait_until_async(lambda: script.attempts["plan-renewal"])
    script.refused.clear()
    await service.forward(timing.RENEWAL_PAUSE)
    await service.has_issued(2)


async def test_rejection_reaches_the_caller_and_leaves_no_workflow(service, script):
    closed = script.refused["record-service"] = TenantNotOperational("locked")
    error = await refused(closed.code, service.connect())
    assert (error.message, error.hint) == (closed.message, closed.hint)
    await service.handle.result()
    assert script.calls == []


async def test_failure_after_the_intention_is_recorded(service, script):
    script.refused["issue-certificate"] = "csr_refused"
    await refused("csr_refused", service.connect())
    assert script.calls == ["record-service", "create-service-key", "record-connect-failure"]
    script.refused.clear()
    await service.connect("request-2")
    assert script.calls[3:] == STEPS


async def test_each_failed_request_has_its_own_operation(service, script):
    script.refused["issue-certificate"] = "root_key_unreachable"
    for request_id in ("request-1", "request-2", "request-3"):
        await refused("root_key_unreachable", service.connect(request_id))
    failures = script.inputs["record-connect-failure"]
    assert len({failure.operation_id for failure in failures}) == len(failures) == 3


async def test_rejected_further_enrolment_does_not_change_the_connection(service, script):
    await service.connect()
    script.refused["issue-certificate"] = "csr_refused"
    await refused("csr_refused", service.connect("request-2"))
    assert await service.runs()
    script.refused.clear()
    await service.renew()


async def test_invalid_request_id_is_rejected_before_it_enters_the_history(service):
    for request_id in ("", "short", "x" * 65, "has space-here", "../../etc/passwd"):
        await refused("invalid_name", service.connect(request_id))
    history = await service.handle.fetch_history()
    assert not [e for e in history.events if e.HasField("workflow_execution_update_accepted_event_attributes")]
    await service.forward(timing.FIRST_REQUEST + timedelta(seconds=1))
    await service.handle.result()


async def test_discovered_service_waits_for_its_agent_and_is_connected_by_it(service, script):
    for _ in range(2):
        await service.discover()
    await service.forward(timing.FIRST_REQUEST * 2)
    assert await service.runs()
    assert script.calls == []
    await service.connect()
    assert script.calls == STEPS
    await service.discover()
    assert script.calls == STEPS


async def test_discovered_service_that_is_not_enrolled_leaves_no_workflow(service, script):
    await service.discover()
    await service.forward(timing.DISCOVERED + timedelta(seconds=1))
    await service.handle.result()
    await service.connect()
    assert script.calls == STEPS


async def test_disconnecting_ends_the_workflow_and_connecting_again_starts_one(service, script):
    await service.connect()
    await service.disconnect()
    await service.handle.result()
    await service.connect("request-2")
    assert await service.runs()
    assert script.calls == [*STEPS, "disconnect-service", *STEPS]
    await service.has_issued(2)


async def test_disconnecting_does_not_wait_for_a_stuck_step(service, script):
    await service.connect()
    script.down.add("issue-certificate")
    renewing = asyncio.create_task(service.renew())
    await wait_until_async(lambda: script.attempts["issue-certificate"] > 1)
    await service.disconnect()
    assert not renewing.done()
    # The real step now finds the service disconnected.
    script.refused["issue-certificate"] = "service_unknown"
    script.down.clear()
    await refused("service_unknown", renewing)
    await service.handle.result()


async def test_disconnecting_works_when_no_workflow_is_left(service, script):
    await service.disconnect()
    await service.handle.result()
    assert script.calls == ["disconnect-service"]


async def test_service_disconnected_without_the_workflow_ends_it_at_the_next_renewal(service, script):
    await service.connect()
    script.refused["plan-renewal"] = "service_unknown"
    await service.forward(RENEWED_AFTER + timedelta(minutes=1))
    await service.handle.result()


async def test_continued_run_renews_the_service_of_the_previous_run(service):
    await service.connect()
    [first] = service.services.issued
    memory = ServiceWorkflowState(generation=1, renew_at=service.services.renew_at(first))
    await service.handle.terminate()
    await service.client.start_workflow(
        ConnectService.run,
        ServiceInput(tenant_id=service.tenant_id, region=service.region, service=SERVICE, memory=memory),
        id=service.handle.id,
        task_queue=ids.operation_queue(service.region),
    )
    await service.forward(RENEWED_AFTER + timedelta(minutes=1))
    await service.has_issued(2)


async def test_request_continues_after_the_callers_timeout(service, script):
    script.down.add("create-service-key")
    service.gateway = WorkflowClient(service.client, 60, patience_seconds=0.5)
    while not script.attempts["create-service-key"]:
        with pytest.raises(OperationTimeout):
            await service.connect()
    script.down.clear()
    await service.has_issued(1)


async def test_request_without_a_worker_is_queued_and_logs_no_error(client, script, caplog):
    service = Connection(client, "eu-no-worker-1", script)
    service.gateway = WorkflowClient(client, 60, patience_seconds=0.5)
    with pytest.raises(OperationQueued):
        await service.connect()
    gc.collect()
    assert [record.message for record in caplog.records if record.name == "asyncio"] == []


class EarlyContinueAsNew(TemporalServer):
    """A Temporal server that suggests continue-as-new after 40 events."""

    def command(self) -> Sequence[str]:
        return [*super().command(), "--dynamic-config-value", "limit.historyCount.suggestContinueAsNew=40"]


@pytest.mark.integration
async def test_long_history_continues_as_new_with_its_state(script, tmp_path):
    server = EarlyContinueAsNew(tmp_path / "temporal", *free_ports(3))
    server.prepare()
    server.start()
    try:
        server.wait_ready(90)
        client = await Client.connect(server.address, data_converter=pydantic_data_converter)
        service = Connection(client, "eu-long-1", script)
        async with script.worker(client, service.region, WORKFLOWS):
            await service.connect()
            first = (await service.handle.describe()).run_id
            for _ in range(8):
                await service.renew()
            assert (await service.handle.describe()).run_id != first
            await service.has_issued(9)
            assert {step.request_id for step in service.services.issued} == {"request-1"}
            await service.disconnect()
            await service.handle.result()
    finally:
        server.stop()


async def test_invalid_message_fails_its_update_and_blocks_nothing(service):
    await service.connect()
    with pytest.raises(Exception, match="update"):
        await service.handle.execute_update("enrol", {"unknown": "field"})
    await service.handle.execute_update(ConnectService.enrol, EnrolInput(request_id="request-2"))
    await service.has_issued(2)
