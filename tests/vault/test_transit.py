from collections.abc import Callable
from threading import Barrier, Thread

import pytest

from tenancy import ids
from tenancy.errors import ConflictingResource, VaultRefused, WrongContext
from tests.contracts.tenant_keys import TenantKeysContract, context_of
from tests.vault.server import Server
from vault.interfaces import REWRAP_BATCH, TransitKey, ciphertext_version
from vault.session import TokenSession, VaultRejected, VaultSession
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


@pytest.mark.parametrize("text", ["", "vault:v1", "vault:v1:", "vault:1:x", "vault:vx:x", "bault:v1:x", "vault:v-1:x"])
def test_what_is_no_ciphertext_has_no_version(text: str) -> None:
    with pytest.raises(WrongContext):
        ciphertext_version(text)


def test_one_call_rewraps_one_tenants_ciphertexts_and_no_more_than_a_batch(
    keys: TransitTenantKeys, new_tenant: Callable[[], str]
) -> None:
    mine, theirs = new_tenant(), new_tenant()
    item = (context_of(mine), "vault:v1:x")
    for items in ([item] * (REWRAP_BATCH + 1), [item, (context_of(theirs), "vault:v1:x")]):
        with pytest.raises(ValueError, match="one tenant"):
            keys.rewrap(items)


def test_an_administrator_can_bring_back_what_was_retired_until_it_is_trimmed(
    keys: TransitTenantKeys, admin: TokenSession, new_tenant: Callable[[], str]
) -> None:
    tenant = new_tenant()
    keys.ensure(tenant)
    old = keys.encrypt(context_of(tenant), b"secret")
    keys.rotate(tenant, 1)
    keys.retire(tenant, 2)
    back = {"min_decryption_version": 1}
    admin.write(f"transit/keys/{ids.l2_key(tenant)}/config", back)
    assert keys.decrypt(context_of(tenant), old) == b"secret"
    keys.retire(tenant, 2)
    keys.trim(tenant, 2)
    with pytest.raises(VaultRejected):
        admin.write(f"transit/keys/{ids.l2_key(tenant)}/config", back)


def test_one_tenants_token_does_not_reach_another_tenants_key(
    keys: TransitTenantKeys, tokens: TenantTokens, new_tenant: Callable[[], str]
) -> None:
    mine, theirs = new_tenant(), new_tenant()
    keys.ensure(mine)
    keys.ensure(theirs)
    ciphertext = keys.encrypt(context_of(theirs), b"secret")
    for operation, data in (
        ("encrypt", {"plaintext": "aGk="}),
        ("decrypt", {"ciphertext": ciphertext}),
        ("rewrap", {"batch_input": [{"ciphertext": ciphertext, "context": "aGk="}]}),
    ):
        with pytest.raises(VaultRefused):
            tokens.session(mine).write(f"transit/{operation}/{ids.l2_key(theirs)}", data)
    assert keys.decrypt(context_of(theirs), ciphertext) == b"secret"
