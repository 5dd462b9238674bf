"""No service reaches an object or a text of another one, over either port, nor learns that it exists."""

import ssl
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from itertools import permutations
from pathlib import Path
from time import time

import pytest

from config.secrets import Role
from crypto_service.https.routes import ENDPOINTS
from crypto_service.kmip.codec.enums import Operation
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.operation_table import OPERATIONS
from crypto_service.server.tls import new_identity, server_context
from tests.concurrency import wait_until
from tests.crypto_service.kmip.messages import batch_item
from tests.crypto_service.kmip.scene import a_name
from tests.stories import estates
from tests.stories.assault import HttpsAssault, KmipAssault, Outcome, same
from tests.stories.attacks import Attacks, requests_of
from tests.stories.connected import connect
from tests.stories.estates import (
    ABOUT_NOTHING,
    ABOUT_OBJECTS,
    BY_NAME,
    SEARCHES,
    WITH_TEXT,
    WITHOUT_TEXT,
    Estate,
    settle,
)
from tests.stories.forgeries import Forger, Forgery, refusal, try_once
from tests.stories.kmip_wire import ask, value_of
from tests.stories.neighbours import Neighbours, Refusals, settle_all
from tests.stories.tenants import new_tenant
from tests.stories.wires import HttpsWire, dial, post
from vault.pki.server_certificates import PkiServerCertificates

SEED = "2026-11-25"
Open = Callable[[], ssl.SSLSocket]


@pytest.fixture(scope="module")
def neighbours(stack, tmp_path_factory) -> Neighbours:
    return settle_all(stack, tmp_path_factory.mktemp("isolation"))


@pytest.fixture(scope="module")
def forger(neighbours, tmp_path_factory) -> Forger:
    return Forger(neighbours.stack, neighbours.scapegoat.service, tmp_path_factory.mktemp("forged"))


def wait_for_refused_certificates(neighbours: Neighbours, expected: Refusals) -> None:
    """Wait until the stream of the attacked tenant holds exactly these; they arrive within a second."""
    found = Refusals()

    def arrived() -> bool:
        found.clear()
        found.update(neighbours.refusals(neighbours.mine.service.tenant_id, SEED)[1])
        return all(found[key] >= count for key, count in expected.items())

    wait_until(arrived, lambda: "not all refused certificates are recorded")
    assert {key: found[key] for key in expected} == expected


@pytest.mark.unit
def test_every_operation_and_endpoint_is_among_the_requests():
    assert ABOUT_OBJECTS.keys() | BY_NAME.keys() | ABOUT_NOTHING | SEARCHES == OPERATIONS.keys()
    assert WITH_TEXT.keys() | WITHOUT_TEXT.keys() == {endpoint.path for endpoint in ENDPOINTS}


def test_service_reaches_nothing_of_another_and_every_attempt_is_recorded(neighbours, forger):
    """Each attacks all others; one more has a recorded certificate with the name of another service."""
    pem, key = forger.signed(forger.names(service=neighbours.mine.service.name))
    forger.on_record(pem)
    masked = forger.context(pem, key)
    scapegoat = neighbours.scapegoat
    attackers: list[tuple[Estate, Open, Open]] = [
        *((one, one.service.open_kmip, one.service.open_https) for one in neighbours.estates),
        (scapegoat, *(partial(dial, scapegoat.service.answer[port], masked) for port in ("kmip", "https"))),
    ]
    before = neighbours.holdings()
    assaults, outcome = list[KmipAssault | HttpsAssault](), Outcome()
    for estate, open_kmip, open_https in attackers:
        victims = [other for other in neighbours.estates if other is not estate]
        seed = f"{SEED}.{estate.service.tenant_id[:4]}.{estate.service.name}"
        assaults.append(KmipAssault(estate, open_kmip, Attacks(estate, victims, seed), f"{seed}.k"))
        assaults.append(HttpsAssault(estate, open_https, Attacks(estate, victims, seed), f"{seed}.h"))
    with ThreadPoolExecutor(len(assaults)) as crowd:
        for one in crowd.map(lambda assault: assault.run(), assaults):
            outcome.add(one)
    assert outcome.successes == []
    assert outcome.differences == []
    assert outcome.attempts >= 3_000
    assert neighbours.holdings() == before

    # Each attempt is recorded in the stream of the tenant that made it, and in no other.
    for tenant_id, expected in outcome.audited.items():
        wait_until(
            lambda one=tenant_id, many=expected: sum(neighbours.refusals(one, SEED)[0].values()) >= sum(many.values()),
            lambda: "not all attempts are recorded",
        )
        assert neighbours.refusals(tenant_id, SEED)[0] == expected


def test_owner_is_served_with_the_requests_that_others_are_refused(stack, tmp_path):
    """With a service apart: its requests make objects, and an assault knows the ones that its neighbours began with."""
    estate = settle(connect(stack, new_tenant(stack, "owner"), "microservice", "vault", tmp_path / "vault"))
    with estate.service.open_kmip() as kmip, HttpsWire(estate.service.open_https()) as https:
        new = value_of(ask(kmip, estates.a_new_key(estate.service)), Tag.UNIQUE_IDENTIFIER)
        own = estate.objects | {"new": str(new)}
        for operation, (kind, _) in ABOUT_OBJECTS.items():
            ask(kmip, estates.about(operation, estate, own[kind]))
        for operation in BY_NAME:
            ask(kmip, estates.by_name(operation, estate.template))
        ask(kmip, estates.wrapped_under(own["hmac"], own["aes"]))
        (found,) = ask(kmip, batch_item(Operation.LOCATE, a_name(estate.template))).children()
        assert found.value == own["template"]
        for path, body in WITH_TEXT.items():
            sealed = estate.wrapped if path == "/v1/data-keys/open" else estate.ciphertext
            assert https.ask(post(path, body(sealed, estate.resource))).get("refused", 0) == 0
        for path, plain in WITHOUT_TEXT.items():
            assert path in estates.PERHAPS_NOT_THERE or https.ask(post(path, plain)).get("refused", 0) == 0


