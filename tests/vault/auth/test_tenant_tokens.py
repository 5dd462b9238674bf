from collections.abc import Callable

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey

from core import names as ids
from core.errors.platform import VaultRefused
from tests.vault.server import Server
from vault.auth.client import TokenSession, VaultRejected, VaultSession
from vault.auth.tenant_tokens import TenantIdentity, TenantTokens

ENCRYPT = {"plaintext": "aGk=", "context": "aGk="}


def test_a_token_is_short_and_bound_to_its_tenant(tokens: TenantTokens, admin: TokenSession, tenant: str) -> None:
    session = tokens.session(tenant)
    data = admin.write("auth/token/lookup", {"token": session._own_token})
    assert data["type"] == "batch"
    assert data["ttl"] <= 60
    assert data["policies"] == ["openkcm-tenant"]


def test_a_token_is_cached_for_its_own_tenant_alone(
    tokens: TenantTokens, tenant: str, new_tenant: Callable[[], str]
) -> None:
    assert tokens.session(tenant) is tokens.session(tenant)
    assert tokens.session(tenant) is not tokens.session(new_tenant())


def test_expired_tokens_leave_the_cache(tokens: TenantTokens, monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.mark.parametrize(
    "wrong",
    [{"aud": "other"}, {"iss": "other"}, {"exp": 1_000_000_000}, {"tenant": None}],
    ids=["audience", "issuer", "expired", "no tenant"],
)
def test_jwt_with_wrong_claims_is_rejected(
    server: Server, worker: VaultSession, tenant: str, wrong: dict[str, object]
) -> None:
    identity = TenantIdentity(server.identity_pem, "worker")
    key = ECKey.import_key(server.identity_pem)
    claims = jwt.decode(identity.login(tenant)["jwt"], key).claims | wrong
    forged = jwt.encode({"alg": "ES256"}, {name: value for name, value in claims.items() if value is not None}, key)
    with pytest.raises(VaultRejected):
        worker.for_token("").request("POST", "auth/jwt/login", {"role": "tenant", "jwt": forged})
