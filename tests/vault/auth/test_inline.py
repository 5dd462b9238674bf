"""A tenant's identity in each call, and the fallback for a server without inline authentication."""

import base64
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from core.errors.keys import WrongContext
from core.errors.platform import VaultRefused
from core.keys.encryption_context import EncryptionContext
from tests.vault.contexts import context_of
from tests.vault.gateway import Gateway, gateway
from tests.vault.server import Server
from vault.auth.client import TokenSession, VaultRejected, VaultSession, token_session
from vault.auth.tenant_tokens import InlineTenants, TenantTokens
from vault.transit.tenant_keys import TransitTenantKeys

ENCRYPT = {"plaintext": "aGk=", "context": "aGk="}


@pytest.fixture
def keys(worker: VaultSession, tokens: TenantTokens) -> TransitTenantKeys:
    return TransitTenantKeys(worker, tokens)


@pytest.fixture
def context(keys: TransitTenantKeys, tenant: str) -> EncryptionContext:
    """Return a context of a tenant with a key."""
    keys.ensure(tenant)
    return context_of(tenant)


@pytest.fixture
def tenants(crypto: VaultSession, server: Server) -> InlineTenants:
    return InlineTenants(crypto, server.identity_pem, "crypto")


def through(passing: Gateway, server: Server) -> TransitTenantKeys:
    unauthenticated = token_session(passing.url, "")
    return TransitTenantKeys(unauthenticated, InlineTenants(unauthenticated, server.identity_pem, "crypto"))


def test_decrypt_is_one_request_and_no_login(
    server: Server, keys: TransitTenantKeys, context: EncryptionContext
) -> None:
    wrapped = keys.new_wrapped_key(context)
    with gateway(server.url, inline_auth=True) as passing:
        opened = through(passing, server).decrypt(context, wrapped)
    assert passing.seen == [f"POST transit/decrypt/{context.l2_key}"]
    assert opened == keys.decrypt(context, wrapped)


def test_server_without_inline_authentication_is_tested_once_and_gets_a_token(
    server: Server, keys: TransitTenantKeys, context: EncryptionContext
) -> None:
    wrapped, decrypt = keys.new_wrapped_key(context), f"POST transit/decrypt/{context.l2_key}"
    with gateway(server.url, inline_auth=False) as passing:
        there = through(passing, server)
        assert there.decrypt(context, wrapped) == there.decrypt(context, wrapped) == keys.decrypt(context, wrapped)
        with pytest.raises(WrongContext):
            there.decrypt(context, "vault:v1:" + "A" * 80)
    assert passing.seen == [
        decrypt,
        "GET auth/token/lookup-self",
        "POST auth/jwt/login",
        decrypt,
        decrypt,
        decrypt,
    ]


@pytest.mark.parametrize("inline_auth", [True, False], ids=["inline", "by token"])
def test_threads_of_many_tenants_share_the_sessions(
    server: Server,
    keys: TransitTenantKeys,
    new_tenant: Callable[[], str],
    inline_auth: bool,  # noqa: FBT001 - a parameter
) -> None:
    contexts = [context_of(new_tenant()) for _ in range(4)]
    wrapped = []
    for context in contexts:
        keys.ensure(context.tenant_id)
        wrapped.append(keys.encrypt(context, context.tenant_id.encode()))
    with gateway(server.url, inline_auth=inline_auth) as passing, ThreadPoolExecutor(8) as pool:
        there = through(passing, server)
        opened = list(pool.map(there.decrypt, contexts * 8, wrapped * 8))
    assert opened == [context.tenant_id.encode() for context in contexts] * 8


def test_denial_causes_no_fallback(server: Server, context: EncryptionContext, new_tenant: Callable[[], str]) -> None:
    mine = new_tenant()
    with gateway(server.url, inline_auth=True) as passing:
        tenants = InlineTenants(token_session(passing.url, ""), server.identity_pem, "crypto")
        path = f"transit/encrypt/{context.l2_key}"
        for _ in range(2):
            with pytest.raises(VaultRefused):
                tenants.session(mine).write(path, ENCRYPT)
    assert passing.seen == [f"POST {path}", "GET auth/token/lookup-self", f"POST {path}"]


