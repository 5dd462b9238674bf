"""Enrolment with JWTs of a configured issuer: valid ones, and every attack that must fail."""

import asyncio
import base64
import hmac
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import suppress

import httpx2
import pytest
from joserfc import jwk

from config.settings import WorkloadIssuer
from core.errors.requests import IssuerUnavailable
from marketplace.enrolment.jwks import MOST_BYTES, PAUSE_SECONDS, Issuers, parse_keys, read_keys
from tests.dashboard.scene import Scene
from tests.dripping import TLS_RECORD
from tests.marketplace.conftest import assert_refused, running, serving
from tests.marketplace.enrolling import ACME, BETA, ISSUER, Issuer, Scenario, a_csr, make_key, offer_of, sign


@pytest.fixture
def issuer(request) -> Issuer:
    """An issuer that signs with ES256, or with the algorithm that a test names."""
    return Issuer(algorithm=getattr(request, "param", "ES256"))


every_algorithm = pytest.mark.parametrize("issuer", ["RS256", "ES256", "EdDSA"], indirect=True)


@pytest.fixture
async def scenario(field, workflow_client, issuer) -> AsyncIterator[Scenario]:
    async with running(field, workflow_client, offer_of(issuer.issuers())) as endpoint:
        yield Scenario(endpoint, Scene(field))


@every_algorithm
async def test_jwt_is_exchanged_for_a_certificate(scenario, issuer):
    enrolled = await scenario.enrol(jwt=issuer.token())
    status = await scenario.result(enrolled)
    assert (status["state"], status["tenant_id"], status["service"]) == ("issued", ACME, "orders")
    offer = (await scenario.endpoint.client.get("/.well-known/openkcm")).json()["enrolment"]
    assert (offer["proofs"], offer["issuers"]) == (["join_token", "jwt"], [ISSUER])
    [record] = [record for record in scenario.audited() if record["name"] == "enrolment.accepted"]
    assert record["details"]["proof"] == "jwt"


def hostile(issuer: Issuer) -> dict[str, str]:
    """Return tokens that must be rejected, by their flaw."""
    now = int(time.time())
    unknown = make_key(issuer.algorithm)
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
        "another's signature": issuer.token(key=unknown),
        "altered": f"{header}.{payload[:-2]}AA.{signature}",
        "an unknown issuer": issuer.token(iss="https://evil.example"),
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
        "a key in the header": issuer.token(key=unknown, header={"jwk": unknown.as_dict(private=False)}),
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
async def test_hostile_tokens_get_the_same_rejection_and_store_nothing(field, workflow_client, issuer):
    tokens, texts = hostile(issuer), set()
    scene = Scene(field)
    offer = offer_of(issuer.issuers())
    cases = list(tokens.items())
    # A new process for every few tokens, because an address with many failures is rejected for a while.
    for begin in range(0, len(cases), 15):
        async with running(field, workflow_client, offer) as endpoint:
            if begin == 0:
                scenario = Scenario(endpoint, scene)
            scenario.endpoint = endpoint
            for name, token in cases[begin : begin + 15]:
                answer = await scenario.enrol(jwt=token)
                assert answer.status_code == 401, name
                assert_refused(answer, 401, "attestation_rejected")
                texts.add(answer.text)
    assert len(texts) == 1
    assert scenario.endpoint.count("enrolment") == scenario.endpoint.count("service_request") == 0
    assert workflow_client.asked == []
    # Only the properly signed token for another service is logged: anyone can write the others.
    assert [record["outcome"] for record in scenario.audited()] == ["refused"]


async def test_the_claims_determine_the_tenant_regardless_of_the_body(scenario, issuer):
    status = await scenario.result(
        await scenario.enrol(jwt=issuer.token(openkcm_tenant=BETA), tenant=ACME, tenant_id=ACME, customer=ACME)
    )
    assert status["tenant_id"] == BETA
    assert scenario.audited(ACME) == []


async def test_issuer_restricted_to_tenants_is_rejected_for_others(field, workflow_client, issuer):
    async with running(field, workflow_client, offer_of(issuer.issuers(tenants=(ACME,)))) as endpoint:
        scenario = Scenario(endpoint, Scene(field))
        assert (await scenario.enrol(jwt=issuer.token())).status_code == 202
        assert_refused(await scenario.enrol(jwt=issuer.token(openkcm_tenant=BETA)), 401, "attestation_rejected")


