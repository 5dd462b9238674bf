"""Enrolment with join tokens: the result, repeated requests, and every token that must be rejected."""

import asyncio
import hashlib
import json
import logging
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from core.errors.platform import DatabaseRefused
from core.errors.tenants import TenantNotOperational
from marketplace.enrolment.routes import AT_ONCE, MOST_BYTES
from openkcm.contract.csr import new_key, request_of
from openkcm.contract.services import ServiceKind
from tests.concurrency import wait_until_async
from tests.dashboard.scene import Scene
from tests.marketplace.conftest import assert_refused, running, streamed
from tests.marketplace.enrolling import ACME, BETA, Scenario, a_csr


@pytest.fixture
def scenario(endpoint) -> Scenario:
    return Scenario(endpoint, Scene(endpoint.field))


async def test_discovery_document_contains_only_public_data(scenario):
    answer = await scenario.endpoint.client.get("/.well-known/openkcm")

    assert answer.status_code == 200
    root = scenario.scene.authority.root
    der = root.public_bytes(serialization.Encoding.DER)
    offer = answer.json()
    assert x509.load_pem_x509_certificate(offer.pop("ca").encode()) == root
    assert offer == {
        "service": "openkcm",
        "versions": {"enrolment": ["v1"]},
        "regions": [
            {"region": region, "https": "https://localhost:18443", "kmip": "localhost:15696"}
            for region in ("eu-west-1", "eu-central-1")
        ],
        "ca_sha256": hashlib.sha256(der).hexdigest(),
        "enrolment": {
            "url": "https://enrol.openkcm.io/v1/enrolments",
            "proofs": ["join_token"],
            "issuers": [],
            "audience": "openkcm",
        },
    }
    assert ACME not in answer.text


async def test_discovery_fails_before_the_canary_tenant_exists(endpoint):
    assert_refused(await endpoint.client.get("/.well-known/openkcm"), 503, "canary_missing")


async def test_token_is_exchanged_for_a_certificate_of_the_agents_key(scenario):
    key = new_key()
    token = scenario.token()

    enrolled = await scenario.with_token(token, request_of(key))

    assert enrolled.status_code == 202
    answer = enrolled.json()
    assert answer["status_url"] == f"https://enrol.openkcm.io/v1/enrolments/{answer['enrolment_id']}"
    assert answer["retry_seconds"] == 1
    status = await scenario.result(enrolled)
    leaf = x509.load_pem_x509_certificate(status["certificate"].encode())
    authority, root = x509.load_pem_x509_certificates(status["chain"].encode())
    assert leaf.public_key() == key.public_key()
    leaf.verify_directly_issued_by(authority)
    assert x509.load_pem_x509_certificate(status["ca"].encode()) == root
    assert token.names(root.public_bytes(serialization.Encoding.DER))
    assert {name: status[name] for name in ("state", "tenant_id", "service", "kind", "region", "https", "kmip")} == {
        "state": "issued",
        "tenant_id": ACME,
        "service": "orders",
        "kind": "postgresql",
        "region": "eu-west-1",
        "https": "https://localhost:18443",
        "kmip": "localhost:15696",
    }
    assert status["problem"] is None
    assert [(r["name"], r["outcome"], r["actor"]) for r in scenario.audited()] == [
        ("enrolment.join_token_made", "success", "ada"),
        ("enrolment.accepted", "success", "agent"),
    ]


async def test_repeated_request_returns_the_same_enrolment(scenario):
    token, key = scenario.token(), new_key()
    answers = await asyncio.gather(*(scenario.with_token(token, request_of(key)) for _ in range(8)))
    answers.append(await scenario.with_token(token, request_of(key)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.text for answer in answers}) == 1
    assert scenario.endpoint.count("enrolment") == scenario.endpoint.count("service_request") == 1
    await scenario.result(answers[0])
    assert len(scenario.endpoint.workflow_client.asked) == 1


async def test_operators_token_is_logged_although_its_role_cannot_append_events(scenario):
    scenario.token(role="operator", made_by="operator")
    [record] = scenario.audited()
    assert (record["name"], record["actor"], record["subject"]) == ("enrolment.join_token_made", "operator", "orders")


async def wrong_tokens(scenario: Scenario) -> dict[str, dict]:
    used = scenario.token()
    await scenario.result(await scenario.with_token(used))
    good = scenario.token()
    return {
        "used with another key": {"join_token": used.text},
        "guessed": {"join_token": good.text.replace(good.secret, "A" * 43)},
        "of another tenant": {"join_token": scenario.token(BETA).text.replace(BETA, ACME)},
        "for an unknown tenant": {"join_token": good.text.replace(ACME, "unknown-corp")},
        "for the platform's own": {"join_token": good.text.replace(ACME, "openkcm-canary")},
        "expired": {"join_token": scenario.token(lifetime=timedelta(microseconds=1)).text},
        "for another name": {"join_token": good.text, "service": "another"},
        "of another kind": {"join_token": good.text, "kind": "mongodb"},
        "nonsense": {"join_token": "okcmj1.x.y.z"},
        "one letter more": {"join_token": good.text + "a"},
        "sql": {"join_token": f"okcmj1.{ACME}' or '1'='1.{good.secret}.{good.ca_fingerprint}"},
        "its hash": {"join_token": good.text.replace(good.secret, good.hash[:43])},
        "a JWT without a configured issuer": {"jwt": "e30.e30.e30"},
    }