CLAIMS = ("x-tenant-id", "x-openkcm-tenant", "x-forwarded-client-cert", "x-ssl-client-s-dn", "forwarded", "from")


def test_headers_queries_and_fields_that_claim_another_identity_change_nothing(neighbours):
    reads = [path for path, body in WITHOUT_TEXT.items() if body is None]
    encrypting = WITHOUT_TEXT["/v1/encrypt"]
    for estate, victim in permutations(neighbours.estates, 2):
        whose = victim.name
        host = f"{victim.service.tenant_id}.tenants.openkcm.internal"
        claims = dict.fromkeys(CLAIMS, whose) | {"authorization": f"Bearer {whose}", "host": host}
        with HttpsWire(estate.service.open_https()) as wire, HttpsWire(victim.service.open_https()) as theirs:
            plain = dict(zip(reads, map(same, wire.all([post(path, None) for path in reads])), strict=True))
            for path in reads:
                asked = [post(f"{path}?tenant={whose}&service={whose}", None), post(path, None, claims)]
                asked += [post(f"{path}/{whose}", None, claims), post(f"/{whose}{path}", None)]
                for reply in wire.all(asked):
                    assert reply.status == 404 or same(reply) == plain[path], path
            for extra in ("tenant", "tenant_id", "service", "caller", "l2_key"):
                (reply,) = wire.all([post("/v1/encrypt", encrypting | {extra: whose})])
                assert (reply.status, reply.json["code"]) == (400, "invalid_request")
            made = wire.ask(post("/v1/encrypt", encrypting | {"resource": victim.resource}, claims))
            decrypting = post("/v1/decrypt", {"ciphertext": made["ciphertext"], "resource": victim.resource}, claims)
            (refused,) = theirs.all([decrypting])
            assert (refused.status, refused.json["code"]) == (422, "ciphertext_refused")
            assert wire.ask(decrypting)["plaintext"] == encrypting["plaintext"]


def test_invalid_certificates_are_rejected_with_one_answer_and_recorded(neighbours, forger, tmp_path: Path):
    mine, other = neighbours.mine, neighbours.other
    former = connect(neighbours.stack, mine.service.tenant_id, "microservice", "former", tmp_path / "former")
    former.disconnect()
    revoked = Forgery("revoked", former.tls(), why="revoked", serial=forger.serial_of(former))
    forgeries = [*forger.all(other.service, mine.service), revoked]

    # Each is wrong in the way that its name says and in no other.
    vault = PkiServerCertificates(neighbours.stack.vault(Role.CRYPTO))
    server = server_context(new_identity(vault, ["localhost"]))
    for forgery in forgeries:
        assert refusal(server, forgery.tls) == forgery.fault, forgery.name

    # A handshake that fails never reads a request, so one on each port is enough; the others send every request.
    every = list(requests_of(mine))
    first = list({port: (port, request) for port, request in every}.values())
    wanted = [(forgery, *one) for forgery in forgeries for one in (first if forgery.fault else every)]
    expected, answers = Refusals(), defaultdict[str, set[object]](set)
    with ThreadPoolExecutor(8) as crowd:
        ends = crowd.map(lambda one: try_once(mine.service.answer[one[1]], one[0], one[2]), wanted)
        for (forgery, port, _), answer in zip(wanted, ends, strict=True):
            if forgery.fault:
                assert answer is None, (forgery.name, port, answer)
                continue
            answers[port].add(answer)
            if forgery.why:
                expected[forgery.serial, forgery.why] += 1
    # All have the same answer, byte for byte: it does not say what is wrong.
    assert {port: len(different) for port, different in answers.items()} == {"https": 1, "kmip": 1}
    assert b"caller_refused" in str(answers["https"]).encode()
    assert b"this certificate opens nothing here" in str(answers["kmip"]).encode()
    wait_for_refused_certificates(neighbours, expected)
    assert neighbours.refusals(other.service.tenant_id, SEED)[1] == Refusals()


def test_certificate_that_expires_is_rejected_on_the_open_connection_and_in_the_handshake(neighbours, forger):
    service = neighbours.scapegoat.service
    pem, key = forger.signed(forger.names(), lasting=timedelta(seconds=5))
    serial = forger.on_record(pem)
    tls, ends_at = forger.context(pem, key), forger.end_of(pem)
    request = post("/v1/encrypt", WITHOUT_TEXT["/v1/encrypt"])
    with HttpsWire(dial(service.answer["https"], tls)) as wire:
        last_good = 0.0
        while True:
            asked_at = time()
            (reply,) = wire.all([request])
            if reply.status != 200:
                break
            last_good = asked_at
    assert (reply.status, reply.json["code"]) == (403, "caller_refused")
    assert 0 < last_good <= ends_at <= time()
    expected = Refusals({(serial, "expired"): 1})

    def ends_in_handshake() -> bool:
        # For OpenSSL the second in which a certificate ends still belongs to it; for the crypto service it does not.
        answer = try_once(service.answer["https"], Forgery("expired", tls), request)
        expected[serial, "expired"] += answer is not None
        assert answer is None or "caller_refused" in str(answer)
        return answer is None

    wait_until(ends_in_handshake, lambda: "an expired certificate still passes the handshake")
    wait_for_refused_certificates(neighbours, expected)
