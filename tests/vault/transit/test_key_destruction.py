"""Irreversible destruction of one tenant's keys in a real Transit, identified afterwards by fingerprints."""

import hashlib
from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from core import names as ids
from core.errors.keys import KeyUnavailable
from core.errors.platform import VaultRefused
from core.keys.encryption_context import EncryptionContext, Purpose
from tests.contracts.authorities import nothing_recorded
from vault.auth.client import TokenSession, VaultSession
from vault.auth.tenant_tokens import TenantTokens
from vault.pki.authorities import PkiAuthorities
from vault.pki.certificates import Authority
from vault.transit.key_destruction import TenantKeyKind, TransitDestroyer
from vault.transit.payload_keys import TransitPayloadKeys
from vault.transit.tenant_keys import TransitTenantKeys


@pytest.fixture
def destroyer(offboarding: VaultSession, worker: VaultSession) -> TransitDestroyer:
    return TransitDestroyer(offboarding, worker)


class Owner:
    """A tenant with all of its keys, and a ciphertext of each."""

    def __init__(self, tenant_id: str, worker: VaultSession, tokens: TenantTokens) -> None:
        self.tenant_id = tenant_id
        self.tenant_keys, self.payload_keys = TransitTenantKeys(worker, tokens), TransitPayloadKeys(worker)
        self.tenant_keys.ensure(tenant_id)
        self.payload_keys.ensure(tenant_id)
        self.authority: Authority = PkiAuthorities(worker).ensure(tenant_id, nothing_recorded)
        self.context = EncryptionContext(tenant_id, ids.l2_key(tenant_id), "orders", Purpose.SERVICE_KEY, "1")
        self.secret = self.tenant_keys.encrypt(self.context, b"secret")
        self.data_key = self.payload_keys.new_data_key(ids.payload_key(tenant_id))

    def opens(self) -> bool:
        assert self.tenant_keys.decrypt(self.context, self.secret) == b"secret"
        plain, wrapped = self.data_key
        return self.payload_keys.open_data_key(ids.payload_key(self.tenant_id), wrapped) == plain


@pytest.fixture
def owner(worker: VaultSession, tokens: TenantTokens, new_tenant: Callable[[], str]) -> Callable[[], Owner]:
    return lambda: Owner(new_tenant(), worker, tokens)


def test_destroyed_key_is_gone_and_its_ciphertexts_cannot_be_decrypted(
    destroyer: TransitDestroyer, admin: TokenSession, owner: Callable[[], Owner]
) -> None:
    gone, stays = owner(), owner()
    for kind in TenantKeyKind:
        destroyer.destroy(kind, gone.tenant_id)
    for name in (ids.l2_key, ids.ca_key, ids.payload_key):
        assert admin.read(f"transit/keys/{name(gone.tenant_id)}") is None
    with pytest.raises(KeyUnavailable):
        gone.tenant_keys.decrypt(gone.context, gone.secret)
    with pytest.raises(KeyUnavailable):
        gone.payload_keys.open_data_key(ids.payload_key(gone.tenant_id), gone.data_key[1])
    assert stays.opens()
    assert admin.read("transit/keys/audit-checkpoints") is not None
    assert admin.read("transit/keys/payloads-platform") is not None


def test_use_of_its_name_does_not_restore_a_destroyed_key(
    destroyer: TransitDestroyer, admin: TokenSession, owner: Callable[[], Owner]
) -> None:
    gone = owner()
    destroyer.destroy(TenantKeyKind.TENANT, gone.tenant_id)
    with pytest.raises(KeyUnavailable):
        gone.tenant_keys.encrypt(gone.context, b"more")
    with pytest.raises(KeyUnavailable):
        gone.tenant_keys.new_wrapped_key(gone.context)
    assert admin.read(f"transit/keys/{ids.l2_key(gone.tenant_id)}") is None
    # A key created again under the name is another key, which does not decrypt the former ciphertexts.
    gone.tenant_keys.ensure(gone.tenant_id)
    with pytest.raises(Exception, match="does not belong"):
        gone.tenant_keys.decrypt(gone.context, gone.secret)


def test_destroyed_missing_or_disabled_key_is_destroyed_without_an_error(
    destroyer: TransitDestroyer, owner: Callable[[], Owner], new_tenant: Callable[[], str]
) -> None:
    gone, disabled = owner(), owner()
    disabled.tenant_keys.disable(disabled.tenant_id)
    for tenant_id in (gone.tenant_id, gone.tenant_id, disabled.tenant_id, new_tenant()):
        destroyer.destroy(TenantKeyKind.TENANT, tenant_id)
        assert destroyer.describe(TenantKeyKind.TENANT, tenant_id) is None


def test_an_authoritys_fingerprint_is_that_of_its_public_key(
    destroyer: TransitDestroyer, owner: Callable[[], Owner]
) -> None:
    one = owner()
    public = x509.load_pem_x509_certificate(one.authority.certificate_pem.encode()).public_key()
    raw = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    described = destroyer.describe(TenantKeyKind.AUTHORITY, one.tenant_id)
    assert (described.versions, described.fingerprint) == ("1-1", hashlib.sha256(raw).hexdigest())


def test_symmetric_keys_fingerprint_is_unique_and_changes_with_its_versions(
    destroyer: TransitDestroyer, admin: TokenSession, owner: Callable[[], Owner]
) -> None:
    one, other = owner(), owner()
    first, foreign = (destroyer.describe(TenantKeyKind.TENANT, each.tenant_id) for each in (one, other))
    assert first == destroyer.describe(TenantKeyKind.TENANT, one.tenant_id)
    admin.write(f"transit/keys/{ids.l2_key(one.tenant_id)}/rotate")
    second = destroyer.describe(TenantKeyKind.TENANT, one.tenant_id)
    assert (first.versions, second.versions) == ("1-1", "1-2")
    assert len({first.fingerprint, foreign.fingerprint, second.fingerprint}) == 3


@pytest.mark.parametrize("kind", TenantKeyKind)
def test_workers_regular_identity_destroys_nothing(
    worker: VaultSession, owner: Callable[[], Owner], kind: TenantKeyKind
) -> None:
    one = owner()
    with pytest.raises(VaultRefused):
        TransitDestroyer(worker, worker).destroy(kind, one.tenant_id)
    assert one.opens()
