"""Story 1: a platform user enables OpenKCM in the marketplace with one click and is notified when it is ready."""

import json
from datetime import UTC, datetime, timedelta

import httpx2
import pytest

from config.secrets import MARKETPLACE_TOKEN
from core import names as ids
from tests.e2e.stack import ACME, REGION, SEED_EVENT, Stack

PROMISE_SECONDS = 180
READY_TEXT = """\
OpenKCM is ready for ACME Corporation!

✓ Tenant environment created
✓ Encryption keys configured
✓ Services can now request encryption keys
✓ CMK UI available at: {dashboard}/tenant/acme-corp-12345
"""


def resources_of(stack: Stack, tenant_id: str) -> dict[str, object]:
    """Return the resources of a tenant that must exist exactly once."""
    vault = stack.vault()
    with stack.database().tenant_tx(tenant_id) as tx:
        keys, authority, route = tx.keys.all(), tx.certificates.authority(), tx.routes.get()
        outbox = tx.outbox.all()
    return {
        "key versions": {key.name: (vault.read(f"transit/keys/{key.name}") or {})["latest_version"] for key in keys},
        "authority": authority,
        "route": route,
        "messages": [message.message_id for message, _ in outbox],
        "callbacks": len(stack.callback.about(tenant_id, "ready")),
        "mails": len(stack.mailbox.about(tenant_id, "is ready")),
        "runs": sorted(stack.runs_of(tenant_id)),
        "provisioned": [one for one in stack.events(tenant_id) if one["name"] == "tenant.provision_intended"],
    }


@pytest.mark.e2e
def test_one_click_creates_a_tenant_and_every_channel_sends_the_specified_text(stack, acme):
    [callback] = stack.callback.about(acme, "ready")
    callback.verify(stack.secret("callback-secret"))
    text = READY_TEXT.format(dashboard=stack.settings.dashboard_url)
    assert callback.text == text
    assert callback.event["type"] == "io.openkcm.tenant.ready"
    [mail] = stack.mailbox.about(acme, "is ready")
    assert mail.get_content().replace("\r\n", "\n") == text
    assert mail["Subject"] == "OpenKCM is ready for ACME Corporation!"
    assert mail["To"] == "security@acme-corp-12345.example"

    shown = stack.status(acme).json()
    assert (shown["state"], shown["organization"]) == ("active", "ACME Corporation")
    assert 0 < shown["ready_seconds"] < PROMISE_SECONDS
    assert shown["provisioning_slo_breached"] is False
    assert shown["announcement"] == text
    assert shown["dashboard_url"] == f"{stack.settings.dashboard_url}/tenant/acme-corp-12345"
    assert [step["number"] for step in shown["steps"]] == list(range(1, len(shown["steps"]) + 1))
    assert {step["state"] for step in shown["steps"]} == {"done"}

    shown = stack.command("tenant", "show", acme)
    expected = {
        "tenant_id": ACME,
        "organization": "ACME Corporation",
        "region": REGION,
        "state": "active",
        "l2_key": "L2-acme-corp-12345-primary",
    }
    assert {name: shown[name] for name in expected} == expected
    assert acme in [tenant["tenant_id"] for tenant in stack.command("tenant", "list")["tenants"]]


def test_an_operator_enables_a_tenant_by_the_command_and_waits(stack):
    arguments = ("enable", "delta-corp-67890", "--organization", "Delta Corp", "--region", REGION, "--wait")
    enabled = stack.command(*arguments)
    assert enabled["tenant_id"] == "delta-corp-67890"
    assert enabled["state"] == "active"
    assert 0 < enabled["ready_seconds"] < PROMISE_SECONDS
    assert enabled["dashboard_url"] == f"{stack.settings.dashboard_url}/tenant/delta-corp-67890"


