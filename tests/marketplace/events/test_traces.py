"""Which events have a span: those with a valid signature, regardless of the other headers of their sender."""

import pytest

from core.tracing.spans import Span
from tests.concurrency import wait_until_async
from tests.marketplace.conftest import RecordingWorkflowClient, an_event, running
from tests.tracing.collector import tracer_into

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


async def test_an_accepted_event_continues_the_trace_of_its_sender(field):
    spans: list[Span] = []
    async with running(field, RecordingWorkflowClient(), tracer=tracer_into(spans)) as endpoint:
        answer = await endpoint.post(an_event(), {"traceparent": TRACEPARENT})
        assert answer.status_code == 202
        await wait_until_async(lambda: endpoint.waiting() == 0)
    [span] = spans
    assert (span.context.trace_id, span.parent_id, span.error) == (TRACE, PARENT, "")
    assert span.attributes == {"openkcm.tenant_id": "acme-corp-12345", "openkcm.event": "service_enabled"}


async def test_a_rejected_event_leaves_its_code(field):
    spans: list[Span] = []
    async with running(field, RecordingWorkflowClient(), tracer=tracer_into(spans)) as endpoint:
        assert (await endpoint.post(an_event(event="service_disabled"))).status_code == 404
    assert [(one.name, one.error) for one in spans] == [("accept event", "tenant_unknown")]


async def test_a_sender_without_a_valid_signature_causes_no_span(field):
    spans: list[Span] = []
    async with running(field, RecordingWorkflowClient(), tracer=tracer_into(spans)) as endpoint:
        forged = {"webhook-signature": "v1,forged", "traceparent": TRACEPARENT}
        assert (await endpoint.post(an_event(), forged)).status_code == 401
        await endpoint.client.get("/v1/tenants/acme-corp-12345", headers={"traceparent": TRACEPARENT})
        endpoint.assert_nothing_stored()
    assert spans == []


@pytest.mark.parametrize("header", ["garbage", "0" * 8000, TRACEPARENT + "-more", "\xff" * 55])
async def test_a_malformed_header_changes_no_answer(field, header):
    spans: list[Span] = []
    async with running(field, RecordingWorkflowClient(), tracer=tracer_into(spans)) as endpoint:
        headers = {"traceparent": header.encode("latin-1"), "baggage": "secret=hunter2"}
        assert (await endpoint.post(an_event(), headers)).status_code == 202
    [span] = spans
    assert span.parent_id == ""
    assert "hunter2" not in repr(spans)
