"""Step 3: one CA in PKI for any number of runs; a rollback disables it and a retry enables it."""

from datetime import timedelta

import pytest
from cryptography import x509

from core import names as ids
from core.errors.keys import KeyUnavailable
from core.errors.platform import ConflictingResource
from core.tenants.provisioning import Step
from database.certificates import AuthorityRow
from tests.activities.provisioning import Provisioning
from tests.activities.services.connecting import KEY, csr_of
from vault.pki.authorities import PkiAuthorities
from vault.pki.certificates import Authority, hex_serial


def issue(tenant: Provisioning) -> str:
    """Issue a certificate for a service with the tenant's recorded CA; return its serial number."""
    row = recorded(tenant)
    authority = Authority(row.serial, row.certificate_pem, row.chain_pem, row.not_after, fingerprint="", key_version=1)
    authorities = PkiAuthorities(tenant.parts.vault)
    return authorities.issue(authority, tenant.tenant_id, "orders", csr_of(KEY), timedelta(hours=1)).serial


def recorded(tenant: Provisioning) -> AuthorityRow:
    return tenant.get(lambda tx: tx.certificates.authority())


def authorities_in_pki(tenant: Provisioning) -> list[str]:
    vault, found = tenant.parts.vault, []
    for serial in vault.list("pki/certs"):
        answer = vault.read(f"pki/cert/{serial}")
        assert answer is not None
        certificate = x509.load_pem_x509_certificate(answer["certificate"].encode())
        if certificate.subject.rfc4514_string().endswith(f" {tenant.tenant_id}"):
            found.append(hex_serial(certificate))
    return found


def test_creating_the_ca_twice_signs_one_certificate(tenant):
    tenant.run(Step.OPEN_RECORDS)
    tenant.run(Step.CREATE_AUTHORITY)
    tenant.run(Step.CREATE_AUTHORITY)
    assert authorities_in_pki(tenant) == [recorded(tenant).serial]
    assert tenant.is_done(Step.CREATE_AUTHORITY)
    tenant.assert_audited_once()


def test_signed_but_unrecorded_certificate_is_adopted_only_for_its_tenant(tenant, request_tenant):
    other = request_tenant()
    for step in (Step.OPEN_RECORDS, Step.CREATE_AUTHORITY):
        other.run(step)
    tenant.run(Step.OPEN_RECORDS)
    orphan = PkiAuthorities(tenant.parts.vault).ensure(tenant.tenant_id, lambda _serials: ())
    tenant.run(Step.CREATE_AUTHORITY)
    assert recorded(tenant).serial == orphan.serial
    assert authorities_in_pki(tenant) == [orphan.serial]
    assert recorded(other).serial != orphan.serial


def test_foreign_key_under_the_cas_name_is_rejected_and_not_changed(tenant, vault_admin):
    tenant.run(Step.OPEN_RECORDS)
    name = ids.ca_key(tenant.tenant_id)
    vault_admin.write(f"transit/keys/{name}", {"type": "ed25519"})
    before = tenant.records()
    with pytest.raises(ConflictingResource):
        tenant.run(Step.CREATE_AUTHORITY)
    assert tenant.read(lambda tx: tx.certificates.authority()) is None
    assert tenant.read(lambda tx: tx.keys.all()) == []
    assert tenant.records() == before
    tenant.run("disable-ca")
    assert (vault_admin.read(f"transit/keys/{name}") or {})["soft_deleted"] is False


def test_rollback_disables_the_ca_and_a_retry_enables_it(tenant):
    tenant.run(Step.OPEN_RECORDS)
    tenant.run(Step.CREATE_AUTHORITY)
    before = recorded(tenant)
    assert issue(tenant)

    tenant.run("disable-ca")
    tenant.run("disable-ca")
    with pytest.raises(KeyUnavailable):
        issue(tenant)
    tenant.run("record-failure", code="isolation_breached", reason="check-isolation")

    tenant.attempt += 1
    tenant.run(Step.OPEN_RECORDS)
    tenant.run(Step.CREATE_AUTHORITY)
    assert issue(tenant)
    assert recorded(tenant) == before
    assert authorities_in_pki(tenant) == [before.serial]
    tenant.assert_audited_once()
