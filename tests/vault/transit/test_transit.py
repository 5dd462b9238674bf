"""Tenant keys in a real Transit, with each way to send a tenant's identity."""

from collections.abc import Callable

import pytest

from core import names as ids
from core.errors.keys import KeyUnavailable, WrongContext
from core.errors.platform import ConflictingResource
from core.keys.encryption_context import EncryptionContext, Purpose
from openkcm.errors import OpenKcmError
from tests.concurrency import at_once
from tests.vault.contexts import context_of
from tests.vault.server import Server
from vault.auth.client import TokenSession, VaultRejected, VaultSession
from vault.auth.tenant_tokens import InlineTenants, TenantTokens
from vault.transit.keys import REWRAP_BATCH, TransitKey, ciphertext_version
from vault.transit.tenant_keys import TransitTenantKeys


@pytest.fixture
def token_keys(worker: VaultSession, tokens: TenantTokens) -> TransitTenantKeys:
    return TransitTenantKeys(worker, tokens)


@pytest.fixture(params=["token", "inline"])
def keys(
    request: pytest.FixtureRequest, token_keys: TransitTenantKeys, server: Server, worker: VaultSession
) -> TransitTenantKeys:
    if request.param == "token":
        return token_keys
    return TransitTenantKeys(worker, InlineTenants(worker, server.identity_pem, "crypto"))


@pytest.fixture
def context(token_keys: TransitTenantKeys, tenant: str) -> EncryptionContext:
    """Return a context of a tenant with a key."""
    token_keys.ensure(tenant)
    return context_of(tenant)


def test_ensure_creates_the_key_once(keys: TransitTenantKeys, tenant: str) -> None:
    first = keys.ensure(tenant)
    assert first == TransitKey(ids.l2_key(tenant), 1)
    ciphertext = keys.encrypt(context_of(tenant), b"secret")
    assert keys.ensure(tenant) == first
    assert keys.decrypt(context_of(tenant), ciphertext) == b"secret"


def test_two_threads_create_one_key(token_keys: TransitTenantKeys, tenant: str) -> None:
    assert at_once(*[lambda: token_keys.ensure(tenant)] * 2) == [TransitKey(ids.l2_key(tenant), 1)] * 2


@pytest.mark.parametrize(
    "moved",
    [{"service": "billing"}, {"purpose": Purpose.SERVICE_KEY}, {"object_id": "object-2"}, {"object_id": ""}],
)
def test_decrypt_rejects_another_context(
    keys: TransitTenantKeys, context: EncryptionContext, moved: dict[str, str]
) -> None:
    ciphertext = keys.encrypt(context, b"secret")
    with pytest.raises(WrongContext):
        keys.decrypt(context._replace(**moved), ciphertext)
    assert keys.decrypt(context, ciphertext) == b"secret"


def test_decrypt_rejects_another_tenants_ciphertext(
    keys: TransitTenantKeys, context: EncryptionContext, new_tenant: Callable[[], str]
) -> None:
    other = new_tenant()
    keys.ensure(other)
    ciphertext = keys.encrypt(context_of(other), b"secret")
    with pytest.raises(WrongContext):
        keys.decrypt(context, ciphertext)


def test_decrypt_rejects_an_altered_ciphertext(keys: TransitTenantKeys, context: EncryptionContext) -> None:
    ciphertext = keys.encrypt(context, b"secret")
    flipped = "A" if ciphertext[-6] != "A" else "B"
    for altered in (ciphertext[:-6] + flipped + ciphertext[-5:], ciphertext[:-8], "not a ciphertext"):
        with pytest.raises(WrongContext):
            keys.decrypt(context, altered)


def test_a_missing_key_is_unavailable_for_every_operation_and_none_creates_it(
    keys: TransitTenantKeys, context: EncryptionContext, new_tenant: Callable[[], str]
) -> None:
    ciphertext = keys.encrypt(context, b"secret")
    tenant = new_tenant()
    missing = context_of(tenant)
    keys.disable(tenant)
    for _ in range(2):
        for attempt in (
            lambda: keys.encrypt(missing, b"secret"),
            lambda: keys.decrypt(missing, ciphertext),
            lambda: keys.new_wrapped_key(missing),
            lambda: keys.newest(tenant),
            lambda: keys.rotate(tenant, 1),
            lambda: keys.retire(tenant, 1),
            lambda: keys.trim(tenant, 1),
        ):
            with pytest.raises(KeyUnavailable):
                attempt()


def test_a_disabled_key_is_unavailable_until_it_is_ensured(keys: TransitTenantKeys, context: EncryptionContext) -> None:
    ciphertext, tenant = keys.encrypt(context, b"secret"), context.tenant_id
    for _ in range(2):
        keys.disable(tenant)
    for attempt in (
        lambda: keys.encrypt(context, b"more"),
        lambda: keys.decrypt(context, ciphertext),
        lambda: keys.new_wrapped_key(context),
        lambda: keys.rotate(tenant, 1),
        lambda: keys.rewrap([(context, ciphertext)]),
    ):
        with pytest.raises(KeyUnavailable):
            attempt()
    assert keys.ensure(tenant).version == 1
    assert keys.decrypt(context, ciphertext) == b"secret"


