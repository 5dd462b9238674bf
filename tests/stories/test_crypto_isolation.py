"""Nothing of mine opens for anybody else, over either front, and nobody can even tell that it is there."""

import json
import ssl
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from itertools import permutations
from time import monotonic, time

import pytest

from config.secrets import Role
from crypto.endpoints import ENDPOINTS
from crypto.kmip.enums import Operation
from crypto.kmip.served import OPERATIONS
from crypto.kmip.tags import Tag
from crypto.tls import new_identity, server_context
from tenancy.audit import verify_chain
from tests.crypto.kmip.messages import batch_item
from tests.crypto.kmip.scene import a_name
from tests.stories import estates
from tests.stories.assault import HttpsAssault, KmipAssault, same
from tests.stories.attacks import Attacks, requests_of
from tests.stories.estates import ABOUT_NOTHING, ABOUT_OBJECTS, BY_NAME, SEARCHES, WITH_TEXT, WITHOUT_TEXT, Estate
from tests.stories.forgeries import Forger, Forgery, refusal, try_once
from tests.stories.kmip_wire import ask
from tests.stories.neighbours import OTHER, Neighbours, settle_all
from tests.stories.stack import wait_until
from tests.stories.wires import HttpsWire, dial, post
from vault.server_certificates import PkiServerCertificates

SEED = "2026-11-25"
Open = Callable[[], ssl.SSLSocket]


@pytest.fixture(scope="module")
def all_of_them(stack, acme, tmp_path_factory) -> Neighbours:
    return settle_all(stack, acme, tmp_path_factory.mktemp("isolation"))


@pytest.fixture(scope="module")
def forger(all_of_them, tmp_path_factory) -> Forger:
    return Forger(all_of_them.stack, all_of_them.scapegoat.service, tmp_path_factory.mktemp("forged"))


def test_nothing_that_can_be_asked_is_left_out():
    assert ABOUT_OBJECTS.keys() | BY_NAME.keys() | ABOUT_NOTHING | SEARCHES == OPERATIONS.keys()
    assert WITH_TEXT.keys() | WITHOUT_TEXT.keys() == {endpoint.path for endpoint in ENDPOINTS}


def test_no_service_reaches_anything_of_another(all_of_them, forger):
    """Each attacks all others; one more bears the name of another service in a certificate of its own."""
    scapegoat = all_of_them.scapegoat
    pem, key = forger.signed(forger.names(service=all_of_them.mine.service.name))
    forger.on_record(pem)
    masked = forger.context(pem, key)
    attackers: list[tuple[Estate, Open, Open]] = [
        *((one, one.service.open_kmip, one.service.open_https) for one in all_of_them.estates),
        (scapegoat, *(partial(dial, scapegoat.service.answer[front], masked) for front in ("kmip", "https"))),
    ]
    before = all_of_them.holdings()
    began, assaults = monotonic(), list[KmipAssault | HttpsAssault]()
    for estate, open_kmip, open_https in attackers:
        victims = [other for other in all_of_them.estates if other is not estate]
        seed = f"{SEED}.{estate.service.tenant_id[:4]}.{estate.service.name}"
        assaults.append(KmipAssault(estate, open_kmip, Attacks(estate, victims, seed), f"{seed}.k"))
        assaults.append(HttpsAssault(estate, open_https, Attacks(estate, victims, seed), f"{seed}.h"))
    with ThreadPoolExecutor(len(assaults)) as crowd:
        for outcome in crowd.map(lambda assault: assault.run(), assaults):
            all_of_them.outcome.add(outcome)
    print(all_of_them.outcome.table(), f"{monotonic() - began:.1f} s", sep="\n")  # noqa: T201 - a measurement
    assert all_of_them.outcome.successes == []
    assert all_of_them.outcome.differences == []
    assert sum(all_of_them.outcome.attempts.values()) >= 10_000
    assert all_of_them.holdings() == before


def test_what_is_refused_to_others_is_given_to_the_owner(all_of_them):
    """The same requests, each by whom it belongs to."""
    for estate in all_of_them.estates:
        with estate.service.open_kmip() as kmip, HttpsWire(estate.service.open_https()) as https:
            new = ask(kmip, estates.a_new_key(estate.service)).first(Tag.UNIQUE_IDENTIFIER)
            assert new is not None
            own = estate.objects | {"new": str(new.value)}
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


def test_saying_that_one_is_somebody_else_changes_nothing(all_of_them):
    """Headers, queries and fields that claim another tenant or service; what they make opens for the caller only."""
    reads = [path for path, body in WITHOUT_TEXT.items() if body is None]
    encrypting = WITHOUT_TEXT["/v1/encrypt"]
    for estate, victim in permutations(all_of_them.estates, 2):
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
            opening = post("/v1/decrypt", {"ciphertext": made["ciphertext"], "resource": victim.resource}, claims)
            (refused,) = theirs.all([opening])
            assert (refused.status, refused.json["code"]) == (422, "ciphertext_refused")
            assert wire.ask(opening)["plaintext"] == encrypting["plaintext"]


