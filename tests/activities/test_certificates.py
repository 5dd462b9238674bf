"""Step 3: one authority in PKI whatever dies when, disabled by a roll-back and signing again after a retry."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from database.interfaces import AuthorityRow
from tenancy import ids
from tenancy.errors import ConflictingResource, KeyUnavailable
from tenancy.provisioning import Step
from tests.activities.conftest import Provisioning
from vault.certificates import hex_serial
from vault.interfaces import Authority
from vault.pki import PkiAuthorities


@pytest.fixture
def authorities(parts) -> PkiAuthorities:
    return PkiAuthorities(parts.vault)


@pytest.fixture
def issue(authorities) -> Callable[[Provisioning], str]:
    """Return a function that has the tenant's recorded authority sign a certificate for a service."""
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    csr_pem = csr.public_bytes(serialization.Encoding.PEM).decode()

    def issue(tenant: Provisioning) -> str:
        row = recorded(tenant)
        authority = Authority(
            row.serial, row.certificate_pem, row.chain_pem, row.not_after, fingerprint="", key_version=1
        )
        return authorities.issue(authority, tenant.tenant_id, "orders", csr_pem, timedelta(hours=1)).serial

    return issue


def recorded(tenant: Provisioning) -> AuthorityRow:
    with tenant.database.tenant_tx(tenant.tenant_id) as tx:
        row = tx.certificates.authority()
    assert row is not None
    return row


def authorities_in_pki(tenant: Provisioning) -> list[str]:
    vault, found = tenant.parts.vault, []
    for serial in vault.list("pki/certs"):
        answer = vault.read(f"pki/cert/{serial}")
        assert answer is not None
        certificate = x509.load_pem_x509_certificate(answer["certificate"].encode())
        if certificate.subject.rfc4514_string().endswith(f" {tenant.tenant_id}"):
            found.append(hex_serial(certificate))
    return found


def test_creating_the_authority_twice_signs_one_certificate(tenant):
    tenant.run(Step.OPEN_RECORDS)
    tenant.run(Step.CREATE_AUTHORITY)
    tenant.run(Step.CREATE_AUTHORITY)
    assert authorities_in_pki(tenant) == [recorded(tenant).serial]
    assert tenant.is_done(Step.CREATE_AUTHORITY)
    tenant.assert_audited_once()


def test_a_certificate_that_was_signed_but_not_recorded_is_adopted(tenant, authorities):
    tenant.run(Step.OPEN_RECORDS)
    orphan = authorities.ensure(tenant.tenant_id, lambda _serials: ())
    tenant.run(Step.CREATE_AUTHORITY)
    assert recorded(tenant).serial == orphan.serial
    assert authorities_in_pki(tenant) == [orphan.serial]


def test_another_tenants_recorded_certificate_is_never_adopted(request_tenant):
    first, second = request_tenant(), request_tenant()
    for tenant in (first, second):
        tenant.run(Step.OPEN_RECORDS)
        tenant.run(Step.CREATE_AUTHORITY)
    assert recorded(first).serial != recorded(second).serial


def test_a_key_of_another_kind_under_the_authoritys_name_is_refused_and_not_recorded(tenant, vault_admin):
    tenant.run(Step.OPEN_RECORDS)
    vault_admin.write(f"transit/keys/{ids.ca_key(tenant.tenant_id)}", {"type": "ed25519"})
    before = tenant.audited()
    with pytest.raises(ConflictingResource):
        tenant.run(Step.CREATE_AUTHORITY)
    with tenant.database.tenant_tx(tenant.tenant_id) as tx:
        assert tx.certificates.authority() is None
        assert tx.keys.all() == []
    assert tenant.audited() == before


def test_a_roll_back_stops_the_authority_from_signing_and_a_retry_lets_it_sign_again(tenant, issue):
    tenant.run(Step.OPEN_RECORDS)
    tenant.run(Step.CREATE_AUTHORITY)
    before = recorded(tenant)
    assert issue(tenant)

    tenant.run("disable-authority")
    tenant.run("disable-authority")
    with pytest.raises(KeyUnavailable):
        issue(tenant)
    tenant.run("record-failure", code="boundary_breached", reason="check-boundaries")

    tenant.attempt += 1
    tenant.run(Step.OPEN_RECORDS)
    tenant.run(Step.CREATE_AUTHORITY)
    assert issue(tenant)
    assert recorded(tenant) == before
    assert authorities_in_pki(tenant) == [before.serial]
    tenant.assert_audited_once()


def test_a_roll_back_leaves_what_somebody_else_made_under_the_authoritys_name_alone(tenant, vault_admin):
    tenant.run(Step.OPEN_RECORDS)
    name = ids.ca_key(tenant.tenant_id)
    vault_admin.write(f"transit/keys/{name}", {"type": "ed25519"})
    with pytest.raises(ConflictingResource):
        tenant.run(Step.CREATE_AUTHORITY)
    tenant.run("disable-authority")
    assert (vault_admin.read(f"transit/keys/{name}") or {})["soft_deleted"] is False
