"""Spans of the crypto service's requests over real mTLS, and what a client can do to them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from core.tracing.spans import Span
from crypto_service.kmip.dispatch import TracedDispatcher
from tests.crypto_service.https.stage import TENANT, Stage
from tests.crypto_service.https.wire import Wire, encrypt_body, post
from tests.crypto_service.kmip.messages import batch_item, message
from tests.crypto_service.kmip.scene import Scene
from tests.tracing.collector import tracer_into

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SECRET = "aHVudGVyMg=="

pytestmark = pytest.mark.integration


@pytest.fixture
def spans() -> list[Span]:
    return []


@pytest.fixture
def wire(tmp_path: Path, spans: list[Span]) -> Iterator[Wire]:
    with Stage(tmp_path, tracer=tracer_into(spans)) as stage, Wire(stage.dial()) as one:
        yield one


def ask(wire: Wire, *headers: str, path: str = "/v1/encrypt", body: bytes = b"") -> int:
    wire.send(post(path, body or encrypt_body(SECRET), *headers))
    return wire.reply().status


def test_a_request_continues_the_trace_of_its_client(wire, spans):
    assert ask(wire, f"traceparent: 00-{TRACE}-{PARENT}-00") == 200
    [span] = spans
    assert (span.name, span.error, span.attributes) == ("https encrypt", "", {"openkcm.tenant_id": TENANT})
    assert (span.context.trace_id, span.parent_id) == (TRACE, PARENT)
    assert 0 < span.end - span.start < 60_000_000_000


def test_a_request_without_a_header_begins_a_trace(wire, spans):
    assert ask(wire) == ask(wire) == 200
    assert len({one.context.trace_id for one in spans}) == 2
    assert {one.parent_id for one in spans} == {""}


@pytest.mark.parametrize(
    "headers",
    [
        ("traceparent: garbage",),
        (f"traceparent: 00-{TRACE}-{'0' * 16}-01",),
        ("traceparent: " + "0" * 8000,),
        (f"traceparent: 00-{TRACE}-{PARENT}-01", "traceparent: garbage"),
        ("tracestate: " + "a=b," * 2000, "baggage: tenant=other,secret=" + "c" * 4000),
    ],
)
def test_hostile_headers_change_no_answer_and_begin_a_trace(wire, spans, headers):
    assert ask(wire, *headers) == 200
    [span] = spans
    assert span.parent_id == ""
    assert "other" not in repr(span)
    assert ask(wire) == 200  # on the same connection


def test_a_rejection_leaves_its_code_and_nothing_of_the_request(wire, spans):
    assert ask(wire, body=b'{"resource": "orders/1", "plaintext": "hunter2!"}') == 400
    assert ask(wire, path="/v1/hunter2?token=hunter2") == 404
    assert [(one.name, one.error) for one in spans] == [
        ("https encrypt", "invalid_request"),
        ("https unknown", "no_such_path"),
    ]
    assert "hunter2" not in repr(spans)
    assert SECRET not in repr(spans)


async def test_a_kmip_message_has_a_span_with_operation_tenant_and_error(scene: Scene, spans):
    client = scene.client()
    client.process.dispatcher = TracedDispatcher(tracer_into(spans), client.process.parts, client.process.objects)
    object_id = await client.create()
    await client.get("no such object hunter2")
    await client.batch(batch_item(999))
    await client.send(message())
    assert [(one.name, one.error) for one in spans] == [
        ("kmip create", ""),
        ("kmip get", "object_not_found"),
        ("kmip unknown", "invalid_request"),
        ("kmip unknown", "invalid_request"),
    ]
    assert {one.attributes["openkcm.tenant_id"] for one in spans} == {client.caller.tenant_id}
    assert object_id not in repr(spans)
    assert "hunter2" not in repr(spans)
