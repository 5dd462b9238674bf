"""A tenant's identity sent along with each call, and what happens where the server does not look at it."""

import base64
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tenancy.errors import VaultRefused, WrongContext
from tests.contracts.tenant_keys import context_of
from tests.vault.gateway import Gateway, gateway
from tests.vault.server import Server
from vault.session import TokenSession, VaultRejected, VaultSession, token_session
from vault.tokens import InlineTenants, TenantTokens
from vault.transit import TransitTenantKeys

ENCRYPT = {"plaintext": "aGk=", "context": "aGk="}


@pytest.fixture
def keys(worker: VaultSession, tokens: TenantTokens) -> TransitTenantKeys:
    return TransitTenantKeys(worker, tokens)


@pytest.fixture
def tenants(crypto: VaultSession, server: Server) -> InlineTenants:
    return InlineTenants(crypto, server.identity_pem, "crypto")


def through(passing: Gateway, server: Server) -> TransitTenantKeys:
    nobody = token_session(passing.url, "")
    return TransitTenantKeys(nobody, InlineTenants(nobody, server.identity_pem, "crypto"))


def test_opening_is_one_call_and_no_login(
    server: Server, keys: TransitTenantKeys, new_tenant: Callable[[], str]
) -> None:
    tenant = new_tenant()
    keys.ensure(tenant)
    context = context_of(tenant)
    wrapped = keys.new_wrapped_key(context)
    with gateway(server.url, inline_auth=True) as passing:
        opened = through(passing, server).decrypt(context, wrapped)
    assert passing.seen == [f"POST transit/decrypt/{context.l2_key}"]
    assert opened == keys.decrypt(context, wrapped)


def test_a_server_without_it_gets_a_token_and_is_asked_once(
    server: Server, keys: TransitTenantKeys, new_tenant: Callable[[], str]
) -> None:
    tenant = new_tenant()
    keys.ensure(tenant)
    context = context_of(tenant)
    wrapped, decrypt = keys.new_wrapped_key(context), f"POST transit/decrypt/{context.l2_key}"
    with gateway(server.url, inline_auth=False) as passing:
        there = through(passing, server)
        assert there.decrypt(context, wrapped) == there.decrypt(context, wrapped) == keys.decrypt(context, wrapped)
        with pytest.raises(WrongContext):
            there.decrypt(context_of(tenant), "vault:v1:" + "A" * 80)
    assert passing.seen == [
        decrypt,
        "GET auth/token/lookup-self",
        "POST auth/jwt/login",
        decrypt,
        decrypt,
        decrypt,
    ]


@pytest.mark.parametrize("inline_auth", [True, False], ids=["inline", "by token"])
def test_threads_of_many_tenants_share_it(
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


def test_a_refusal_is_no_reason_to_try_another_way(
    server: Server, keys: TransitTenantKeys, new_tenant: Callable[[], str]
) -> None:
    mine, theirs = new_tenant(), new_tenant()
    keys.ensure(mine)
    keys.ensure(theirs)
    with gateway(server.url, inline_auth=True) as passing:
        tenants = InlineTenants(token_session(passing.url, ""), server.identity_pem, "crypto")
        path = f"transit/encrypt/{context_of(theirs).l2_key}"
        for _ in range(2):
            with pytest.raises(VaultRefused):
                tenants.session(mine).write(path, ENCRYPT)
    assert passing.seen == [f"POST {path}", "GET auth/token/lookup-self", f"POST {path}"]


@pytest.mark.parametrize("inline_auth", [True, False], ids=["inline", "by token"])
def test_one_tenants_identity_does_not_reach_another_tenants_key(
    server: Server,
    keys: TransitTenantKeys,
    new_tenant: Callable[[], str],
    inline_auth: bool,  # noqa: FBT001 - a parameter
) -> None:
    mine, theirs = new_tenant(), new_tenant()
    keys.ensure(mine)
    keys.ensure(theirs)
    target = context_of(theirs)
    context, stolen = base64.b64encode(target.encode()).decode(), keys.encrypt(target, b"secret")
    with gateway(server.url, inline_auth=inline_auth) as passing:
        tenants = InlineTenants(token_session(passing.url, ""), server.identity_pem, "crypto")
        for operation, data in (
            ("encrypt", {"plaintext": "aGk="}),
            ("decrypt", {"ciphertext": stolen}),
            ("datakey/wrapped", {}),
        ):
            with pytest.raises(VaultRefused):
                tenants.session(mine).write(f"transit/{operation}/{target.l2_key}", {"context": context, **data})
        own = context_of(mine).l2_key
        assert tenants.session(mine).write(f"transit/encrypt/{own}", ENCRYPT)["ciphertext"]
    assert keys.decrypt(target, stolen) == b"secret"


@pytest.mark.parametrize("name", ["*", "+", "../sys", "a*", 'x" { capabilities = ["sudo"] } path "'])
def test_a_name_that_is_a_pattern_opens_nothing(
    tenants: InlineTenants, keys: TransitTenantKeys, new_tenant: Callable[[], str], name: str
) -> None:
    tenant = new_tenant()
    keys.ensure(tenant)
    with pytest.raises((VaultRefused, VaultRejected)):
        tenants.session(name).write(f"transit/encrypt/{context_of(tenant).l2_key}", ENCRYPT)


def test_another_identity_is_not_believed(
    crypto: VaultSession, keys: TransitTenantKeys, new_tenant: Callable[[], str]
) -> None:
    tenant = new_tenant()
    keys.ensure(tenant)
    stranger = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    tenants = InlineTenants(crypto, stranger.decode(), "crypto")
    with pytest.raises(VaultRefused) as refused:
        tenants.session(tenant).write(f"transit/encrypt/{context_of(tenant).l2_key}", ENCRYPT)
    assert "public key" in refused.value.hint


def test_an_identity_that_is_not_shown_opens_nothing(
    crypto: VaultSession, keys: TransitTenantKeys, new_tenant: Callable[[], str]
) -> None:
    tenant = new_tenant()
    keys.ensure(tenant)
    for session in (crypto, crypto.for_token("")):
        with pytest.raises(VaultRefused):
            session.write(f"transit/encrypt/{context_of(tenant).l2_key}", ENCRYPT)


def test_a_disabled_entity_is_refused_at_once(
    tenants: InlineTenants, keys: TransitTenantKeys, admin: TokenSession, new_tenant: Callable[[], str]
) -> None:
    tenant = new_tenant()
    keys.ensure(tenant)
    path = f"transit/encrypt/{context_of(tenant).l2_key}"
    tenants.session(tenant).write(path, ENCRYPT)
    accessor = (admin.read("sys/auth/jwt") or {})["accessor"]
    entity = admin.write("identity/lookup/entity", {"alias_name": tenant, "alias_mount_accessor": accessor})["id"]
    admin.write(f"identity/entity/id/{entity}", {"disabled": True})
    with pytest.raises(VaultRefused):
        tenants.session(tenant).write(path, ENCRYPT)


def test_the_servers_audit_names_the_tenant_and_keeps_no_login(
    server: Server, tenants: InlineTenants, keys: TransitTenantKeys, new_tenant: Callable[[], str]
) -> None:
    tenant = new_tenant()
    keys.ensure(tenant)
    path = f"transit/encrypt/{context_of(tenant).l2_key}"
    tenants.session(tenant).write(path, ENCRYPT)
    lines = (server.folder / "logs" / "audit.log").read_text(encoding="utf-8").splitlines()
    uses = [line for line in lines if path in line]
    assert any(f"jwt-{tenant}" in line for line in uses)
    assert not [line for line in lines if "eyJhbGciOi" in line]
