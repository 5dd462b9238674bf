"""No service can use an object or ciphertext of another one over HTTPS or KMIP, or learn that it exists."""

import ssl
from collections import Counter, defaultdict
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
from tests.e2e.connected import connect
from tests.e2e.isolation.crypto_api import estates
from tests.e2e.isolation.crypto_api.assault import HttpsAttackRunner, KmipAttackRunner, Outcome, stable_parts
from tests.e2e.isolation.crypto_api.attacks import Attacks, requests_of
from tests.e2e.isolation.crypto_api.estates import (
    ABOUT_NOTHING,
    ABOUT_OBJECTS,
    BY_NAME,
    SEARCHES,
    WITH_CIPHERTEXT,
    WITHOUT_CIPHERTEXT,
    ServiceObjects,
    create_objects,
)
from tests.e2e.isolation.crypto_api.forgeries import Forger, Forgery, refusal, try_once
from tests.e2e.isolation.crypto_api.neighbours import COUNTED, Neighbours, Refusals, create_all
from tests.e2e.kmip_wire import ask, value_of
from tests.e2e.tenants import new_tenant
from tests.e2e.wires import HttpsWire, dial, post
from vault.pki.server_certificates import PkiServerCertificates

SEED = "2026-11-25"
Open = Callable[[], ssl.SSLSocket]


@pytest.fixture(scope="module")
def neighbours(stack, tmp_path_factory) -> Neighbours:
    return create_all(stack, tmp_path_factory.mktemp("isolation"))


@pytest.fixture(scope="module")
def forger(neighbours, tmp_path_factory) -> Forger:
    return Forger(neighbours.stack, neighbours.forgery_target.service, tmp_path_factory.mktemp("forged"))


def by_service(refusals: Refusals) -> Counter[str]:
    """Return the number of rejections of each service: beyond a rate, one event counts several."""
    counts = Counter[str]()
    for (service, _), count in refusals.items():
        counts[service] += count
    return counts


def wait_for_rejected_certificates(neighbours: Neighbours, expected: Refusals) -> None:
    """Wait until the stream of the attacked tenant contains the expected rejections, some of them counted together."""
    found = Refusals()

    def arrived() -> bool:
        found.clear()
        found.update(neighbours.refusals(neighbours.mine.service.tenant_id, SEED)[1])
        return (expected - found).total() <= found[COUNTED]

    wait_until(arrived, lambda: "not all rejected certificates are recorded")
    assert all(found[key] <= count for key, count in expected.items())


@pytest.mark.unit
def test_the_attacks_cover_every_operation_and_endpoint():
    assert ABOUT_OBJECTS.keys() | BY_NAME.keys() | ABOUT_NOTHING | SEARCHES == OPERATIONS.keys()
    assert WITH_CIPHERTEXT.keys() | WITHOUT_CIPHERTEXT.keys() == {endpoint.path for endpoint in ENDPOINTS}


def test_no_service_can_use_objects_of_another_and_every_attempt_is_recorded(neighbours, forger):
    """Each service attacks all others; one more has a recorded certificate with the name of another service."""
    pem, key = forger.sign_leaf(forger.names(service=neighbours.mine.service.name))
    forger.record_certificate(pem)
    impostor_tls = forger.context(pem, key)
    forgery_target = neighbours.forgery_target
    attackers: list[tuple[ServiceObjects, Open, Open]] = [
        *((one, one.service.open_kmip, one.service.open_https) for one in neighbours.estates),
        (
            forgery_target,
            *(partial(dial, forgery_target.service.answer[port], impostor_tls) for port in ("kmip", "https")),
        ),
    ]
    before = neighbours.holdings()
    runners, outcome = list[KmipAttackRunner | HttpsAttackRunner](), Outcome()
    for service_objects, open_kmip, open_https in attackers:
        victims = [other for other in neighbours.estates if other is not service_objects]
        seed = f"{SEED}.{service_objects.service.tenant_id[:4]}.{service_objects.service.name}"
        runners.append(
            KmipAttackRunner(service_objects, open_kmip, Attacks(service_objects, victims, seed), f"{seed}.k")
        )
        runners.append(
            HttpsAttackRunner(service_objects, open_https, Attacks(service_objects, victims, seed), f"{seed}.h")
        )
    with ThreadPoolExecutor(len(runners)) as pool:
        for one in pool.map(lambda runner: runner.run(), runners):
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
        found = neighbours.refusals(tenant_id, SEED)[0]
        assert found.keys() <= expected.keys()
        assert by_service(found) == by_service(expected)


def test_the_owner_succeeds_with_the_requests_that_are_rejected_for_others(stack, tmp_path):
    """Uses a separate service, because its requests create objects that the other tests do not expect."""
    service_objects = create_objects(
        connect(stack, new_tenant(stack, "owner"), "microservice", "vault", tmp_path / "vault")
    )
    with service_objects.service.open_kmip() as kmip, HttpsWire(service_objects.service.open_https()) as https:
        new = value_of(ask(kmip, estates.a_new_key(service_objects.service)), Tag.UNIQUE_IDENTIFIER)
        own = service_objects.objects | {"new": str(new)}
        for operation, (kind, _) in ABOUT_OBJECTS.items():
            ask(kmip, estates.about(operation, service_objects, own[kind]), **estates.version_of(operation.name))
        for operation in BY_NAME:
            ask(kmip, estates.by_name(operation, service_objects.template))
        ask(kmip, estates.wrapped_under(own["hmac"], own["aes"]))
        (found,) = ask(kmip, batch_item(Operation.LOCATE, a_name(service_objects.template))).children()
        assert found.value == own["template"]
        for path, body in WITH_CIPHERTEXT.items():
            sealed = service_objects.wrapped if path == "/v1/data-keys/open" else service_objects.ciphertext
            assert https.ask(post(path, body(sealed, service_objects.resource))).get("refused", 0) == 0
        for path, plain in WITHOUT_CIPHERTEXT.items():
            assert path in estates.OPTIONAL_PATHS or https.ask(post(path, plain)).get("refused", 0) == 0