async def test_invalid_attestations_get_the_same_rejection_and_store_nothing(scenario):
    wrong = await wrong_tokens(scenario)
    before = (scenario.endpoint.count("enrolment"), scenario.endpoint.count("service_request"))
    texts = set()
    for name, fields in wrong.items():
        answer = await scenario.enrol(**fields)
        assert_refused(answer, 401, "attestation_rejected")
        texts.add(answer.text)
        assert answer.headers["content-type"] == "application/problem+json", name
    assert len(texts) == 1
    assert (scenario.endpoint.count("enrolment"), scenario.endpoint.count("service_request")) == before
    refused = [record for record in scenario.audited() if record["outcome"] == "refused"]
    assert {record["name"] for record in refused} == {"enrolment.proof_refused"}
    assert len(refused) == 7  # all but those for tenants that do not exist
    assert {record["source"] for record in refused} == {"127.0.0.1"}
    assert [r for r in scenario.audited(BETA) if r["outcome"] == "refused"] == []


async def test_invalid_request_does_not_use_up_its_token(scenario):
    token = scenario.token()
    bad = {
        "csr_refused": {"csr": "-----BEGIN CERTIFICATE REQUEST-----\nno\n-----END CERTIFICATE REQUEST-----\n"},
        "invalid_name": {"service": "../orders"},
    }
    for code, fields in bad.items():
        assert_refused(await scenario.enrol(**({"join_token": token.text} | fields)), 422, code)
    for fields in ({"kind": "oracle"}, {"jwt": "a.b.c"}, {"csr": 7}, {"join_token": None}, {"service": ""}):
        answer = await scenario.enrol(**({"join_token": token.text} | fields))
        assert_refused(answer, 400, "malformed_enrolment")
        assert token.secret not in answer.text
    for body in (b"[]", b"{", b"\xff", b"[" * 20_000, b"null"):
        answer = await scenario.endpoint.client.post("/v1/enrolments", content=body)
        assert_refused(answer, 400, "malformed_enrolment")
    assert (await scenario.result(await scenario.with_token(token)))["state"] == "issued"


async def test_certificate_request_with_forged_signature_is_rejected(scenario):
    key = new_key()
    body = x509.load_pem_x509_csr(request_of(key).encode()).public_bytes(serialization.Encoding.DER)
    mine, theirs = (
        one.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        for one in (key, new_key())
    )
    forged = x509.load_der_x509_csr(body.replace(mine, theirs)).public_bytes(serialization.Encoding.PEM).decode()
    assert_refused(await scenario.with_token(scenario.token(), forged), 422, "csr_refused")


async def test_ticket_reads_only_its_own_enrolment(scenario):
    first, second = [await scenario.with_token(scenario.token(), a_csr()) for _ in range(2)]
    other = await scenario.enrol(join_token=scenario.token(BETA).text)
    token = scenario.token()
    names = {
        "another's ticket": (first, second.json()["ticket"]),
        "another tenant's": (first, other.json()["ticket"]),
        "no ticket": (first, "-"),
        "a join token": (first, token.text),
        "not ASCII": (first, "\u00e9".encode()),
        "long": (first, "a" * 201),
    }
    texts = set()
    for name, (enrolled, ticket) in names.items():
        answer = await scenario.endpoint.client.get(
            f"/v1/enrolments/{enrolled.json()['enrolment_id']}",
            headers={b"authorization": b"Bearer " + (ticket if isinstance(ticket, bytes) else ticket.encode())},
        )
        assert_refused(answer, 401, "ticket_rejected")
        assert answer.headers["www-authenticate"] == "Bearer", name
        texts.add(answer.text)
    ticket = first.json()["ticket"]
    own = first.json()["enrolment_id"].partition(".")[2]
    for name in (f"{ACME}.{'0' * 32}", f"{BETA}.{own}", f"unknown-corp.{own}", "nonsense", f"---.{own}", f"*.{own}"):
        answer = await scenario.endpoint.client.get(
            f"/v1/enrolments/{name}", headers={"authorization": f"Bearer {ticket}"}
        )
        assert_refused(answer, 401, "ticket_rejected")
        texts.add(answer.text)
    assert len(texts) == 1
    assert (await scenario.status(first)).status_code == 200


def raising(problem: Exception):
    def connect(*_asked: str) -> None:
        raise problem

    return connect


async def test_rejection_by_the_workflow_is_returned_with_code_and_hint(scenario):
    scenario.endpoint.workflow_client.connect = raising(TenantNotOperational("suspended"))
    status = await scenario.result(await scenario.with_token(scenario.token()))
    assert (status["state"], status["problem"]["code"]) == ("refused", "tenant_not_operational")
    assert "suspended" in status["problem"]["message"]
    assert status["problem"]["hint"]
    assert status["certificate"] is None