def test_a_certificate_that_is_not_right_in_every_way_opens_nothing(all_of_them, forger):
    """Every request of both fronts under every forgery, each on a connection of its own."""
    mine, other, former = all_of_them.mine, all_of_them.other, all_of_them.former
    former.disconnect()
    revoked = Forgery("revoked", former.tls(), why="revoked", serial=forger.serial_of(former))
    forgeries = [*forger.all(other.service, mine.service), revoked]

    # Each is wrong in the way that its name says and in no other.
    vault = PkiServerCertificates(all_of_them.stack.vault(Role.CRYPTO))
    server = server_context(new_identity(vault, ["localhost"]))
    for forgery in forgeries:
        assert refusal(server, forgery.tls) == forgery.fault, forgery.name

    began = monotonic()
    wanted = [(forgery, *request) for forgery in forgeries for one in (mine, other) for request in requests_of(one)]
    with ThreadPoolExecutor(8) as crowd:
        ends = crowd.map(lambda one: try_once(mine.service.answer[one[1]], one[0], one[2]), wanted)
        answers = defaultdict[str, set[object]](set)
        for (forgery, front, _), answer in zip(wanted, ends, strict=True):
            if forgery.fault:
                assert answer is None, (forgery.name, front, answer)
                continue
            answers[front].add(answer)
            if forgery.why:
                all_of_them.refused[forgery.serial, forgery.why] += 1
    print(f"{len(wanted)} attempts, {monotonic() - began:.1f} s")  # noqa: T201 - a measurement
    # One answer for all of them, byte for byte: what is wrong is not told.
    assert {front: len(different) for front, different in answers.items()} == {"https": 1, "kmip": 1}
    assert b"caller_refused" in str(answers["https"]).encode()
    assert b"this certificate opens nothing here" in str(answers["kmip"]).encode()


def test_a_certificate_that_expires_while_connected_opens_nothing_from_then_on(all_of_them, forger):
    service = all_of_them.scapegoat.service
    pem, key = forger.signed(forger.names(), lasting=timedelta(seconds=3))
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
    all_of_them.refused[serial, "expired"] += 1

    def ends_in_handshake() -> bool:
        # For OpenSSL the second in which a certificate ends still belongs to it; for us it does not.
        answer = try_once(service.answer["https"], Forgery("expired", tls), request)
        all_of_them.refused[serial, "expired"] += answer is not None
        assert answer is None or "caller_refused" in str(answer)
        return answer is None

    wait_until(ends_in_handshake, lambda: "an expired certificate still gets through the handshake")


def test_each_attempt_is_in_the_stream_of_whoever_tried_it_and_in_no_other(all_of_them, acme):
    """Those whose certificate is known or proven; the streams' chains hold."""
    expected, other = all_of_them.outcome.audited[acme], all_of_them.outcome.audited[OTHER]
    assert min(sum(expected.values()), sum(other.values())) > 5000

    def refused(tenant_id: str) -> tuple[Counter[tuple[str, str]], Counter[tuple[str, str]]]:
        attempts, certificates = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
        for record in (json.loads(one.record) for one in all_of_them.stream(tenant_id)):
            if record["name"] != "crypto.refused":
                continue
            if record["correlation_id"].startswith(SEED):
                attempts[record["actor"], record["correlation_id"]] += 1
            elif record["subject"].startswith("certificate "):
                serial, _, why = record["subject"].removeprefix("certificate ").partition(": ")
                certificates[serial, why] += 1
        return attempts, certificates

    for tenant_id, wanted in ((acme, expected), (OTHER, other)):
        wait_until(
            lambda one=tenant_id, many=wanted: sum(refused(one)[0].values()) >= sum(many.values()),
            lambda: "not all attempts are on record",
        )
    # The last of them were made a moment ago and arrive within a second.
    wait_until(
        lambda: sum(refused(acme)[1][key] for key in all_of_them.refused) >= sum(all_of_them.refused.values()),
        lambda: "not all refused certificates are on record",
    )
    attempts, certificates = refused(acme)
    assert attempts == expected
    assert {key: certificates[key] for key in all_of_them.refused} == all_of_them.refused
    assert refused(OTHER) == (other, Counter())
    for tenant_id in (acme, OTHER):
        last = verify_chain(all_of_them.stream(tenant_id))
        assert last is not None
        with all_of_them.stack.database().tenant_tx(tenant_id) as tx:
            head = tx.audit.head()
        assert head is not None
        assert head.seq >= last.seq