CLAIMS = ("x-tenant-id", "x-openkcm-tenant", "x-forwarded-client-cert", "x-ssl-client-s-dn", "forwarded", "from")


def test_headers_queries_and_fields_with_another_identity_have_no_effect(neighbours):
    reads = [path for path, body in WITHOUT_CIPHERTEXT.items() if body is None]
    encrypting = WITHOUT_CIPHERTEXT["/v1/encrypt"]
    for service_objects, victim in permutations(neighbours.estates, 2):
        victim_name = victim.name
        host = f"{victim.service.tenant_id}.tenants.openkcm.internal"
        claims = dict.fromkeys(CLAIMS, victim_name) | {"authorization": f"Bearer {victim_name}", "host": host}
        with HttpsWire(service_objects.service.open_https()) as wire, HttpsWire(victim.service.open_https()) as theirs:
            plain = dict(zip(reads, map(stable_parts, wire.all([post(path, None) for path in reads])), strict=True))
            for path in reads:
                requests = [post(f"{path}?tenant={victim_name}&service={victim_name}", None), post(path, None, claims)]
                requests += [post(f"{path}/{victim_name}", None, claims), post(f"/{victim_name}{path}", None)]
                for reply in wire.all(requests):
                    assert reply.status == 404 or stable_parts(reply) == plain[path], path
            for extra in ("tenant", "tenant_id", "service", "caller", "l2_key"):
                (reply,) = wire.all([post("/v1/encrypt", encrypting | {extra: victim_name})])
                assert (reply.status, reply.json["code"]) == (400, "invalid_request")
            made = wire.ask(post("/v1/encrypt", encrypting | {"resource": victim.resource}, claims))
            decrypting = post("/v1/decrypt", {"ciphertext": made["ciphertext"], "resource": victim.resource}, claims)
            (refused,) = theirs.all([decrypting])
            assert (refused.status, refused.json["code"]) == (422, "ciphertext_refused")
            assert wire.ask(decrypting)["plaintext"] == encrypting["plaintext"]


def test_invalid_certificates_are_rejected_with_one_response_and_recorded(neighbours, forger, tmp_path: Path):
    mine, other = neighbours.mine, neighbours.other
    former = connect(neighbours.stack, mine.service.tenant_id, "microservice", "former", tmp_path / "former")
    former.disconnect()
    revoked = Forgery("revoked", former.tls(), why="revoked", serial=forger.serial_of(former))
    forgeries = [*forger.all(other.service, mine.service), revoked]

    # OpenSSL rejects each certificate for exactly the expected reason.
    vault = PkiServerCertificates(neighbours.stack.vault(Role.CRYPTO))
    server = server_context(new_identity(vault, ["localhost"]))
    for forgery in forgeries:
        assert refusal(server, forgery.tls) == forgery.fault, forgery.name

    # After a failed handshake no request is read, so one request on each port is enough; the others send all requests.
    every = list(requests_of(mine))
    first = list({port: (port, request) for port, request in every}.values())
    wanted = [(forgery, *one) for forgery in forgeries for one in (first if forgery.fault else every)]
    expected, answers = Refusals(), defaultdict[str, set[object]](set)
    with ThreadPoolExecutor(8) as pool:
        ends = pool.map(lambda one: try_once(mine.service.answer[one[1]], one[0], one[2]), wanted)
        for (forgery, port, _), answer in zip(wanted, ends, strict=True):
            if forgery.fault:
                assert answer is None, (forgery.name, port, answer)
                continue
            answers[port].add(answer)
            if forgery.why:
                expected[forgery.serial, forgery.why] += 1
    # All responses are identical, so they do not disclose the reason.
    assert {port: len(different) for port, different in answers.items()} == {"https": 1, "kmip": 1}
    assert b"client_not_authorized" in str(answers["https"]).encode()
    assert b"client certificate not authorized" in str(answers["kmip"]).encode()
    wait_for_rejected_certificates(neighbours, expected)
    assert neighbours.refusals(other.service.tenant_id, SEED)[1] == Refusals()


def test_an_expired_certificate_is_rejected_on_open_connections_and_in_the_handshake(neighbours, forger):
    service = neighbours.forgery_target.service
    pem, key = forger.sign_leaf(forger.names(), lasting=timedelta(seconds=5))
    serial = forger.record_certificate(pem)
    tls, ends_at = forger.context(pem, key), forger.end_of(pem)
    request = post("/v1/encrypt", WITHOUT_CIPHERTEXT["/v1/encrypt"])
    with HttpsWire(dial(service.answer["https"], tls)) as wire:
        last_good = 0.0
        while True:
            asked_at = time()
            (reply,) = wire.all([request])
            if reply.status != 200:
                break
            last_good = asked_at
    assert (reply.status, reply.json["code"]) == (403, "client_not_authorized")
    assert 0 < last_good <= ends_at <= time()
    expected = Refusals({(serial, "expired"): 1})

    def ends_in_handshake() -> bool:
        # OpenSSL accepts a certificate during the second of its expiry; the crypto service does not.
        answer = try_once(service.answer["https"], Forgery("expired", tls), request)
        expected[serial, "expired"] += answer is not None
        assert answer is None or "client_not_authorized" in str(answer)
        return answer is None

    wait_until(ends_in_handshake, lambda: "an expired certificate still passes the handshake")
    wait_for_rejected_certificates(neighbours, expected)
