"""Events that a marketplace can send, and attacks that must fail."""

import asyncio
import json
import logging
from datetime import UTC, datetime, timedelta

from cloudevents.core.bindings.http import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent

from tests.concurrency import wait_until_async
from tests.marketplace.conftest import CURRENT, PREVIOUS, TOKEN, an_event, assert_refused, signed, streamed

CLOUD = {"type": "io.openkcm.marketplace.service_enabled", "source": "/marketplace"}


async def test_enable_event_creates_a_row_an_audit_record_and_a_workflow(endpoint):
    answer = await endpoint.post(an_event(organization=None), event_id="msg_1")

    assert answer.status_code == 202
    assert answer.json() == {
        "tenant_id": "acme-corp-12345",
        "state": "requested",
        "event_id": "msg_1",
        "duplicate": False,
        "status_url": f"{endpoint.url}/v1/tenants/acme-corp-12345",
    }
    assert TOKEN not in answer.text
    await wait_until_async(lambda: endpoint.waiting() == 0)
    assert endpoint.workflow_client.taken == [("acme-corp-12345", "eu-west-1", "msg_1")]
    with endpoint.field.open("operator").tenant_tx("acme-corp-12345") as tx:
        assert tx.tenants.get().organization == "acme-corp-12345"
        (stored,) = tx.audit.records()
    record = json.loads(stored.record)
    assert (record["name"], record["source"]) == ("marketplace.enable_accepted", "127.0.0.1")
    assert record["correlation_id"] == "msg_1"


async def test_both_active_secrets_and_both_cloudevent_modes_are_accepted(endpoint):
    for secret in (CURRENT, PREVIOUS):
        assert (await endpoint.post(an_event(), secret=secret)).status_code == 202
    for convert in (to_structured_event, to_binary_event):
        message = convert(CloudEvent(CLOUD | {"datacontenttype": "application/json"}, an_event()))
        answer = await endpoint.post(message.body, message.headers)
        assert answer.status_code == 202, answer.text
    assert (await endpoint.show("acme-corp-12345")).json()["organization"] == "ACME Corporation"


async def test_unsigned_header_cannot_turn_an_enable_into_a_disable(endpoint):
    message = to_binary_event(CloudEvent(CLOUD | {"datacontenttype": "application/json"}, an_event()))

    answer = await endpoint.post(message.body, message.headers | {"ce-type": "io.openkcm.marketplace.service_disabled"})

    assert_refused(answer, 400, "malformed_event")
    endpoint.assert_nothing_stored()


BAD = {
    "malformed JSON": (b'{"event": ', 400, "malformed_event"),
    "not UTF-8": (b"\xff\xfe", 401, "signature_invalid"),
    "a list": (b"[]", 400, "malformed_event"),
    "deep nesting": (b"[" * 60_000, 400, "malformed_event"),
    "no customer": (an_event(customer=None), 400, "malformed_event"),
    "customer not a text": (an_event(customer=7), 400, "malformed_event"),
    "no time zone": (an_event(timestamp="2026-01-15T10:30:00"), 400, "malformed_event"),
    "header injection": (an_event(organization="ACME\r\nBcc: everyone@example.com"), 400, "malformed_event"),
    "lone surrogate": (an_event(organization="\ud800"), 400, "malformed_event"),
    "long organization": (an_event(organization="x" * 201), 400, "malformed_event"),
    "unknown kind": (an_event(event="service_deleted"), 422, "unknown_event"),
    "unknown service": (an_event(service="other"), 422, "unknown_service"),
    "illegal tenant id": (an_event(customer="ACME"), 422, "illegal_tenant_id"),
    "too long tenant id": (an_event(customer="a" * 41), 422, "illegal_tenant_id"),
    "the platform's own range": (an_event(customer="openkcm-canary"), 422, "illegal_tenant_id"),
    "region not configured": (an_event(region="us-east-1"), 422, "unknown_region"),
    "disable of an unknown tenant": (an_event(event="service_disabled"), 404, "tenant_unknown"),
    "CloudEvent without a source": (
        {"specversion": "1.0", "type": "x", "id": "1", "data": an_event()},
        400,
        "malformed_event",
    ),
}


async def test_invalid_events_are_rejected_and_store_nothing(endpoint):
    for name, (event, status, code) in BAD.items():
        assert_refused(await endpoint.post(event), status, code, name)
        endpoint.assert_nothing_stored()


