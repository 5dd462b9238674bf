import base64
from collections.abc import Callable
from threading import Barrier, Thread

import pytest

from tenancy import ids
from tenancy.errors import ConflictingResource, VaultRefused
from tests.contracts.tenant_keys import TenantKeysContract, context_of
from tests.vault.server import Server
from vault.interfaces import TransitKey
from vault.session import TokenSession, VaultSession
from vault.tokens import InlineTenants, TenantTokens
from vault.transit import TransitTenantKeys


@pytest.fixture
def keys(worker: VaultSession, tokens: TenantTokens) -> TransitTenantKeys:
    return TransitTenantKeys(worker, tokens)


class TestTransitTenantKeys(TenantKeysContract):
    pass


class TestInlineTransitTenantKeys(TenantKeysContract):
    @pytest.fixture
    def keys(self, server: Server, worker: VaultSession) -> TransitTenantKeys:
        return TransitTenantKeys(worker, InlineTenants(worker, server.identity_pem, "crypto"))


@pytest.mark.parametrize(
    "existing",
    [
        {"type": "ed25519"},
        {"type": "aes256-gcm96", "derived": False},
        {"type": "aes256-gcm96", "derived": True, "exportable": True},
        {"type": "aes256-gcm96", "derived": True, "convergent_encryption": True},
        {"type": "aes256-gcm96", "derived": True, "allow_plaintext_backup": True},
    ],
    ids=["another type", "not derived", "exportable", "convergent", "plaintext backup"],
)
def test_ensure_refuses_a_key_that_is_not_what_was_asked_for(
    keys: TransitTenantKeys, admin: TokenSession, new_tenant: Callable[[], str], existing: dict[str, object]
) -> None:
    tenant = new_tenant()
    before = admin.write(f"transit/keys/{ids.l2_key(tenant)}", existing)
    with pytest.raises(ConflictingResource):
        keys.ensure(tenant)
    assert admin.read(f"transit/keys/{ids.l2_key(tenant)}") == before


def test_ensure_refuses_a_key_that_may_be_deleted(
    keys: TransitTenantKeys, admin: TokenSession, new_tenant: Callable[[], str]
) -> None:
    tenant = new_tenant()
    keys.ensure(tenant)
    admin.write(f"transit/keys/{ids.l2_key(tenant)}/config", {"deletion_allowed": True})
    with pytest.raises(ConflictingResource):
        keys.ensure(tenant)


def test_two_threads_make_one_key(keys: TransitTenantKeys, new_tenant: Callable[[], str]) -> None:
    tenant, together, made = new_tenant(), Barrier(2), list[TransitKey]()

    def ensure() -> None:
        together.wait()
        made.append(keys.ensure(tenant))

    threads = [Thread(target=ensure) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [TransitKey(ids.l2_key(tenant), 1)] * 2


def test_a_ciphertext_opens_after_the_key_was_rotated_and_it_was_rewrapped(
    keys: TransitTenantKeys, admin: TokenSession, new_tenant: Callable[[], str]
) -> None:
    tenant = new_tenant()
    keys.ensure(tenant)
    context = context_of(tenant)
    old = keys.encrypt(context, b"secret")
    admin.write(f"transit/keys/{context.l2_key}/rotate")
    wrapped = {"ciphertext": old, "context": base64.b64encode(context.encode()).decode()}
    new = admin.write(f"transit/rewrap/{context.l2_key}", wrapped)["ciphertext"]
    assert new.startswith("vault:v2:")
    assert keys.decrypt(context, new) == keys.decrypt(context, old) == b"secret"


def test_one_tenants_token_does_not_reach_another_tenants_key(
    keys: TransitTenantKeys, tokens: TenantTokens, new_tenant: Callable[[], str]
) -> None:
    mine, theirs = new_tenant(), new_tenant()
    keys.ensure(mine)
    keys.ensure(theirs)
    ciphertext = keys.encrypt(context_of(theirs), b"secret")
    for operation, data in (("encrypt", {"plaintext": "aGk="}), ("decrypt", {"ciphertext": ciphertext})):
        with pytest.raises(VaultRefused):
            tokens.session(mine).write(f"transit/{operation}/{ids.l2_key(theirs)}", data)
    assert keys.decrypt(context_of(theirs), ciphertext) == b"secret"
