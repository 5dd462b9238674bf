"""Story 1: as a Platform User I enable OpenKCM from the marketplace with one click and am told when it is ready."""

import json
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from config.secrets import MARKETPLACE_TOKEN
from tenancy import ids
from tests.stories.stack import ACME, REGION, SEED_EVENT, Stack

PROMISE_SECONDS = 180
READY_TEXT = """\
OpenKCM is ready for ACME Corporation!

✓ Tenant environment created
✓ Encryption keys configured
✓ Services can now request encryption keys
✓ CMK UI available at: {dashboard}/tenant/acme-corp-12345
"""


def made_for(stack: Stack, tenant_id: str) -> dict[str, object]:
    """Return everything there is of a tenant that there must be one of."""
    vault = stack.vault()
    with stack.database().tenant_tx(tenant_id) as tx:
        keys, authority, route = tx.keys.all(), tx.certificates.authority(), tx.routes.get()
        outbox, records = tx.outbox.all(), tx.audit.records()
    return {
        "key versions": {key.name: (vault.read(f"transit/keys/{key.name}") or {})["latest_version"] for key in keys},
        "certificates in PKI": len(vault.list("pki/certs")),
        "authority": authority,
        "route": route,
        "messages": [message.message_id for message, _ in outbox],
        "callbacks": len(stack.callback.about(tenant_id, "ready")),
        "mails": len(stack.mailbox.about(tenant_id, "is ready")),
        "runs": sorted(stack.runs_of(tenant_id)),
        "provisioned": [r.seq for r in records if json.loads(r.record)["name"] == "tenant.provision_intended"],
    }


def test_one_click_is_confirmed_at_once_and_the_tenant_is_ready_within_the_promise(stack):
    answer = stack.click(customer="click-corp-1", organization="Click Corp")
    assert answer.status_code == 202
    assert answer.json()["state"] in {"requested", "provisioning", "active"}
    assert answer.json()["status_url"].endswith("/v1/tenants/click-corp-1")
    shown = stack.wait_for("click-corp-1", "active")
    assert 0 < shown["ready_seconds"] < PROMISE_SECONDS
    assert shown["promise_broken"] is False


def test_the_customer_is_told_in_the_promised_words_on_every_channel(stack, acme):
    [callback] = stack.callback.about(acme, "ready")
    callback.verify(stack.secret("callback-secret"))
    assert callback.text == READY_TEXT.format(dashboard=stack.settings.dashboard_url)
    assert callback.event["type"] == "io.openkcm.tenant.ready"
    [mail] = stack.mailbox.about(acme, "is ready")
    assert mail.get_content().replace("\r\n", "\n") == READY_TEXT.format(dashboard=stack.settings.dashboard_url)
    assert mail["Subject"] == "OpenKCM is ready for ACME Corporation!"
    assert mail["To"] == "security@acme-corp-12345.example"


def test_the_marketplaces_own_page_shows_the_same(stack, acme):
    shown = stack.status(acme).json()
    assert shown["state"] == "active"
    assert shown["organization"] == "ACME Corporation"
    assert shown["announcement"] == READY_TEXT.format(dashboard=stack.settings.dashboard_url)
    assert shown["dashboard_url"] == f"{stack.settings.dashboard_url}/tenant/acme-corp-12345"
    assert [step["number"] for step in shown["steps"]] == list(range(1, len(shown["steps"]) + 1))
    assert {step["state"] for step in shown["steps"]} == {"done"}


def test_an_operator_sees_it_with_the_command(stack, acme):
    shown = stack.command("tenant", "show", acme)
    expected = {
        "tenant_id": ACME,
        "organization": "ACME Corporation",
        "region": REGION,
        "state": "active",
        "root_key_mode": "platform",
        "l2_key": "L2-acme-corp-12345-primary",
    }
    assert {name: shown[name] for name in expected} == expected
    assert acme in [tenant["tenant_id"] for tenant in stack.command("tenant", "list")["tenants"]]


def test_an_operator_enables_a_tenant_with_the_command_and_waits_for_it(stack):
    arguments = ("enable", "delta-corp-67890", "--organization", "Delta Corp", "--region", REGION, "--wait")
    enabled = stack.command(*arguments)
    assert enabled["tenant_id"] == "delta-corp-67890"
    assert enabled["state"] == "active"
    assert 0 < enabled["ready_seconds"] < PROMISE_SECONDS
    assert enabled["dashboard_url"] == f"{stack.settings.dashboard_url}/tenant/delta-corp-67890"