async def test_invalid_signatures_are_rejected_and_logged_without_secrets(endpoint, caplog):
    body = json.dumps(an_event()).encode()
    good = signed(body)
    wrong = [
        good | {"webhook-signature": signed(body + b" ")["webhook-signature"]},
        good | {"webhook-signature": "nonsense"},
        good | {"webhook-signature": "v1,%%%"},
        good | {"webhook-signature": "v1,a,b"},
        good | {"webhook-signature": ""},
        good | {"webhook-timestamp": "soon"},
        good | {"webhook-id": "another"},
        {},
    ]
    with caplog.at_level(logging.DEBUG):
        for headers in wrong:
            answer = await endpoint.client.post("/v1/events", content=body, headers=headers)
            assert_refused(answer, 401, "signature_invalid")

    endpoint.assert_nothing_stored()
    for secret in (CURRENT, CURRENT.removeprefix("whsec_"), PREVIOUS, TOKEN, good["webhook-signature"]):
        assert secret not in caplog.text
    assert "signature_invalid" in caplog.text


async def test_delivery_outside_the_replay_window_has_a_specific_error_code(endpoint):
    for minutes in (-6, 6):
        answer = await endpoint.post(an_event(), at=datetime.now(UTC) + timedelta(minutes=minutes))
        assert_refused(answer, 401, "stale_timestamp")
    endpoint.assert_nothing_stored()


async def test_body_of_ten_megabytes_is_rejected_with_and_without_content_length(endpoint):
    body = b"x" * 10_000_000
    assert_refused(await endpoint.post(body), 413, "body_too_large")
    sent = await endpoint.client.post("/v1/events", content=streamed(body), headers=signed(b""))
    assert_refused(sent, 413, "body_too_large")
    endpoint.assert_nothing_stored()


async def test_fifty_concurrent_deliveries_of_an_event_take_effect_once(endpoint):
    answers = await asyncio.gather(*(endpoint.post(an_event(), event_id="msg_once") for _ in range(50)))

    assert {answer.status_code for answer in answers} == {202}
    assert sum(not answer.json()["duplicate"] for answer in answers) == 1
    await wait_until_async(lambda: endpoint.waiting() == 0)
    assert (endpoint.count("tenant"), endpoint.count("marketplace_event"), endpoint.count("audit_event")) == (1, 1, 1)
    assert len(endpoint.workflow_client.taken) == 1


async def test_enable_is_rejected_in_another_region_and_for_an_offboarded_id(endpoint):
    await endpoint.enable()
    assert_refused(await endpoint.post(an_event(region="eu-central-1")), 409, "tenant_conflict")
    endpoint.execute("update okcm.tenant set state = 'offboarded'")

    assert_refused(await endpoint.post(an_event()), 409, "tenant_offboarded")
    assert endpoint.count("marketplace_event") == 1
    assert len(endpoint.workflow_client.taken) == 1


async def test_disable_is_recorded_and_delivered_to_the_workflow(endpoint):
    await endpoint.enable("msg_on")

    answers = [await endpoint.post(an_event(event="service_disabled"), event_id="msg_off") for _ in range(2)]

    assert [answer.status_code for answer in answers] == [202, 202]
    await wait_until_async(lambda: endpoint.waiting() == 0)
    assert (endpoint.count("marketplace_event"), endpoint.count("audit_event")) == (2, 2)
    [(name,)] = endpoint.execute("select record::jsonb ->> 'name' from okcm.audit_event where seq = 2")
    assert name == "marketplace.disable_recorded"
    assert endpoint.workflow_client.disabled == [("acme-corp-12345", "msg_off")]
    assert [event_id for (_, _, event_id) in endpoint.workflow_client.taken] == ["msg_on"]


async def test_enable_is_rejected_while_the_tenants_keys_are_destroyed(endpoint):
    await endpoint.enable()
    endpoint.execute("update okcm.tenant set state = 'offboarding'")
    assert (await endpoint.post(an_event())).status_code == 202
    endpoint.execute("update okcm.tenant set destroying_at = now()")

    answer = await endpoint.post(an_event())
    assert_refused(answer, 409, "tenant_offboarded")
    assert answer.json()["hint"] == "enable OpenKCM under a new account id"


async def test_internal_error_returns_only_a_reference(endpoint):
    endpoint.execute("revoke insert on okcm.marketplace_event from okcm_marketplace")

    answer = await endpoint.post(an_event())

    assert_refused(answer, 500, "internal")
    assert "marketplace_event" not in answer.text
    assert endpoint.count("tenant") == 0
