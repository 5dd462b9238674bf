"""Agents enrol with JWTs of an issuer in settings: what holds, and everything that must not."""

import base64
import hmac
import json
import logging
import time
from collections.abc import AsyncIterator

import httpx2
import pytest
from joserfc import jwk

from core.errors.requests import IssuerUnavailable
from marketplace.enrolment.jwks import MOST_BYTES, PAUSE_SECONDS, Issuers, parse_keys, read_keys
from tests.dashboard.scene import Scene
from tests.marketplace.conftest import assert_refused, running, serving
from tests.marketplace.enrolling import ACME, BETA, ISSUER, Issuer, Stand, a_csr, make_key, offer_of, sign


@pytest.fixture
def issuer(request) -> Issuer:
    """An issuer that signs by ES256, or by the algorithm that a test names."""
    return Issuer(algorithm=getattr(request, "param", "ES256"))


every_algorithm = pytest.mark.parametrize("issuer", ["RS256", "ES256", "EdDSA"], indirect=True)


@pytest.fixture
async def stand(field, door, issuer) -> AsyncIterator[Stand]:
    async with running(field, door, offer_of(issuer.issuers())) as endpoint:
        yield Stand(endpoint, Scene(field))


@every_algorithm
async def test_a_jwt_becomes_a_certificate(stand, issuer):
    enrolled = await stand.enrol(jwt=issuer.token())
    standing = await stand.settled(enrolled)
    assert (standing["state"], standing["tenant_id"], standing["service"]) == ("issued", ACME, "orders")
    told = (await stand.endpoint.client.get("/.well-known/openkcm")).json()["enrolment"]
    assert (told["proofs"], told["issuers"]) == (["join_token", "jwt"], [ISSUER])
    [record] = [record for record in stand.audited() if record["name"] == "enrolment.accepted"]
    assert record["details"]["proof"] == "jwt"


def hostile(issuer: Issuer) -> dict[str, str]:
    """Return tokens that must prove nothing, by what is wrong with them."""
    now = int(time.time())
    stranger = make_key(issuer.algorithm)
    good = issuer.token()
    header, payload, signature = good.split(".")
    public = issuer.key.as_pem(private=False)
    none = b64(b'{"alg":"none","typ":"JWT"}')
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    raw = json.dumps(claims | {"jti": "raw"})
    twice = raw.replace('"openkcm_tenant"', f'"openkcm_tenant": "{BETA}", "openkcm_tenant"')
    infinite = raw.replace(str(claims["exp"]), "Infinity")
    return {
        "alg none": f"{none}.{payload}.",
        "alg none, signed": f"{none}.{payload}.{signature}",
        "HS256 with the public key": hs256(payload, public),
        "no signature": f"{header}.{payload}.",
        "another's signature": issuer.token(key=stranger),
        "altered": f"{header}.{payload[:-2]}AA.{signature}",
        "an issuer nobody knows": issuer.token(iss="https://evil.example"),
        "an issuer with a slash more": issuer.token(iss=f"{ISSUER}/"),
        "no issuer": issuer.token(iss=None),
        "a list of issuers": issuer.token(iss=[ISSUER]),
        "another audience": issuer.token(aud="vault"),
        "no audience": issuer.token(aud=None),
        "other audiences": issuer.token(aud=["vault", "openkcm2"]),
        "expired": issuer.token(iat=now - 900, nbf=now - 900, exp=now - 120),
        "not yet": issuer.token(nbf=now + 300),
        "issued in the future": issuer.token(iat=now + 300, exp=now + 900),
        "without an end": issuer.token(exp=None),
        "without a beginning": issuer.token(iat=None, nbf=None),
        "for a year": issuer.token(exp=now + 366 * 86400),
        "an end that is a text": issuer.token(exp=str(now + 600)),
        "an end that is true": issuer.token(exp=True),
        "an infinite end": sign({}, infinite.encode(), issuer.key, issuer.algorithm),
        "a claim twice": sign({}, twice.encode(), issuer.key, issuer.algorithm),
        "no tenant": issuer.token(openkcm_tenant=None),
        "no service": issuer.token(openkcm_service=None),
        "tenants": issuer.token(openkcm_tenant=[ACME]),
        "the platform's own tenant": issuer.token(openkcm_tenant="openkcm-canary"),
        "all tenants": issuer.token(openkcm_tenant="*"),
        "another service than asked for": issuer.token(openkcm_service="another"),
        "a key in the header": issuer.token(key=stranger, header={"jwk": stranger.as_dict(private=False)}),
        "an address in the header": issuer.token(header={"jku": "https://evil.example/keys"}),
        "a critical header": issuer.token(header={"crit": ["b64"], "b64": True}),
        "an unknown key id": issuer.token(header={"kid": "unknown"}),
        "another type": issuer.token(header={"typ": "secevent+jwt"}),
        "a list": sign({}, b"[]", issuer.key, issuer.algorithm),
        "nonsense": "a.b.c",
        "not a JWT": "a",
        "long": issuer.token(pad="x" * 8192),
    }


