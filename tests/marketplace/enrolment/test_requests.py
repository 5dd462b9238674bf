"""Agents enrol with join tokens: what they get, what a lost answer costs, and what nobody gets by any token."""

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
from tests.marketplace.enrolling import ACME, BETA, Stand, a_csr


@pytest.fixture
def stand(endpoint) -> Stand:
    return Stand(endpoint, Scene(endpoint.field))


async def test_everybody_finds_us_and_is_told_public_facts_only(stand):
    answer = await stand.endpoint.client.get("/.well-known/openkcm")

    assert answer.status_code == 200
    root = stand.scene.authority.root
    der = root.public_bytes(serialization.Encoding.DER)
    told = answer.json()
    assert x509.load_pem_x509_certificate(told.pop("ca").encode()) == root
    assert told == {
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


async def test_before_the_platform_is_ready_it_says_so(endpoint):
    assert_refused(await endpoint.client.get("/.well-known/openkcm"), 503, "canary_missing")


async def test_a_token_becomes_a_certificate_for_the_agents_own_key(stand):
    key = new_key()
    token = stand.token()

    enrolled = await stand.with_token(token, request_of(key))

    assert enrolled.status_code == 202
    answer = enrolled.json()
    assert answer["status_url"] == f"https://enrol.openkcm.io/v1/enrolments/{answer['enrolment_id']}"
    assert answer["retry_seconds"] == 1
    standing = await stand.settled(enrolled)
    leaf = x509.load_pem_x509_certificate(standing["certificate"].encode())
    authority, root = x509.load_pem_x509_certificates(standing["chain"].encode())
    assert leaf.public_key() == key.public_key()
    leaf.verify_directly_issued_by(authority)
    assert x509.load_pem_x509_certificate(standing["ca"].encode()) == root
    assert token.names(root.public_bytes(serialization.Encoding.DER))
    assert {name: standing[name] for name in ("state", "tenant_id", "service", "kind", "region", "https", "kmip")} == {
        "state": "issued",
        "tenant_id": ACME,
        "service": "orders",
        "kind": "postgresql",
        "region": "eu-west-1",
        "https": "https://localhost:18443",
        "kmip": "localhost:15696",
    }
    assert standing["problem"] is None
    assert [(r["name"], r["outcome"], r["actor"]) for r in stand.audited()] == [
        ("enrolment.join_token_made", "success", "ada"),
        ("enrolment.accepted", "success", "agent"),
    ]


async def test_a_lost_answer_is_asked_for_again_and_is_the_same_one(stand):
    token, key = stand.token(), new_key()
    answers = await asyncio.gather(*(stand.with_token(token, request_of(key)) for _ in range(8)))
    answers.append(await stand.with_token(token, request_of(key)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.text for answer in answers}) == 1
    assert stand.endpoint.count("enrolment") == stand.endpoint.count("service_request") == 1
    await stand.settled(answers[0])
    assert len(stand.endpoint.door.asked) == 1


async def test_the_operators_token_is_on_record_although_its_role_writes_no_stream(stand):
    stand.token(role="operator", made_by="operator")
    [record] = stand.audited()
    assert (record["name"], record["actor"], record["subject"]) == ("enrolment.join_token_made", "operator", "orders")


async def wrong_tokens(stand: Stand) -> dict[str, dict]:
    used = stand.token()
    await stand.settled(await stand.with_token(used))
    good = stand.token()
    return {
        "used with another key": {"join_token": used.text},
        "guessed": {"join_token": good.text.replace(good.secret, "A" * 43)},
        "of another tenant": {"join_token": stand.token(BETA).text.replace(BETA, ACME)},
        "for a tenant that is not there": {"join_token": good.text.replace(ACME, "nobody-here")},
        "for the platform's own": {"join_token": good.text.replace(ACME, "openkcm-canary")},
        "expired": {"join_token": stand.token(lifetime=timedelta(microseconds=1)).text},
        "for another name": {"join_token": good.text, "service": "another"},
        "of another kind": {"join_token": good.text, "kind": "mongodb"},
        "nonsense": {"join_token": "okcmj1.x.y.z"},
        "one letter more": {"join_token": good.text + "a"},
        "sql": {"join_token": f"okcmj1.{ACME}' or '1'='1.{good.secret}.{good.ca_fingerprint}"},
        "its hash": {"join_token": good.text.replace(good.secret, good.hash[:43])},
        "a JWT where no issuer is believed": {"jwt": "e30.e30.e30"},
    }


async def test_every_wrong_proof_is_refused_alike_and_makes_nothing(stand):
    wrong = await wrong_tokens(stand)
    before = (stand.endpoint.count("enrolment"), stand.endpoint.count("service_request"))
    texts = set()
    for name, fields in wrong.items():
        answer = await stand.enrol(**fields)
        assert_refused(answer, 401, "proof_refused")
        texts.add(answer.text)
        assert answer.headers["content-type"] == "application/problem+json", name
    assert len(texts) == 1
    assert (stand.endpoint.count("enrolment"), stand.endpoint.count("service_request")) == before
    refused = [record for record in stand.audited() if record["outcome"] == "refused"]
    assert {record["name"] for record in refused} == {"enrolment.proof_refused"}
    assert len(refused) == 7  # every one but those that name nobody of ours
    assert {record["source"] for record in refused} == {"127.0.0.1"}
    assert [r for r in stand.audited(BETA) if r["outcome"] == "refused"] == []


async def test_a_request_that_cannot_be_taken_uses_up_no_token(stand):
    token = stand.token()
    bad = {
        "csr_refused": {"csr": "-----BEGIN CERTIFICATE REQUEST-----\nno\n-----END CERTIFICATE REQUEST-----\n"},
        "invalid_name": {"service": "../orders"},
    }
    for code, fields in bad.items():
        assert_refused(await stand.enrol(**({"join_token": token.text} | fields)), 422, code)
    for fields in ({"kind": "oracle"}, {"jwt": "a.b.c"}, {"csr": 7}, {"join_token": None}, {"service": ""}):
        answer = await stand.enrol(**({"join_token": token.text} | fields))
        assert_refused(answer, 400, "malformed_enrolment")
        assert token.secret not in answer.text
    for body in (b"[]", b"{", b"\xff", b"[" * 20_000, b"null"):
        answer = await stand.endpoint.client.post("/v1/enrolments", content=body)
        assert_refused(answer, 400, "malformed_enrolment")
    assert (await stand.settled(await stand.with_token(token)))["state"] == "issued"


async def test_a_forged_signature_under_a_request_is_refused(stand):
    key = new_key()
    body = x509.load_pem_x509_csr(request_of(key).encode()).public_bytes(serialization.Encoding.DER)
    mine, theirs = (
        one.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        for one in (key, new_key())
    )
    forged = x509.load_der_x509_csr(body.replace(mine, theirs)).public_bytes(serialization.Encoding.PEM).decode()
    assert_refused(await stand.with_token(stand.token(), forged), 422, "csr_refused")


async def test_a_ticket_reads_its_own_enrolment_and_nothing_else(stand):
    first, second = [await stand.with_token(stand.token(), a_csr()) for _ in range(2)]
    other = await stand.enrol(join_token=stand.token(BETA).text)
    token = stand.token()
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
        answer = await stand.endpoint.client.get(
            f"/v1/enrolments/{enrolled.json()['enrolment_id']}",
            headers={b"authorization": b"Bearer " + (ticket if isinstance(ticket, bytes) else ticket.encode())},
        )
        assert_refused(answer, 401, "ticket_refused")
        assert answer.headers["www-authenticate"] == "Bearer", name
        texts.add(answer.text)
    ticket = first.json()["ticket"]
    own = first.json()["enrolment_id"].partition(".")[2]
    for name in (f"{ACME}.{'0' * 32}", f"{BETA}.{own}", f"nobody-here.{own}", "nonsense", f"---.{own}", f"*.{own}"):
        answer = await stand.endpoint.client.get(
            f"/v1/enrolments/{name}", headers={"authorization": f"Bearer {ticket}"}
        )
        assert_refused(answer, 401, "ticket_refused")
        texts.add(answer.text)
    assert len(texts) == 1
    assert (await stand.standing(first)).status_code == 200


def raising(problem: Exception):
    def connect(*_asked: str) -> None:
        raise problem

    return connect


async def test_what_the_workflow_refuses_is_answered_with_code_and_hint(stand):
    stand.endpoint.door.connect = raising(TenantNotOperational("suspended"))
    standing = await stand.settled(await stand.with_token(stand.token()))
    assert (standing["state"], standing["problem"]["code"]) == ("refused", "tenant_closed")
    assert "suspended" in standing["problem"]["message"]
    assert standing["problem"]["hint"]
    assert standing["certificate"] is None


async def test_a_disconnection_after_the_issue_is_told_to_the_ticket(stand):
    enrolled = await stand.with_token(stand.token())
    await stand.settled(enrolled)
    with stand.scene.worker.tenant_tx(ACME) as tx:
        tx.services.disconnect("orders")
    standing = (await stand.standing(enrolled)).json()
    assert (standing["state"], standing["problem"]["code"]) == ("refused", "service_unknown")


async def test_what_was_stored_while_temporal_was_down_is_made_good_by_the_next_process(field, door):
    door.down = True
    async with running(field, door) as first:
        stand = Stand(first, Scene(field))
        enrolled = await stand.with_token(stand.token())
        assert enrolled.status_code == 202
        assert (await stand.standing(enrolled)).json()["state"] == "pending"
    door.down = False
    async with running(field, door) as second:
        stand.endpoint = second
        standing = await stand.settled(enrolled)
    assert standing["state"] == "issued"
    assert len(door.asked) == 1


async def test_a_process_that_dies_between_asking_and_noting_asks_once_more_for_the_same(field, door):
    async with running(field, door) as first:
        stand = Stand(first, Scene(field))
        enrolled = await stand.with_token(stand.token())
        await stand.settled(enrolled)
        first.execute("update okcm.enrolment set state = 'pending', settled_at = null")
    async with running(field, door) as second:
        stand.endpoint = second
        assert (await stand.settled(enrolled))["state"] == "issued"
    assert len(door.asked) == 2
    assert len(set(door.asked)) == 1
    assert second.count("service_certificate") == 1


async def test_an_event_that_waits_holds_up_no_enrolment_and_the_other_way_round(stand):
    stand.endpoint.door.connect = raising(RuntimeError("stuck"))
    enrolled = await stand.with_token(stand.token())
    await wait_until_async(lambda: stand.endpoint.door.asked)
    assert (await stand.standing(enrolled)).json()["state"] == "pending"


async def test_whoever_guesses_on_and_on_is_not_listened_to_and_fills_nobodys_stream(stand):
    token = stand.token()
    wrong = token.text.replace(token.secret, "A" * 43)
    answers = [await stand.enrol(join_token=wrong) for _ in range(30)]
    codes = [answer.status_code for answer in answers]
    assert codes[:20] == [401] * 20
    assert codes[-1] == 429
    assert answers[-1].json()["code"] == "too_many_requests"
    assert int(answers[-1].headers["retry-after"]) > 0
    assert len([record for record in stand.audited() if record["outcome"] == "refused"]) == 10


async def test_a_flood_is_rejected_and_events_are_still_served(stand):
    token, csr = stand.token(), a_csr()
    wrong = token.text.replace(token.secret, "A" * 43)
    answers = await asyncio.gather(*(stand.enrol(csr, join_token=wrong) for _ in range(AT_ONCE * 4)))
    assert {answer.status_code for answer in answers} <= {401, 429}
    assert (await stand.endpoint.show(ACME)).status_code == 200


async def test_ten_megabytes_are_refused_whether_announced_or_streamed(stand):
    body = b"x" * 10_000_000
    post = stand.endpoint.client.post
    assert_refused(await post("/v1/enrolments", content=body), 413, "body_too_large")
    assert_refused(await post("/v1/enrolments", content=streamed(body)), 413, "body_too_large")
    padded = json.dumps({"join_token": stand.token().text, "pad": "x" * MOST_BYTES}).encode()
    assert_refused(await post("/v1/enrolments", content=padded), 413, "body_too_large")


async def test_no_secret_is_in_a_row_a_log_or_an_answer(stand, caplog):
    with caplog.at_level(logging.DEBUG):
        token = stand.token()
        enrolled = await stand.with_token(token)
        await stand.settled(enrolled)
        unused = stand.token()
        await stand.enrol(join_token=unused.text, service="another")
        stand.endpoint.execute("revoke insert on okcm.enrolment from okcm_marketplace")
        assert_refused(await stand.with_token(unused), 500, "internal")
    rows, ticket = stand.everything(), enrolled.json()["ticket"]
    assert token.hash in rows
    for secret in (token.secret, unused.secret, ticket):
        assert secret not in rows
        assert secret not in caplog.text
    assert token.secret not in enrolled.text
    assert token.secret not in repr(token)


async def test_a_token_lives_at_most_a_day(stand):
    with pytest.raises(DatabaseRefused, match="join_token_lifetime_check"):
        stand.token(lifetime=timedelta(hours=24, seconds=5))
    stand.token(lifetime=timedelta(hours=24), kind=ServiceKind.MICROSERVICE)