def test_a_wrapped_key_decrypts_to_256_bits_in_its_own_context_alone(
    keys: TransitTenantKeys, context: EncryptionContext
) -> None:
    context = context._replace(purpose=Purpose.SERVICE_KEY)
    one, other = keys.new_wrapped_key(context), keys.new_wrapped_key(context)
    plain = keys.decrypt(context, one)
    assert len(plain) == 32
    assert plain != keys.decrypt(context, other)
    with pytest.raises(WrongContext):
        keys.decrypt(context._replace(object_id="object-2"), one)


def test_a_key_is_rotated_once_for_each_expected_version(keys: TransitTenantKeys, context: EncryptionContext) -> None:
    ciphertext, tenant = keys.encrypt(context, b"secret"), context.tenant_id
    second = TransitKey(context.l2_key, 2)
    assert keys.rotate(tenant, 1) == keys.rotate(tenant, 1) == keys.newest(tenant) == second
    assert keys.decrypt(context, ciphertext) == b"secret"
    assert ciphertext_version(ciphertext) == 1
    assert ciphertext_version(keys.encrypt(context, b"secret")) == 2
    assert ciphertext_version(keys.new_wrapped_key(context)) == 2


def test_rewrap_keeps_plaintext_and_context(keys: TransitTenantKeys, context: EncryptionContext) -> None:
    contexts = [context._replace(object_id=f"object-{number}") for number in range(REWRAP_BATCH)]
    old = [(context, keys.encrypt(context, context.object_id.encode())) for context in contexts]
    keys.rotate(context.tenant_id, 1)
    new = keys.rewrap(old)
    assert {ciphertext_version(ciphertext) for ciphertext in new} == {2}
    assert [keys.decrypt(*item).decode() for item in zip(contexts, new, strict=True)] == [
        context.object_id for context in contexts
    ]
    with pytest.raises(WrongContext):
        keys.decrypt(contexts[1], new[0])
    assert keys.rewrap([]) == []


def test_one_ciphertext_that_does_not_decrypt_fails_the_batch(
    keys: TransitTenantKeys, context: EncryptionContext
) -> None:
    good = keys.encrypt(context, b"secret")
    moved = context._replace(object_id="object-2")
    for bad in ((moved, good), (context, good[:-8]), (context, "not a ciphertext")):
        with pytest.raises(WrongContext):
            keys.rewrap([(context, good), bad])


def test_one_call_rewraps_one_tenants_ciphertexts_and_no_more_than_a_batch(token_keys: TransitTenantKeys) -> None:
    item = (context_of("acme"), "vault:v1:x")
    for items in ([item] * (REWRAP_BATCH + 1), [item, (context_of("beta"), "vault:v1:x")]):
        with pytest.raises(ValueError, match="one tenant"):
            token_keys.rewrap(items)


def test_a_version_is_first_retired_and_then_trimmed(keys: TransitTenantKeys, context: EncryptionContext) -> None:
    old, tenant = keys.encrypt(context, b"secret"), context.tenant_id
    keys.rotate(tenant, 1)
    [new] = keys.rewrap([(context, old)])
    with pytest.raises(OpenKcmError):
        keys.trim(tenant, 2)
    assert keys.decrypt(context, old) == b"secret"
    for lowest in (2, 2, 1):
        keys.retire(tenant, lowest)
    assert keys.newest(tenant) == TransitKey(context.l2_key, 2, 2)
    for _ in range(2):
        assert keys.decrypt(context, new) == b"secret"
        for attempt in (lambda: keys.decrypt(context, old), lambda: keys.rewrap([(context, old)])):
            with pytest.raises(KeyUnavailable):
                attempt()
        keys.trim(tenant, 2)


def test_an_administrator_restores_a_retired_version_until_it_is_trimmed(
    token_keys: TransitTenantKeys, admin: TokenSession, context: EncryptionContext
) -> None:
    tenant, restore = context.tenant_id, (f"transit/keys/{context.l2_key}/config", {"min_decryption_version": 1})
    old = token_keys.encrypt(context, b"secret")
    token_keys.rotate(tenant, 1)
    token_keys.retire(tenant, 2)
    admin.write(*restore)
    assert token_keys.decrypt(context, old) == b"secret"
    token_keys.retire(tenant, 2)
    token_keys.trim(tenant, 2)
    with pytest.raises(VaultRejected):
        admin.write(*restore)


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
def test_ensure_rejects_a_key_with_other_properties(
    token_keys: TransitTenantKeys, admin: TokenSession, tenant: str, existing: dict[str, object]
) -> None:
    before = admin.write(f"transit/keys/{ids.l2_key(tenant)}", existing)
    with pytest.raises(ConflictingResource):
        token_keys.ensure(tenant)
    assert admin.read(f"transit/keys/{ids.l2_key(tenant)}") == before


def test_ensure_rejects_a_key_that_may_be_deleted(
    token_keys: TransitTenantKeys, admin: TokenSession, context: EncryptionContext
) -> None:
    admin.write(f"transit/keys/{context.l2_key}/config", {"deletion_allowed": True})
    with pytest.raises(ConflictingResource):
        token_keys.ensure(context.tenant_id)


@pytest.mark.parametrize("text", ["", "vault:v1", "vault:v1:", "vault:1:x", "vault:vx:x", "bault:v1:x", "vault:v-1:x"])
def test_a_text_that_is_no_ciphertext_has_no_version(text: str) -> None:
    with pytest.raises(WrongContext):
        ciphertext_version(text)
