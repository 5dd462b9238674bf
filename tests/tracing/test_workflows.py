"""A trace through a real Temporal server: from the caller over operations and updates to each activity."""

from collections.abc import Awaitable, Callable

import pytest
from temporalio import client as client_api
from temporalio.api.common.v1 import Payload
from temporalio.client import Client, WorkflowHandle
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer

from core import names as ids
from core.errors.keys import KeyUnavailable
from core.messages.tenants import OffboardRequest
from core.tenants.lifecycle import State
from core.tracing.spans import SERVER, Span
from devstack.servers.temporal import TemporalServer
from tests.tracing.collector import tracer_into
from tests.workflows.entities import Entity, a_rotation, a_tenant_id, reaches, refused
from workflows.offboarding import OffboardTenant
from workflows.provisioning import ProvisionTenant
from workflows.root_keys import ChangeRootKey
from workflows.rotation import RotateKeys
from workflows.runtime.tracing import ENTITIES, HEADER, TraceInterceptor
from workflows.services import ConnectService
from workflows.tenants import Tenant

WORKFLOWS = [Tenant, ProvisionTenant, ChangeRootKey, RotateKeys, OffboardTenant, ConnectService]
SECRET = "hvs.CAESIJx7secret"


@pytest.fixture
def spans() -> list[Span]:
    return []


@pytest.fixture
async def client(temporal: TemporalServer, spans: list[Span]) -> Client:
    """Both the caller and the workers of the region are traced."""
    interceptor = TraceInterceptor(tracer_into(spans))
    return await Client.connect(temporal.address, data_converter=pydantic_data_converter, interceptors=[interceptor])


@pytest.fixture
async def quiet(temporal: TemporalServer) -> Client:
    """A client without a tracer."""
    return await Client.connect(temporal.address, data_converter=pydantic_data_converter)


def of(spans: list[Span], trace_id: str) -> dict[str, Span]:
    return {one.name: one for one in spans if one.context.trace_id == trace_id}


async def test_each_operation_of_a_tenant_has_the_trace_of_its_caller(client, region, spans):
    tracer, tenant_id = tracer_into(spans), a_tenant_id()
    entity = Entity(client, region, tenant_id)
    with tracer.span("accept event", SERVER, None) as event:
        await entity.gateway.enable(tenant_id, region, "msg_1")
    await reaches(entity.handle, State.ACTIVE)
    with tracer.span("page", SERVER, None) as page:
        await entity.gateway.rotate_keys(tenant_id, a_rotation())

    enabled, rotated = of(spans, event.context.trace_id), of(spans, page.context.trace_id)
    steps = {"create-keys", "create-ca", "check-isolation", "activate"}
    assert {f"activity {step}" for step in steps} <= enabled.keys()
    assert {"accept event", "start Tenant", "workflow ProvisionTenant"} <= enabled.keys()
    assert {
        "request rotate-keys",
        "update rotate-keys",
        "workflow RotateKeys",
        "activity rotate-tenant-key",
    } <= rotated.keys(), rotated.keys()
    assert not {name for name in enabled if "rotat" in name.lower()}
    for trace in (enabled, rotated):
        by_id = {one.context.span_id: one for one in trace.values()}
        roots = [one.name for one in trace.values() if one.parent_id not in by_id]
        assert roots in (["accept event"], ["page"])
    provisioning = enabled["workflow ProvisionTenant"]
    assert enabled["activity create-keys"].parent_id == provisioning.context.span_id
    assert provisioning.start <= enabled["activity create-keys"].start < provisioning.end
    assert {one.error for one in spans} == {""}


OPERATIONS: dict[str, tuple[Callable[[Entity], Awaitable[None]], set[str]]] = {
    "root key change": (
        lambda one: one.change_root_key(),
        {"update change-root-key", "workflow ChangeRootKey", "activity switch-root-key"},
    ),
    "offboarding": (
        lambda one: one.gateway.offboard(one.tenant_id, OffboardRequest(grace_seconds=3600)),
        {"request offboard", "update offboard", "activity start-offboarding"},
    ),
    "connection of a service": (
        lambda one: one.gateway.connect_service(one.tenant_id, one.region, "ledger", "request-1"),
        {"request enrol", "update enrol", "activity create-service-key", "activity issue-certificate"},
    ),
}


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_an_operation_has_one_trace_down_to_its_activities(client, region, spans, operation):
    run, expected = OPERATIONS[operation]
    entity = await Entity.start(client, region)
    with tracer_into(spans).span("page", SERVER, None) as page:
        await run(entity)
    found = of(spans, page.context.trace_id)
    assert expected <= found.keys(), found.keys()