def hs256(payload: str, public: bytes) -> str:
    """Sign with the public key as if it were a shared secret."""
    signed = b64(b'{"alg":"HS256","typ":"JWT"}') + "." + payload
    return f"{signed}.{b64(hmac.digest(public, signed.encode(), 'sha256'))}"


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@pytest.mark.parametrize("issuer", ["RS256", pytest.param("ES256", marks=pytest.mark.full)], indirect=True)
async def test_every_hostile_token_is_refused_alike_and_makes_nothing(field, door, issuer):
    tokens, texts = hostile(issuer), set()
    scene = Scene(field)
    offer = offer_of(issuer.issuers())
    stands = list(tokens.items())
    # A new process for every few, because one that guesses on and on is not listened to.
    for begin in range(0, len(stands), 15):
        async with running(field, door, offer) as endpoint:
            if begin == 0:
                stand = Stand(endpoint, scene)
            stand.endpoint = endpoint
            for name, token in stands[begin : begin + 15]:
                answer = await stand.enrol(jwt=token)
                assert answer.status_code == 401, name
                assert_refused(answer, 401, "proof_refused")
                texts.add(answer.text)
    assert len(texts) == 1
    assert stand.endpoint.count("enrolment") == stand.endpoint.count("service_request") == 0
    assert door.asked == []
    # Of what was truly signed and for another service the tenant hears; of what anybody can write it does not.
    assert [record["outcome"] for record in stand.audited()] == ["refused"]


async def test_the_claims_decide_the_tenant_whatever_the_body_says(stand, issuer):
    standing = await stand.settled(
        await stand.enrol(jwt=issuer.token(openkcm_tenant=BETA), tenant=ACME, tenant_id=ACME, customer=ACME)
    )
    assert standing["tenant_id"] == BETA
    assert stand.audited(ACME) == []


async def test_an_issuer_for_some_tenants_speaks_for_no_other(field, door, issuer):
    async with running(field, door, offer_of(issuer.issuers(tenants=(ACME,)))) as endpoint:
        stand = Stand(endpoint, Scene(field))
        assert (await stand.enrol(jwt=issuer.token())).status_code == 202
        assert_refused(await stand.enrol(jwt=issuer.token(openkcm_tenant=BETA)), 401, "proof_refused")


async def test_one_issuers_key_signs_nothing_of_anothers(field, door):
    one, other = Issuer("https://one.example"), Issuer("https://other.example")

    async def read(place: str) -> bytes:
        return await (one if place == "/one" else other).read(place)

    known = Issuers(
        {
            one.name: one.issuers().get(one.name).model_copy(update={"jwks": "/one"}),
            other.name: other.issuers().get(other.name).model_copy(update={"jwks": "/other", "tenants": (BETA,)}),
        },
        read,
    )
    async with running(field, door, offer_of(known)) as endpoint:
        stand = Stand(endpoint, Scene(field))
        assert_refused(await stand.enrol(jwt=one.token(key=other.key)), 401, "proof_refused")
        assert (await stand.enrol(jwt=one.token())).status_code == 202
        assert (await stand.enrol(jwt=other.token(openkcm_tenant=BETA))).status_code == 202


async def test_a_token_that_was_seen_on_its_way_certifies_no_other_key(stand, issuer):
    for number, jti in enumerate(("a-jti", None), start=1):
        token, csr = issuer.token(jti=jti), a_csr()
        first = await stand.enrol(csr, jwt=token)
        await stand.settled(first)
        assert (await stand.enrol(csr, jwt=token)).text == first.text
        assert_refused(await stand.enrol(jwt=token), 401, "proof_refused")
        assert stand.endpoint.count("enrolment") == number
    assert_refused(await stand.enrol(jwt=issuer.token(jti="a-jti")), 401, "proof_refused")


async def test_no_jwt_is_in_a_row_a_log_or_an_answer(stand, issuer, caplog):
    with caplog.at_level(logging.DEBUG):
        good, bad = issuer.token(), issuer.token(aud="vault")
        await stand.settled(await stand.enrol(jwt=good))
        refused = await stand.enrol(jwt=bad)
    for token in (good, bad):
        for part in token.split(".")[1:]:
            assert part not in stand.everything()
            assert part not in caplog.text
            assert part not in refused.text