def test_the_same_event_again_and_fifty_times_at_once_makes_nothing_twice(stack):
    tenant_id = "often-corp-1"
    answers = stack.click_often(50, lambda _n: "msg_often", customer=tenant_id, organization="Often Corp")
    assert {answer.status_code for answer in answers} == {202}
    assert [answer.json()["duplicate"] for answer in answers].count(False) == 1
    stack.wait_for(tenant_id, "active")
    stack.wait_announced(tenant_id)
    before = made_for(stack, tenant_id)
    assert before["key versions"] == dict.fromkeys(
        (ids.ca_key(tenant_id), ids.l2_key(tenant_id), ids.payload_key(tenant_id)), 1
    )
    assert (before["callbacks"], before["mails"], len(before["messages"])) == (1, 1, 2)
    assert [run for run, _ in before["runs"]] == [ids.tenant_workflow(tenant_id), ids.provision_workflow(tenant_id)]
    assert len(before["provisioned"]) == 1

    assert stack.click("msg_often", customer=tenant_id, organization="Often Corp").json()["duplicate"] is True
    assert made_for(stack, tenant_id) == before


def test_a_customer_who_clicks_fifty_times_gets_one_tenant(stack):
    tenant_id = "eager-corp-1"
    answers = stack.click_often(50, lambda n: f"msg_eager_{n}", customer=tenant_id, organization="Eager Corp")
    assert {answer.status_code for answer in answers} == {202}
    stack.wait_for(tenant_id, "active")
    stack.wait_announced(tenant_id)
    made = made_for(stack, tenant_id)
    assert set(made["key versions"].values()) == {1}
    assert (made["callbacks"], made["mails"], len(made["runs"])) == (1, 1, 2)
    assert len(made["provisioned"]) == 1


def test_the_seeds_event_without_a_name_is_taken_and_speaks_of_the_account(stack):
    event = {**SEED_EVENT, "customer": "plain-corp-1"}
    del event["organization"]
    body = json.dumps(event).encode()
    assert stack.post(body, stack.sign(body, "msg_plain")).status_code == 202
    assert stack.wait_for("plain-corp-1", "active")["announcement"].startswith("OpenKCM is ready for plain-corp-1!")


# ── bad input ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def nothing_happens(stack, acme):
    """Whatever the test sends, no workflow is started and no tenant is made."""
    assert acme

    def seen() -> tuple[int, int]:
        with stack.owner() as owner:
            row = owner.execute(
                "select (select count(*) from okcm.tenant), (select count(*) from okcm.marketplace_event)"
            )
            found = row.fetchone()
        assert found is not None
        return found

    before, runs = seen(), sorted(stack.workflows("WorkflowId STARTS_WITH 'tenant/'"))
    yield
    assert seen() == before
    assert sorted(stack.workflows("WorkflowId STARTS_WITH 'tenant/'")) == runs


def assert_refused(answer, status: int, code: str) -> None:
    assert answer.status_code == status, answer.text
    problem = answer.json()
    assert problem["code"] == code
    assert problem["hint"]
    assert "whsec_" not in answer.text


BAD_FIELDS = {
    "an unknown service": ({"service": "other"}, 422, "unknown_service"),
    "an unknown event": ({"event": "service_exploded"}, 422, "unknown_event"),
    "a region that is not configured": ({"region": "mars-north-1"}, 422, "unknown_region"),
    "a tenant id with capitals": ({"customer": "ACME"}, 422, "illegal_tenant_id"),
    "a tenant id with a path": ({"customer": "../../sys"}, 422, "illegal_tenant_id"),
    "a tenant id with sql": ({"customer": "a'; drop table okcm.tenant; --"}, 422, "illegal_tenant_id"),
    "a tenant id with a line break": ({"customer": "acme-corp\n"}, 422, "illegal_tenant_id"),
    "a tenant id that is too long": ({"customer": "a" * 41}, 422, "illegal_tenant_id"),
    "a tenant id that is too short": ({"customer": "ab"}, 422, "illegal_tenant_id"),
    "a tenant id of the platform's own": ({"customer": "openkcm-canary"}, 422, "illegal_tenant_id"),
    "a timestamp that is none": ({"timestamp": "yesterday"}, 400, "malformed_event"),
    "a name with a line break": ({"organization": "ACME\r\nBcc: everybody"}, 400, "malformed_event"),
}