async def test_status_reports_a_disconnection_after_the_certificate_was_issued(scenario):
    enrolled = await scenario.with_token(scenario.token())
    await scenario.result(enrolled)
    with scenario.scene.worker.tenant_tx(ACME) as tx:
        tx.services.disconnect("orders")
    status = (await scenario.status(enrolled)).json()
    assert (status["state"], status["problem"]["code"]) == ("refused", "service_unknown")


async def test_next_process_completes_enrolments_stored_during_an_outage_of_temporal(field, workflow_client):
    workflow_client.down = True
    async with running(field, workflow_client) as first:
        scenario = Scenario(first, Scene(field))
        enrolled = await scenario.with_token(scenario.token())
        assert enrolled.status_code == 202
        assert (await scenario.status(enrolled)).json()["state"] == "pending"
    workflow_client.down = False
    async with running(field, workflow_client) as second:
        scenario.endpoint = second
        status = await scenario.result(enrolled)
    assert status["state"] == "issued"
    assert len(workflow_client.asked) == 1


async def test_process_that_crashes_before_recording_the_result_repeats_the_same_request(field, workflow_client):
    async with running(field, workflow_client) as first:
        scenario = Scenario(first, Scene(field))
        enrolled = await scenario.with_token(scenario.token())
        await scenario.result(enrolled)
        first.execute("update okcm.enrolment set state = 'pending', settled_at = null")
    async with running(field, workflow_client) as second:
        scenario.endpoint = second
        assert (await scenario.result(enrolled))["state"] == "issued"
    assert len(workflow_client.asked) == 2
    assert len(set(workflow_client.asked)) == 1
    assert second.count("service_certificate") == 1


async def test_stuck_enrolment_does_not_block_its_status(scenario):
    scenario.endpoint.workflow_client.connect = raising(RuntimeError("stuck"))
    enrolled = await scenario.with_token(scenario.token())
    await wait_until_async(lambda: scenario.endpoint.workflow_client.asked)
    assert (await scenario.status(enrolled)).json()["state"] == "pending"


async def test_repeated_guesses_are_rate_limited_and_logged_at_most_ten_times(scenario):
    token = scenario.token()
    wrong = token.text.replace(token.secret, "A" * 43)
    answers = [await scenario.enrol(join_token=wrong) for _ in range(30)]
    codes = [answer.status_code for answer in answers]
    assert codes[:20] == [401] * 20
    assert codes[-1] == 429
    assert answers[-1].json()["code"] == "too_many_requests"
    assert int(answers[-1].headers["retry-after"]) > 0
    assert len([record for record in scenario.audited() if record["outcome"] == "refused"]) == 10


async def test_flood_of_enrolments_is_rejected_and_status_requests_still_succeed(scenario):
    token, csr = scenario.token(), a_csr()
    wrong = token.text.replace(token.secret, "A" * 43)
    answers = await asyncio.gather(*(scenario.enrol(csr, join_token=wrong) for _ in range(AT_ONCE * 4)))
    assert {answer.status_code for answer in answers} <= {401, 429}
    assert (await scenario.endpoint.show(ACME)).status_code == 200


async def test_body_of_ten_megabytes_is_rejected_with_and_without_content_length(scenario):
    body = b"x" * 10_000_000
    post = scenario.endpoint.client.post
    assert_refused(await post("/v1/enrolments", content=body), 413, "body_too_large")
    assert_refused(await post("/v1/enrolments", content=streamed(body)), 413, "body_too_large")
    padded = json.dumps({"join_token": scenario.token().text, "pad": "x" * MOST_BYTES}).encode()
    assert_refused(await post("/v1/enrolments", content=padded), 413, "body_too_large")


async def test_secrets_are_absent_from_rows_logs_and_responses(scenario, caplog):
    with caplog.at_level(logging.DEBUG):
        token = scenario.token()
        enrolled = await scenario.with_token(token)
        await scenario.result(enrolled)
        unused = scenario.token()
        await scenario.enrol(join_token=unused.text, service="another")
        scenario.endpoint.execute("revoke insert on okcm.enrolment from okcm_marketplace")
        assert_refused(await scenario.with_token(unused), 500, "internal")
    rows, ticket = scenario.everything(), enrolled.json()["ticket"]
    assert token.hash in rows
    for secret in (token.secret, unused.secret, ticket):
        assert secret not in rows
        assert secret not in caplog.text
    assert token.secret not in enrolled.text
    assert token.secret not in repr(token)


async def test_token_is_valid_for_at_most_one_day(scenario):
    with pytest.raises(DatabaseRefused, match="join_token_lifetime_check"):
        scenario.token(lifetime=timedelta(hours=24, seconds=5))
    scenario.token(lifetime=timedelta(hours=24), kind=ServiceKind.MICROSERVICE)