async def test_a_valid_token_is_not_good_for_a_flood(stand, issuer):
    answers = [await stand.enrol(jwt=issuer.token()) for _ in range(34)]
    assert {answer.status_code for answer in answers[:30]} == {202}
    assert answers[-1].status_code == 429


# ── the issuer's keys ────────────────────────────────────────────────────────────────────────────────────────────────


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_keys_are_read_once_in_minutes_and_an_unknown_id_leads_to_one_more_read_in_a_while():
    issuer, clock = Issuer(), Clock()
    known = Issuers({ISSUER: issuer.issuers().get(ISSUER)}, issuer.read, clock)
    for _ in range(5):
        assert len(await known.keys(ISSUER, "ES256", None)) == 1
    assert issuer.reads == 1
    clock.now += PAUSE_SECONDS + 1
    for _ in range(50):
        assert await known.keys(ISSUER, "ES256", "invented") == []
    assert issuer.reads == 2
    assert await known.keys(ISSUER, "RS256", None) == []


async def test_keys_that_cannot_be_read_again_are_believed_for_an_hour():
    issuer, clock = Issuer(), Clock()
    known = Issuers({ISSUER: issuer.issuers().get(ISSUER)}, issuer.read, clock)
    await known.keys(ISSUER, "ES256", None)
    issuer.answer = httpx2.ConnectError("down")
    clock.now += 1800
    assert len(await known.keys(ISSUER, "ES256", None)) == 1
    clock.now += 1900
    with pytest.raises(IssuerUnavailable):
        await known.keys(ISSUER, "ES256", None)
    issuer.answer = None
    clock.now += PAUSE_SECONDS + 1
    assert len(await known.keys(ISSUER, "ES256", None)) == 1


async def test_an_issuer_whose_answer_is_no_key_set_is_unavailable(field, door):
    issuer = Issuer()
    for answer in (b"", b"[]", b"{}", b'{"keys": 1}', b"[" * 50_000, json.dumps({"keys": [{}] * 101}).encode()):
        issuer.answer = answer
        known = Issuers({ISSUER: issuer.issuers().get(ISSUER)}, issuer.read)
        with pytest.raises(IssuerUnavailable):
            await known.keys(ISSUER, "ES256", None)
    async with running(field, door, offer_of(issuer.issuers())) as endpoint:
        refused = await Stand(endpoint, Scene(field)).enrol(jwt=issuer.token())
        assert_refused(refused, 503, "issuer_unavailable")
        assert ISSUER not in refused.text


def test_only_public_keys_for_signatures_of_enough_bits_are_taken():
    ec, rsa, small = make_key("ES256"), make_key("RS256"), make_key("RS256").as_dict(private=False)
    small["n"] = small["n"][: len(small["n"]) // 2]
    public = ec.as_dict(private=False)
    odd = [
        ec.as_dict(private=True),
        small,
        jwk.OctKey.generate_key(256).as_dict(),
        jwk.ECKey.generate_key("P-384").as_dict(private=False),
        jwk.OKPKey.generate_key("X25519").as_dict(private=False),
        public | {"use": "enc"},
        public | {"kid": 7},
        public | {"x": "AAAA"},
        public | {"kty": "RSA"},
        "text",
        None,
    ]
    assert parse_keys(json.dumps({"keys": odd}).encode()) == []
    assert len(parse_keys(json.dumps({"keys": [public, rsa.as_dict(private=False), *odd]}).encode())) == 2


async def test_keys_are_read_from_a_file_with_a_bound(tmp_path):
    file = tmp_path / "keys.json"
    file.write_bytes(b"x" * MOST_BYTES)
    assert len(await read_keys(str(file))) == MOST_BYTES
    file.write_bytes(b"x" * (MOST_BYTES + 1))
    with pytest.raises(ValueError, match="too long"):
        await read_keys(str(file))
    with pytest.raises(OSError, match="nowhere"):
        await read_keys(str(tmp_path / "nowhere"))


@pytest.mark.integration
async def test_a_read_follows_no_redirect_and_limits_the_answer():
    async def answering(scope, _receive, send) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] == "/redirect":
            headers = [(b"location", b"/keys")]
            await send({"type": "http.response.start", "status": 302, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/endless":
            for _ in range(MOST_BYTES // 1024 + 2):
                await send({"type": "http.response.body", "body": b"x" * 1024, "more_body": True})
        await send({"type": "http.response.body", "body": b'{"keys": []}'})

    async with serving(answering) as at:
        assert await read_keys(f"{at}/keys") == b'{"keys": []}'
        with pytest.raises(ValueError, match="200"):
            await read_keys(f"{at}/redirect")
        with pytest.raises(ValueError, match="too long"):
            await read_keys(f"{at}/endless")