@pytest.mark.parametrize("inline_auth", [True, False], ids=["inline", "by token"])
def test_one_tenants_identity_does_not_reach_another_tenants_key(
    server: Server,
    keys: TransitTenantKeys,
    context: EncryptionContext,
    new_tenant: Callable[[], str],
    inline_auth: bool,  # noqa: FBT001 - a parameter
) -> None:
    mine = new_tenant()
    keys.ensure(mine)
    encoded, stolen = base64.b64encode(context.encode()).decode(), keys.encrypt(context, b"secret")
    with gateway(server.url, inline_auth=inline_auth) as passing:
        tenants = InlineTenants(token_session(passing.url, ""), server.identity_pem, "crypto")
        for operation, data in (
            ("encrypt", {"plaintext": "aGk="}),
            ("decrypt", {"ciphertext": stolen}),
            ("rewrap", {"batch_input": [{"ciphertext": stolen, "context": encoded}]}),
            ("datakey/wrapped", {}),
        ):
            with pytest.raises(VaultRefused):
                tenants.session(mine).write(f"transit/{operation}/{context.l2_key}", {"context": encoded, **data})
        own = context_of(mine).l2_key
        assert tenants.session(mine).write(f"transit/encrypt/{own}", ENCRYPT)["ciphertext"]
    assert keys.decrypt(context, stolen) == b"secret"


@pytest.mark.parametrize("name", ["*", "+", "../sys", "a*", 'x" { capabilities = ["sudo"] } path "'])
@pytest.mark.parametrize("sessions", ["tenants", "tokens"])
def test_a_tenant_id_that_is_a_pattern_reaches_no_key(
    request: pytest.FixtureRequest, context: EncryptionContext, sessions: str, name: str
) -> None:
    session = request.getfixturevalue(sessions).session(name)
    with pytest.raises((VaultRefused, VaultRejected)):
        session.write(f"transit/encrypt/{context.l2_key}", ENCRYPT)


@pytest.mark.parametrize("how", [InlineTenants, TenantTokens])
def test_another_identity_is_rejected(
    crypto: VaultSession, context: EncryptionContext, how: type[InlineTenants | TenantTokens]
) -> None:
    other = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with pytest.raises(VaultRefused) as refused:
        how(crypto, other.decode(), "crypto").session(context.tenant_id).write(
            f"transit/encrypt/{context.l2_key}", ENCRYPT
        )
    assert "public key" in refused.value.hint


def test_a_request_without_an_identity_is_denied(crypto: VaultSession, context: EncryptionContext) -> None:
    for session in (crypto, crypto.for_token("")):
        with pytest.raises(VaultRefused):
            session.write(f"transit/encrypt/{context.l2_key}", ENCRYPT)


def test_disabled_entity_is_denied_at_once(
    tenants: InlineTenants, admin: TokenSession, context: EncryptionContext
) -> None:
    path = f"transit/encrypt/{context.l2_key}"
    tenants.session(context.tenant_id).write(path, ENCRYPT)
    accessor = (admin.read("sys/auth/jwt") or {})["accessor"]
    entity = admin.write("identity/lookup/entity", {"alias_name": context.tenant_id, "alias_mount_accessor": accessor})[
        "id"
    ]
    admin.write(f"identity/entity/id/{entity}", {"disabled": True})
    with pytest.raises(VaultRefused):
        tenants.session(context.tenant_id).write(path, ENCRYPT)


def test_servers_audit_log_names_the_tenant_and_contains_no_login(
    server: Server, tenants: InlineTenants, context: EncryptionContext
) -> None:
    path = f"transit/encrypt/{context.l2_key}"
    tenants.session(context.tenant_id).write(path, ENCRYPT)
    lines = (server.folder / "logs" / "audit.log").read_text(encoding="utf-8").splitlines()
    uses = [line for line in lines if path in line]
    assert any(f"jwt-{context.tenant_id}" in line for line in uses)
    assert not [line for line in lines if "eyJhbGciOi" in line]
