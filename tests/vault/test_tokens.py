from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jwt
from joserfc.jwk import ECKey

from tenancy import ids
from tenancy.errors import VaultRefused
from tests.vault.server import Server
from vault.session import TokenSession, VaultCalls, VaultRejected, VaultSession
from vault.tokens import TenantIdentity, TenantTokens

ENCRYPT = {"plaintext": "aGk=", "context": "aGk="}


def test_a_token_is_short_and_bound_to_its_tenant(
    tokens: TenantTokens, admin: TokenSession, new_tenant: Callable[[], str]
) -> None:
    tenant = new_tenant()
    session = tokens.session(tenant)
    data = admin.write("auth/token/lookup", {"token": session._own_token})
    assert data["type"] == "batch"
    assert data["ttl"] <= 60
    assert data["policies"] == ["openkcm-tenant"]


def test_a_token_is_handed_out_again_for_the_same_tenant_alone(
    tokens: TenantTokens, new_tenant: Callable[[], str]
) -> None:
    tenant = new_tenant()
    assert tokens.session(tenant) is tokens.session(tenant)
    assert tokens.session(tenant) is not tokens.session(new_tenant())


def test_those_that_have_ended_are_forgotten_and_not_looked_for_at_every_login(
    tokens: TenantTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = {"client_token": "token", "lease_duration": 60}
    monkeypatch.setattr(tokens, "_log_in", lambda _: life)
    good = [tokens.session(f"good-{number}") for number in range(1000)]
    assert [tokens.session(f"good-{number}") for number in range(1000)] == good
    life["lease_duration"] = 0
    for number in range(3000):
        tokens.session(f"ended-{number}")
    assert len(tokens._kept) <= 2 * 1024


def test_a_later_login_of_the_same_process_changes_nothing_for_an_earlier_token(
    worker: VaultSession, tokens: TenantTokens, new_tenant: Callable[[], str]
) -> None:
    first, second = new_tenant(), new_tenant()
    for tenant in (first, second):
        worker.write(f"transit/keys/{ids.l2_key(tenant)}", {"type": "aes256-gcm96", "derived": True})
    early = tokens.session(first)
    tokens.session(second)
    early.write(f"transit/encrypt/{ids.l2_key(first)}", ENCRYPT)
    with pytest.raises(VaultRefused):
        early.write(f"transit/encrypt/{ids.l2_key(second)}", ENCRYPT)


def test_another_identity_is_not_believed(worker: VaultSession, new_tenant: Callable[[], str]) -> None:
    stranger = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with pytest.raises(VaultRefused):
        TenantTokens(worker, stranger.decode(), "worker").session(new_tenant())


@pytest.mark.parametrize(
    "wrong",
    [{"aud": "somebody-else"}, {"iss": "somebody-else"}, {"exp": 1_000_000_000}, {"tenant": None}],
    ids=["audience", "issuer", "expired", "no tenant"],
)
def test_a_jwt_that_is_not_for_this_is_not_taken(
    server: Server, worker: VaultSession, new_tenant: Callable[[], str], wrong: dict[str, object]
) -> None:
    identity = TenantIdentity(server.identity_pem, "worker")
    key = ECKey.import_key(server.identity_pem)
    claims = jwt.decode(identity.login(new_tenant())["jwt"], key).claims | wrong
    forged = jwt.encode({"alg": "ES256"}, {name: value for name, value in claims.items() if value is not None}, key)
    with pytest.raises(VaultRejected):
        _login(worker, forged)


@pytest.mark.parametrize("name", ["*", "+", "../sys", "a*", 'x" { capabilities = ["sudo"] } path "'])
def test_a_name_that_is_a_pattern_opens_nothing(server: Server, worker: VaultSession, name: str) -> None:
    worker.write("transit/keys/L2-a-victim-primary", {"type": "aes256-gcm96", "derived": True})
    session = TenantTokens(worker, server.identity_pem, "worker").session(name)
    with pytest.raises((VaultRefused, VaultRejected)):
        session.write("transit/encrypt/L2-a-victim-primary", ENCRYPT)


def _login(session: VaultCalls, token: str) -> object:
    return session.for_token("").request("POST", "auth/jwt/login", {"role": "tenant", "jwt": token})