async def test_a_later_event_has_its_trace_and_not_that_of_the_first(client, region, spans):
    tracer, entity = tracer_into(spans), Entity(client, region)
    with tracer.span("first", SERVER, None) as first:
        await entity.gateway.enable(entity.tenant_id, region, "msg_1")
    await reaches(entity.handle, State.ACTIVE)
    with tracer.span("second", SERVER, None) as second:
        await entity.gateway.disable(entity.tenant_id, "msg_2")
    await reaches(entity.handle, State.LEAVING)
    assert {"signal marketplace-event", "activity start-offboarding"} <= of(spans, second.context.trace_id).keys()
    assert "activity start-offboarding" not in of(spans, first.context.trace_id)


async def test_a_failure_leaves_its_code_and_no_text(client, region, spans, script):
    entity = await Entity.start(client, region)
    script.refused["plan-rotation"] = KeyUnavailable(SECRET)
    with tracer_into(spans).span("page", SERVER, None) as page:
        await refused("key_unavailable", entity.gateway.rotate_keys(entity.tenant_id, a_rotation()))
    found = of(spans, page.context.trace_id)
    assert found["update rotate-keys"].error == "key_unavailable"
    assert SECRET not in repr(spans)


async def test_a_history_replays_with_and_without_the_interceptor(client, region, spans, quiet):
    entity = Entity(client, region)
    await entity.gateway.enable(entity.tenant_id, region, "msg_1")
    await reaches(entity.handle, State.ACTIVE)
    await entity.gateway.rotate_keys(entity.tenant_id, a_rotation())
    histories = [
        await quiet.get_workflow_handle(one).fetch_history()
        for one in (entity.handle.id, ids.provision_workflow(entity.tenant_id))
    ]
    assert all(
        HEADER in event.workflow_execution_started_event_attributes.header.fields
        for event in (one.events[0] for one in histories)
    )
    recorded = list(spans)
    for interceptors in ([], [TraceInterceptor(tracer_into(spans))]):
        replayer = Replayer(workflows=WORKFLOWS, data_converter=pydantic_data_converter, interceptors=interceptors)
        for history in histories:
            await replayer.replay_workflow(history)
    assert spans == recorded  # a replay records nothing again


class Hostile(client_api.Interceptor):
    """A caller that sends its own header."""

    def __init__(self, header: bytes) -> None:
        self.payload = Payload(metadata={"encoding": b"json/plain"}, data=header)

    def intercept_client(self, next: client_api.OutboundInterceptor) -> client_api.OutboundInterceptor:  # noqa: A002 - the SDK's name
        payload = self.payload

        class Outbound(client_api.OutboundInterceptor):
            async def start_workflow(self, input: client_api.StartWorkflowInput) -> WorkflowHandle:  # noqa: A002 - the SDK's name
                input.headers = {HEADER: payload}
                return await super().start_workflow(input)

        return Outbound(next)


@pytest.mark.parametrize(
    "header", [b"", b'"garbage"', b"\xff" * 40, b'"' + b"0" * 100_000 + b'"', b'{"traceparent": 1}'], ids=range(5)
)
async def test_a_hostile_header_blocks_no_workflow(temporal, region, spans, header):
    hostile = await Client.connect(
        temporal.address, data_converter=pydantic_data_converter, interceptors=[Hostile(header)]
    )
    entity = Entity(hostile, region)
    await entity.gateway.enable(entity.tenant_id, region, "msg_1")
    await reaches(entity.handle, State.ACTIVE)
    assert spans == []


def test_the_workflows_without_an_end_are_known_by_their_names():
    assert {Tenant.__name__, ConnectService.__name__} == ENTITIES