async def test_key_of_one_issuer_does_not_verify_tokens_of_another(field, workflow_client):
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
    async with running(field, workflow_client, offer_of(known)) as endpoint:
        scenario = Scenario(endpoint, Scene(field))
        assert_refused(await scenario.enrol(jwt=one.token(key=other.key)), 401, "attestation_rejected")
        assert (await scenario.enrol(jwt=one.token())).status_code == 202
        assert (await scenario.enrol(jwt=other.token(openkcm_tenant=BETA))).status_code == 202


async def test_intercepted_token_is_rejected_for_another_key(scenario, issuer):
    for number, jti in enumerate(("a-jti", None), start=1):
        token, csr = issuer.token(jti=jti), a_csr()
        first = await scenario.enrol(csr, jwt=token)
        await scenario.result(first)
        assert (await scenario.enrol(csr, jwt=token)).text == first.text
        assert_refused(await scenario.enrol(jwt=token), 401, "attestation_rejected")
        assert scenario.endpoint.count("enrolment") == number
    assert_refused(await scenario.enrol(jwt=issuer.token(jti="a-jti")), 401, "attestation_rejected")


async def test_jwt_is_absent_from_rows_logs_and_responses(scenario, issuer, caplog):
    with caplog.at_level(logging.DEBUG):
        good, bad = issuer.token(), issuer.token(aud="vault")
        await scenario.result(await scenario.enrol(jwt=good))
        refused = await scenario.enrol(jwt=bad)
    for token in (good, bad):
        for part in token.split(".")[1:]:
            assert part not in scenario.everything()
            assert part not in caplog.text
            assert part not in refused.text


async def test_valid_tokens_are_rate_limited_per_service(scenario, issuer):
    answers = [await scenario.enrol(jwt=issuer.token()) for _ in range(34)]
    assert {answer.status_code for answer in answers[:30]} == {202}
    assert answers[-1].status_code == 429


# ── the issuer's keys ────────────────────────────────────────────────────────────────────────────────────────────────


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_keys_are_cached_and_unknown_key_id_causes_at_most_one_read_per_pause():
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


async def test_cached_keys_are_used_for_an_hour_if_the_issuer_is_unavailable():
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


async def test_issuer_with_malformed_key_set_is_unavailable(field, workflow_client):
    issuer = Issuer()
    for answer in (b"", b"[]", b"{}", b'{"keys": 1}', b"[" * 50_000, json.dumps({"keys": [{}] * 101}).encode()):
        issuer.answer = answer
        known = Issuers({ISSUER: issuer.issuers().get(ISSUER)}, issuer.read)
        with pytest.raises(IssuerUnavailable):
            await known.keys(ISSUER, "ES256", None)
    async with running(field, workflow_client, offer_of(issuer.issuers())) as endpoint:
        refused = await Scenario(endpoint, Scene(field)).enrol(jwt=issuer.token())
        assert_refused(refused, 503, "issuer_unavailable")
        assert ISSUER not in refused.text


@pytest.mark.integration
async def test_issuer_that_drips_a_tls_handshake_is_unavailable_and_its_connection_is_closed():
    closed = asyncio.Event()

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(TLS_RECORD)
        with suppress(OSError):
            while not reader.at_eof():
                writer.write(b".")
                with suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(1000), 0.2)
        closed.set()
        writer.close()

    async with await asyncio.start_server(drip, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        known = Issuers({ISSUER: WorkloadIssuer(jwks=f"https://127.0.0.1:{port}/keys")})
        with pytest.raises(IssuerUnavailable):
            await known.keys(ISSUER, "ES256", None)
        await asyncio.wait_for(closed.wait(), 3)


def test_only_public_signature_keys_of_sufficient_size_are_used():
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


async def test_key_file_has_a_size_limit(tmp_path):
    file = tmp_path / "keys.json"
    file.write_bytes(b"x" * MOST_BYTES)
    assert len(await read_keys(str(file))) == MOST_BYTES
    file.write_bytes(b"x" * (MOST_BYTES + 1))
    with pytest.raises(ValueError, match="too long"):
        await read_keys(str(file))
    with pytest.raises(OSError, match="nowhere"):
        await read_keys(str(tmp_path / "nowhere"))


@pytest.mark.integration
async def test_key_request_follows_no_redirect_and_limits_the_response():
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
