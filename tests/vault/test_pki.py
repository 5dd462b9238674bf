from collections.abc import Callable, Sequence

import pytest
from cryptography import x509

from tenancy import ids
from tenancy.errors import ConflictingResource
from tests.contracts.authorities import CertificateAuthoritiesContract, nothing_recorded
from vault.pki import PkiAuthorities
from vault.session import TokenSession, VaultSession


@pytest.fixture
def authorities(worker: VaultSession) -> PkiAuthorities:
    return PkiAuthorities(worker)


class TestPkiAuthorities(CertificateAuthoritiesContract):
    pass


def test_pki_holds_one_certificate_for_each_authority_and_one_root(
    admin: TokenSession, authorities: PkiAuthorities, new_tenant: Callable[[], str]
) -> None:
    for tenant in (new_tenant(), new_tenant()):
        for _ in range(3):
            authorities.ensure(tenant, nothing_recorded)
    subjects = [_subject(admin, serial) for serial in admin.list("pki/certs")]
    assert len(subjects) == len(set(subjects))


def test_recorded_certificates_are_not_read_again(
    admin: TokenSession, authorities: PkiAuthorities, new_tenant: Callable[[], str]
) -> None:
    tenant, asked = new_tenant(), list[str]()
    signed = authorities.ensure(tenant, nothing_recorded)

    def only_this_one(serials: Sequence[str]) -> Sequence[str]:
        asked.extend(serials)
        return [signed.serial]

    assert authorities.ensure(tenant, only_this_one) == signed
    assert sorted(asked) == sorted(serial.replace(":", "") for serial in admin.list("pki/certs"))


def test_an_authority_whose_key_was_made_by_hand_is_refused(
    admin: TokenSession, authorities: PkiAuthorities, new_tenant: Callable[[], str]
) -> None:
    tenant = new_tenant()
    admin.write(f"transit/keys/{ids.ca_key(tenant)}", {"type": "ecdsa-p256", "exportable": True})
    before = admin.list("pki/certs")
    with pytest.raises(ConflictingResource):
        authorities.ensure(tenant, nothing_recorded)
    assert admin.list("pki/certs") == before


def test_a_certificate_for_the_key_with_other_constraints_is_not_adopted(
    admin: TokenSession, authorities: PkiAuthorities, new_tenant: Callable[[], str]
) -> None:
    tenant = new_tenant()
    admin.write(f"transit/keys/{ids.ca_key(tenant)}", {"type": "ecdsa-p256"})
    csr = admin.write(f"transit/keys/{ids.ca_key(tenant)}/csr")["csr"]
    admin.write("pki/root/sign-intermediate", {"csr": csr, "common_name": "loose"})
    with pytest.raises(ConflictingResource):
        authorities.ensure(tenant, nothing_recorded)


def test_a_key_left_without_a_certificate_gets_one(
    admin: TokenSession, authorities: PkiAuthorities, new_tenant: Callable[[], str]
) -> None:
    tenant = new_tenant()
    admin.write(f"transit/keys/{ids.ca_key(tenant)}", {"type": "ecdsa-p256"})
    before = set(admin.list("pki/certs"))
    authority = authorities.ensure(tenant, nothing_recorded)
    (added,) = set(admin.list("pki/certs")) - before
    assert added.replace(":", "") == authority.serial


def _subject(admin: TokenSession, serial: str) -> str:
    entry = admin.read(f"pki/cert/{serial}")
    assert entry is not None
    return x509.load_pem_x509_certificate(entry["certificate"].encode()).subject.rfc4514_string()