@pytest.mark.parametrize(("tenant_id", "messages"), [("often-corp-1", 1), ("eager-corp-1", 50)])
def test_fifty_simultaneous_clicks_create_one_tenant(stack, tenant_id, messages):
    """Once as one event with many deliveries, and once as many clicks of one customer."""

    def message(number: int) -> str:
        return f"msg_{tenant_id}_{number % messages}"

    answers = stack.click_often(50, message, customer=tenant_id, organization="Often Corp")
    assert {answer.status_code for answer in answers} == {202}
    assert [answer.json()["duplicate"] for answer in answers].count(False) == messages
    stack.wait_for(tenant_id, "active")
    stack.wait_announced(tenant_id)
    before = resources_of(stack, tenant_id)
    names = (ids.ca_key(tenant_id), ids.l2_key(tenant_id), ids.payload_key(tenant_id))
    assert before["key versions"] == dict.fromkeys(names, 1)
    assert (before["callbacks"], before["mails"], len(before["messages"])) == (1, 1, 2)
    assert [run for run, _ in before["runs"]] == [ids.tenant_workflow(tenant_id), ids.provision_workflow(tenant_id)]
    assert len(before["provisioned"]) == 1

    assert stack.click(message(0), customer=tenant_id, organization="Often Corp").json()["duplicate"] is True
    assert resources_of(stack, tenant_id) == before


def test_an_event_without_an_organization_is_accepted_and_uses_the_account_id(stack):
    event = {**SEED_EVENT, "customer": "plain-corp-1"}
    del event["organization"]
    body = json.dumps(event).encode()
    answer = stack.post(body, stack.sign(body, "msg_plain"))
    assert (answer.status_code, answer.json()["state"] in {"requested", "provisioning", "active"}) == (202, True)
    assert answer.json()["status_url"].endswith("/v1/tenants/plain-corp-1")
    assert stack.wait_for("plain-corp-1", "active")["announcement"].startswith("OpenKCM is ready for plain-corp-1!")


# ── invalid input: all kinds are in tests/marketplace/test_events.py ─────────────────────────────────────────────────


def assert_refused(answer, status: int, code: str) -> None:
    assert answer.status_code == status, answer.text
    problem = answer.json()
    assert problem["code"] == code
    assert problem["hint"]
    assert "whsec_" not in answer.text


BAD_FIELDS = (
    ({"service": "other"}, 422, "unknown_service"),
    ({"region": "mars-north-1"}, 422, "unknown_region"),
    ({"customer": "a'; drop table okcm.tenant; --"}, 422, "illegal_tenant_id"),
    ({"timestamp": "yesterday"}, 400, "malformed_event"),
)


def test_invalid_events_are_rejected_with_a_code_and_start_nothing(stack):
    before = everything(stack)
    for changed, status, code in BAD_FIELDS:
        assert_refused(stack.click(**({"customer": "bad-corp-1"} | changed)), status, code)
    for body in (b"", b"{", b'"event"', b"null"):
        assert_refused(stack.post(body, stack.sign(body, "msg_malformed")), 400, "malformed_event")
    body = json.dumps(SEED_EVENT | {"customer": "forged-corp-1"}).encode()
    other = body.replace(b"forged", b"others")
    right = stack.sign(body, "msg_forged")
    for headers in ({}, right | {"webhook-id": "msg_other"}, stack.sign(other, "msg_forged")):
        assert_refused(stack.post(body, headers), 401, "signature_invalid")
    late = stack.sign(body, "msg_stale", datetime.now(UTC) + timedelta(days=-365))
    assert_refused(stack.post(body, late), 401, "stale_timestamp")
    large = json.dumps(SEED_EVENT | {"padding": "x" * 10_000_000}).encode()
    assert_refused(stack.post(large, stack.sign(large, "msg_large")), 413, "body_too_large")
    assert everything(stack) == before
    assert stack.runs_of("bad-corp-1") == stack.runs_of("forged-corp-1") == []


def everything(stack: Stack) -> list[object]:
    """Return the tenants and the accepted events."""
    with stack.owner() as owner:
        tables = {"tenant": "tenant_id", "marketplace_event": "event_id"}
        return [owner.execute(f"select {key} from okcm.{table} order by 1").fetchall() for table, key in tables.items()]


def test_the_status_of_a_tenant_is_shown_to_the_marketplace_only(stack, acme):
    url = f"{stack.settings.marketplace_url}/v1/tenants/{acme}"
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": stack.secret(MARKETPLACE_TOKEN)}):
        answer = httpx2.get(url, headers=headers)
        assert_refused(answer, 401, "unauthorized")
        assert "ACME" not in answer.text
    assert_refused(stack.status("unknown-corp-1"), 404, "tenant_unknown")
