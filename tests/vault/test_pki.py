from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from tenancy import ids
from tenancy.errors import AuthorityLapsed, ConflictingResource
from tests.contracts.authorities import CertificateAuthoritiesContract, nothing_recorded, p256, request
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


def test_a_version_left_without_a_certificate_gets_one(
    admin: TokenSession, authorities: PkiAuthorities, new_tenant: Callable[[], str]
) -> None:
    tenant = new_tenant()
    authorities.ensure(tenant, nothing_recorded)
    admin.write(f"transit/keys/{ids.ca_key(tenant)}/rotate")
    before = set(admin.list("pki/certs"))
    rolled = authorities.ensure(tenant, nothing_recorded, 2)
    (added,) = set(admin.list("pki/certs")) - before
    assert added.replace(":", "") == rolled.serial


def test_a_version_that_was_made_too_many_is_left_for_its_own_turn(
    admin: TokenSession, authorities: PkiAuthorities, new_tenant: Callable[[], str]
) -> None:
    tenant = new_tenant()
    first = authorities.ensure(tenant, nothing_recorded)
    for _ in range(2):
        admin.write(f"transit/keys/{ids.ca_key(tenant)}/rotate")
    second, third = (authorities.ensure(tenant, nothing_recorded, version) for version in (2, 3))
    for authority in (first, second, third):
        authorities.prove(authority, tenant, first)


def test_a_leaf_of_a_root_that_is_not_trusted_does_not_prove(
    authorities: PkiAuthorities, new_tenant: Callable[[], str]
) -> None:
    tenant = new_tenant()
    authority = authorities.ensure(tenant, nothing_recorded)
    root = x509.load_pem_x509_certificates(authority.chain_pem.encode())[-1]
    key, now = p256(), datetime.now(UTC)
    same_name = (
        x509.CertificateBuilder(root.subject, root.subject, key.public_key(), root.serial_number)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    stranger = replace(authority, chain_pem=same_name.public_bytes(serialization.Encoding.PEM).decode())
    with pytest.raises(ConflictingResource, match="does not verify"):
        authorities.prove(authority, tenant, stranger)


def test_an_authority_that_has_expired_issues_nothing_and_says_what_to_do(
    worker: VaultSession, authorities: PkiAuthorities, new_tenant: Callable[[], str]
) -> None:
    tenant = new_tenant()
    authority = authorities.ensure(tenant, nothing_recorded)
    later = PkiAuthorities(worker, lambda: authority.not_after)
    with pytest.raises(AuthorityLapsed) as lapsed:
        later.issue(authority, tenant, "orders", request(p256()), timedelta(days=1))
    assert "roll-authority" in lapsed.value.hint