@pytest.mark.parametrize("what", BAD_FIELDS)
@pytest.mark.usefixtures("nothing_happens")
def test_an_event_with_a_bad_field_is_refused_by_name(stack, what):
    changed, status, code = BAD_FIELDS[what]
    assert_refused(stack.click(**({"customer": "bad-corp-1"} | changed)), status, code)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"event"', b"\xff\xfe", b"null", b'{"event":"service_enabled"}'])
@pytest.mark.usefixtures("nothing_happens")
def test_a_body_that_is_no_event_is_refused(stack, body):
    headers = stack.sign(b"", "msg_malformed")
    if body != b"\xff\xfe":
        headers = stack.sign(body, "msg_malformed")
        assert_refused(stack.post(body, headers), 400, "malformed_event")
    else:  # not text, so nobody can have signed it
        assert_refused(stack.post(body, headers), 401, "signature_refused")


@pytest.mark.usefixtures("nothing_happens")
def test_a_wrong_or_missing_signature_is_refused(stack):
    body = json.dumps(SEED_EVENT | {"customer": "forged-corp-1"}).encode()
    right = stack.sign(body, "msg_forged")
    other = json.dumps(SEED_EVENT | {"customer": "other-corp-1"}).encode()
    for headers in (
        {},
        right | {"webhook-signature": "v1,AAAA"},
        right | {"webhook-signature": ""},
        right | {"webhook-id": "msg_other"},
        right | {"webhook-signature": stack.sign(other, "msg_forged")["webhook-signature"]},
    ):
        assert_refused(stack.post(body, headers), 401, "signature_refused")
    assert_refused(stack.post(other, right), 401, "signature_refused")


@pytest.mark.parametrize("off", [timedelta(minutes=-6), timedelta(minutes=6), timedelta(days=-365)])
@pytest.mark.usefixtures("nothing_happens")
def test_an_event_signed_at_another_time_is_refused(stack, off):
    body = json.dumps(SEED_EVENT | {"customer": "stale-corp-1"}).encode()
    assert_refused(stack.post(body, stack.sign(body, "msg_stale", datetime.now(UTC) + off)), 401, "stale_timestamp")


@pytest.mark.usefixtures("nothing_happens")
def test_a_body_of_ten_megabytes_is_refused(stack):
    body = json.dumps(SEED_EVENT | {"customer": "large-corp-1", "padding": "x" * 10_000_000}).encode()
    assert_refused(stack.post(body, stack.sign(body, "msg_large")), 413, "body_too_large")


@pytest.mark.usefixtures("nothing_happens")
def test_a_tenant_does_not_move_to_another_region_or_change_hands(stack, acme):
    before = stack.status(acme).json()
    answer = stack.click(organization="Mallory Corp", region="mars-north-1")
    assert_refused(answer, 422, "unknown_region")
    assert stack.status(acme).json() == before


def test_an_id_that_has_left_is_never_used_again(stack):
    stack.enable("left-corp-1", "Left Corp")
    stack.wait_announced("left-corp-1")
    with stack.owner() as owner:
        owner.execute("update okcm.tenant set state = 'offboarded' where tenant_id = 'left-corp-1'")
    runs = stack.runs_of("left-corp-1")
    assert_refused(stack.click(customer="left-corp-1", organization="Somebody Else"), 409, "tenant_offboarded")
    assert stack.runs_of("left-corp-1") == runs
    with stack.database().tenant_tx("left-corp-1") as tx:
        row = tx.tenants.get()
    assert row is not None
    assert (row.state, row.organization) == ("offboarded", "Left Corp")


def test_the_status_of_a_tenant_is_shown_to_the_marketplace_only(stack, acme):
    url = f"{stack.settings.marketplace_url}/v1/tenants/{acme}"
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": stack.secret(MARKETPLACE_TOKEN)}):
        answer = httpx.get(url, headers=headers)
        assert_refused(answer, 401, "unauthorized")
        assert "ACME" not in answer.text
    assert_refused(stack.status("nobody-corp-1"), 404, "tenant_unknown")
