"""One trace from the marketplace's event to a request at the crypto service, and no secret in what is exported."""

import asyncio
import json
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from core.tracing.spans import SERVER, Span
from tests.concurrency import wait_until
from tests.crypto_service.https.wire import Wire, encrypt_body, post
from tests.e2e.connected import connect
from tests.e2e.isolation.test_traces import SECRETIVE, found_in, hidden_in
from tests.e2e.stack import REGION, SEED_EVENT, Stack
from tests.e2e.tenants import new_tenant
from tests.tracing.collector import Collector, Received, tracer_into
from tests.workflows.entities import a_rotation
from workflows.client.updates import UpdateRejected
from workflows.client.workflow_client import WorkflowClient

PLAINTEXT = "VGhlIGN1c3RvbWVyJ3Mgc2VjcmV0IHJlY29yZA=="
EVENT, REQUEST = "4bf92f3577b34da6a3ce929d0e0e4736", "0af7651916cd43dd8448eb211c80319c"
HELD, AFTER = "5af92f3577b34da6a3ce929d0e0e4736", "6af92f3577b34da6a3ce929d0e0e4736"
PROCESSES = {"openkcm-marketplace", "openkcm-worker", "openkcm-crypto"}
ATTRIBUTES = {"openkcm.tenant_id", "openkcm.workflow_id", "openkcm.event", "openkcm.attempt", "error.type"}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Stack]:
    """An installation that exports its traces."""
    with closing(Stack(tmp_path_factory.mktemp("traced"), otlp_endpoint=collector.url)) as stack:
        stack.command("up")
        yield stack
        stack.command("down")


def traceparent(trace_id: str) -> str:
    return f"00-{trace_id}-00f067aa0ba902b7-01"


def enable_traced(stack: Stack, trace_id: str) -> str:
    tenant_id = f"traced-{uuid.uuid4().hex[:8]}"
    body = json.dumps(SEED_EVENT | {"customer": tenant_id, "organization": SECRETIVE}).encode()
    headers = stack.sign(body, f"msg_{tenant_id}") | {"traceparent": traceparent(trace_id), "baggage": "token=hvs.sent"}
    assert stack.post(body, headers).status_code == 202
    stack.wait_for(tenant_id, "active")
    stack.wait_announced(tenant_id)
    return tenant_id


def named(collector: Collector, trace_id: str, *names: str) -> dict[str, Received]:
    """Wait until a trace has spans with these names, and return all of its spans by name."""
    found: dict[str, Received] = {}

    def complete() -> bool:
        found.update({one.span.name: one for one in collector.of(trace_id)})
        return found.keys() >= set(names)

    wait_until(complete, lambda: f"the trace has only {sorted(found)}")
    return found


def test_one_trace_leads_from_the_event_to_a_request(traced: Stack, collector: Collector, tmp_path: Path):
    tenant_id = enable_traced(traced, EVENT)
    service = connect(traced, tenant_id, "microservice", "ledger", tmp_path / "ledger")
    with Wire(service.open_https()) as wire:
        wire.send(post("/v1/encrypt", encrypt_body(PLAINTEXT), f"traceparent: {traceparent(EVENT)}"))
        assert wire.reply().status == 200
        wire.send(post("/v1/decrypt", encrypt_body(PLAINTEXT), f"traceparent: {traceparent(EVENT)}"))
        assert wire.reply().status == 400
    found = named(
        collector,
        EVENT,
        *("accept event", "start Tenant", "workflow ProvisionTenant", "activity create-keys", "activity activate"),
        *("https encrypt", "https decrypt", "root key unwrap", "tenant key decrypt"),
    )
    assert {one.process for one in found.values()} == PROCESSES
    assert found["accept event"].attributes == {"openkcm.tenant_id": tenant_id, "openkcm.event": "service_enabled"}
    assert found["accept event"].span.parent_span_id.hex() == "00f067aa0ba902b7"
    assert found["start Tenant"].span.parent_span_id == found["accept event"].span.span_id
    assert found["workflow ProvisionTenant"].span.parent_span_id == found["start Tenant"].span.span_id
    assert found["activity create-keys"].span.parent_span_id == found["workflow ProvisionTenant"].span.span_id
    assert found["root key unwrap"].span.parent_span_id == found["https encrypt"].span.span_id
    assert found["https encrypt"].attributes == {"openkcm.tenant_id": tenant_id}
    assert found["https decrypt"].attributes == {"openkcm.tenant_id": tenant_id, "error.type": "invalid_request"}


def test_an_operation_leads_to_the_requests_of_its_isolation_checks(traced: Stack, collector: Collector):
    spans: list[Span] = []
    tracer, tenant_id = tracer_into(spans), new_tenant(traced, "checked")

    async def operate() -> None:
        workflows = await WorkflowClient.connect(traced.settings.temporal_address, 180, None, tracer)
        with tracer.span("page", SERVER, None):
            await workflows.check_boundaries(tenant_id, REGION, repeat=True)
            await workflows.rotate_keys(tenant_id, a_rotation())
            with pytest.raises(UpdateRejected):
                await workflows.retire_service_key(tenant_id, "no-such-service", 7)

    asyncio.run(operate())
    [page] = [one for one in spans if one.name == "page"]
    found = named(collector, page.context.trace_id, "workflow AssessIsolation", "workflow RotateKeys", "https encrypt")
    assert {one.process for one in found.values()} == PROCESSES - {"openkcm-marketplace"}
    parent = found["https encrypt"].span.parent_span_id
    assert parent in {one.span.span_id for one in collector.spans if one.span.name.startswith("activity ")}


def test_a_collector_that_hangs_changes_no_answer(traced: Stack, collector: Collector, tmp_path: Path):
    before = traced.pids()
    collector.hold.clear()
    try:
        tenant_id = enable_traced(traced, HELD)
        service = connect(traced, tenant_id, "microservice", "ledger", tmp_path / "ledger")
        with Wire(service.open_https()) as wire:
            for _ in range(3000):  # more than a process keeps
                wire.send(post("/v1/encrypt", encrypt_body(PLAINTEXT), f"traceparent: {traceparent(HELD)}"))
                assert wire.reply().status == 200
    finally:
        collector.hold.set()
    assert traced.pids() == before
    # The collector gets newer spans again.
    enable_traced(traced, AFTER)
    named(collector, AFTER, "accept event", "workflow ProvisionTenant")


def test_nothing_that_was_exported_is_secret(traced: Stack, collector: Collector, tmp_path: Path):
    tenant_id = enable_traced(traced, REQUEST)
    service = connect(traced, tenant_id, "microservice", "ledger", tmp_path / "ledger")
    with Wire(service.open_https()) as wire:
        wire.send(post("/v1/data-keys", b'{"resource": "orders/hunter2"}', f"traceparent: {traceparent(REQUEST)}"))
        data_key = wire.reply().json
    named(collector, REQUEST, "accept event", "workflow ProvisionTenant", "https data-key")
    private_key = (service.folder / "client.key").read_bytes().splitlines()[1]
    hidden = [*hidden_in(traced), private_key, b"hunter2", b"hvs.sent", PLAINTEXT.encode()]
    hidden += [data_key["plaintext"].encode(), data_key["wrapped"].encode()]
    exported = b"\0".join(collector.bodies)
    assert tenant_id.encode() in exported  # the search finds what is there
    assert found_in(exported, hidden) == []
    for one in collector.spans:
        assert one.attributes.keys() <= ATTRIBUTES
        assert not one.span.events
        assert not one.span.status.message
