"""Tenant CAs in a real PKI: constraints, certificates, versions and CRLs."""

import hashlib
import shutil
import ssl
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store

from core import names as ids
from core.errors.keys import KeyUnavailable
from core.errors.platform import ConflictingResource
from core.errors.services import CaExpired
from openkcm.contract.names import service_spiffe, tenant_dns
from openkcm.errors import CallerError, InvalidName
from tests.concurrency import at_once
from tests.contracts.authorities import RequestKey, nothing_recorded, p256, request
from tests.kms.fault_proxy import FaultProxy
from tests.vault.server import Server
from vault.auth.client import TokenSession, VaultSession
from vault.pki.authorities import PkiAuthorities
from vault.pki.certificates import Authority, IssuedCertificate, RevocationList

DAY = timedelta(days=1)


@pytest.fixture
def authorities(worker: VaultSession) -> PkiAuthorities:
    return PkiAuthorities(worker)


@pytest.fixture
def authority(authorities: PkiAuthorities, tenant: str) -> Authority:
    return authorities.ensure(tenant, nothing_recorded)


def test_an_authority_is_constrained_to_its_tenants_name_and_to_leaves(tenant: str, authority: Authority) -> None:
    certificate, root = x509.load_pem_x509_certificates(authority.chain_pem.encode())
    limits = certificate.extensions.get_extension_for_class(x509.NameConstraints)
    assert limits.critical
    assert limits.value.permitted_subtrees == [x509.DNSName(tenant_dns(tenant))]
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
    certificate.verify_directly_issued_by(root)
    assert timedelta(days=364) < certificate.not_valid_after_utc - datetime.now(UTC) < timedelta(days=366)
    assert authority.not_after == certificate.not_valid_after_utc
    assert authority.certificate_pem == certificate.public_bytes(serialization.Encoding.PEM).decode()
    der = certificate.public_bytes(serialization.Encoding.DER)
    assert authority.fingerprint == hashlib.sha256(der).hexdigest()


def test_two_threads_create_one_ca(authorities: PkiAuthorities, tenant: str) -> None:
    one, other = at_once(*[lambda: authorities.ensure(tenant, nothing_recorded)] * 2)
    assert one == other


@pytest.mark.parametrize(
    "key",
    [p256(), ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate()],
    ids=["p-256", "p-384", "ed25519"],
)
def test_leaf_has_the_key_of_the_csr_and_none_of_its_names(
    authorities: PkiAuthorities, tenant: str, authority: Authority, key: RequestKey
) -> None:
    leaf = authorities.issue(authority, tenant, "orders", request(key, "evil.example"), DAY)
    certificate = x509.load_pem_x509_certificate(leaf.certificate_pem.encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [
        x509.DNSName(tenant_dns(tenant)),
        x509.UniformResourceIdentifier(service_spiffe(tenant, "orders")),
    ]
    assert certificate.public_key() == key.public_key()
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert leaf.not_after == certificate.not_valid_after_utc <= datetime.now(UTC) + DAY


def test_a_leaf_verifies_up_to_the_root(authorities: PkiAuthorities, tenant: str, authority: Authority) -> None:
    leaf = authorities.issue(authority, tenant, "orders", request(p256()), DAY)
    ca, root = x509.load_pem_x509_certificates(authority.chain_pem.encode())
    certificate = x509.load_pem_x509_certificate(leaf.certificate_pem.encode())
    verified = PolicyBuilder().store(Store([root])).build_client_verifier().verify(certificate, [ca])
    assert verified.chain == [certificate, ca, root]
    described = authorities.root()
    assert int(described.serial, 16) == root.serial_number
    assert (described.begins, described.ends) == (root.not_valid_before_utc, root.not_valid_after_utc)


def with_version(csr_pem: str, version: int) -> str:
    """Return a request with another version, the last byte of its first INTEGER."""
    der = ssl.PEM_cert_to_DER_cert(csr_pem.replace(" REQUEST", ""))
    at = der.index(b"\x02\x01\x00") + 2
    changed = ssl.DER_cert_to_PEM_cert(der[:at] + bytes([version]) + der[at + 1 :])
    return changed.replace("CERTIFICATE", "CERTIFICATE REQUEST")


@pytest.mark.parametrize(
    "pem",
    [
        "",
        "not pem",
        "x" * 100_000,
        request(rsa.generate_private_key(65537, 1024)),  # noqa: S505 - weak on purpose
        request(ec.generate_private_key(ec.SECP521R1())),
        with_version(request(p256()), 32),
    ],
    ids=["empty", "text", "long", "rsa-1024", "p-521", "version"],
)
def test_invalid_or_weak_csr_is_rejected(
    authorities: PkiAuthorities, tenant: str, authority: Authority, pem: str
) -> None:
    with pytest.raises(CallerError) as refused:
        authorities.issue(authority, tenant, "orders", pem, DAY)
    assert refused.value.code == "csr_refused"


def test_csr_with_a_foreign_key_is_rejected(authorities: PkiAuthorities, tenant: str, authority: Authority) -> None:
    own, theirs = p256(), p256()
    der = x509.load_pem_x509_csr(request(own).encode()).public_bytes(serialization.Encoding.DER)
    swapped = der.replace(_point(own), _point(theirs))
    pem = x509.load_der_x509_csr(swapped).public_bytes(serialization.Encoding.PEM).decode()
    with pytest.raises(CallerError) as refused:
        authorities.issue(authority, tenant, "orders", pem, DAY)
    assert refused.value.code == "csr_refused"


def test_leaf_with_a_long_lifetime_or_an_invalid_name_is_rejected(
    authorities: PkiAuthorities, tenant: str, authority: Authority
) -> None:
    for service, lifetime in (("orders", timedelta(days=365, seconds=1)), ("orders", timedelta()), ("or/ders", DAY)):
        with pytest.raises(InvalidName):
            authorities.issue(authority, tenant, service, request(p256()), lifetime)


def test_ca_does_not_issue_for_another_tenant(
    authorities: PkiAuthorities, authority: Authority, new_tenant: Callable[[], str]
) -> None:
    other = new_tenant()
    authorities.ensure(other, nothing_recorded)
    with pytest.raises(ConflictingResource):
        authorities.issue(authority, other, "orders", request(p256()), DAY)


def test_disabled_ca_signs_nothing_until_it_is_enabled(
    authorities: PkiAuthorities, tenant: str, authority: Authority
) -> None:
    authorities.disable(tenant)
    with pytest.raises(KeyUnavailable):
        authorities.issue(authority, tenant, "orders", request(p256()), DAY)
    assert authorities.ensure(tenant, nothing_recorded) == authority
    authorities.issue(authority, tenant, "orders", request(p256()), DAY)


def test_both_versions_of_a_ca_issue_leaves(authorities: PkiAuthorities, tenant: str, authority: Authority) -> None:
    second = authorities.ensure(tenant, nothing_recorded, 2)
    assert (authority.key_version, second.key_version) == (1, 2)
    assert authority.serial != second.serial
    for one in (authority, second):
        leaf = authorities.issue(one, tenant, "orders", request(p256()), DAY)
        ca, root = x509.load_pem_x509_certificates(one.chain_pem.encode())
        certificate = x509.load_pem_x509_certificate(leaf.certificate_pem.encode())
        PolicyBuilder().store(Store([root])).build_client_verifier().verify(certificate, [ca])
        authorities.prove(one, tenant, authority)
    subjects = {x509.load_pem_x509_certificate(one.certificate_pem.encode()).subject for one in (authority, second)}
    assert len(subjects) == 2


def test_signed_but_unrecorded_version_is_adopted_and_no_other_is_created(
    authorities: PkiAuthorities, tenant: str, authority: Authority
) -> None:
    assert authorities.ensure(tenant, nothing_recorded) == authority
    second = authorities.ensure(tenant, nothing_recorded, 2)
    assert authorities.ensure(tenant, nothing_recorded, 2) == second
    assert authorities.ensure(tenant, nothing_recorded) == authority


def test_version_that_is_not_the_next_is_rejected(authorities: PkiAuthorities, tenant: str) -> None:
    authorities.ensure(tenant, nothing_recorded)
    with pytest.raises(ConflictingResource):
        authorities.ensure(tenant, nothing_recorded, 3)


def test_ca_with_the_key_of_another_version_fails_its_verification(
    authorities: PkiAuthorities, tenant: str, authority: Authority
) -> None:
    authorities.ensure(tenant, nothing_recorded, 2)
    with pytest.raises(ConflictingResource, match="is not valid"):
        authorities.prove(replace(authority, key_version=2), tenant, authority)


def test_crl_is_signed_by_its_version_also_after_a_rotation(
    authorities: PkiAuthorities, tenant: str, authority: Authority, tmp_path: Path
) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    revoked, kept = (authorities.issue(authority, tenant, "orders", request(p256()), DAY) for _ in range(2))
    second = authorities.ensure(tenant, nothing_recorded, 2)
    for number, issuer in enumerate((authority, second), 7):
        wanted = RevocationList(number, now, now + DAY, [(revoked.serial, now)])
        found = x509.load_der_x509_crl(authorities.revoke(issuer, tenant, wanted))
        ca = x509.load_pem_x509_certificate(issuer.certificate_pem.encode())
        key = ca.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert found.is_signature_valid(key)
        assert found.issuer == ca.subject
        assert found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == number
        assert (found.last_update_utc, found.next_update_utc) == (now, now + DAY)
        assert [format(entry.serial_number, "x") for entry in found] == [revoked.serial.lstrip("0")]
    assert_openssl_reads(tmp_path, authorities, tenant, authority, revoked, kept)


def test_disabling_a_missing_ca_changes_nothing(authorities: PkiAuthorities, tenant: str) -> None:
    authorities.disable(tenant)


def test_pki_stores_one_certificate_for_each_ca(
    admin: TokenSession, authorities: PkiAuthorities, new_tenant: Callable[[], str]
) -> None:
    before = set(admin.list("pki/certs"))
    for tenant in (new_tenant(), new_tenant()):
        for _ in range(3):
            authorities.ensure(tenant, nothing_recorded)
    assert len(set(admin.list("pki/certs")) - before) == 2


def test_recorded_certificates_are_not_read_again(
    admin: TokenSession, authorities: PkiAuthorities, tenant: str, authority: Authority
) -> None:
    asked = list[str]()

    def only_this_one(serials: Sequence[str]) -> Sequence[str]:
        asked.extend(serials)
        return [authority.serial]

    assert authorities.ensure(tenant, only_this_one) == authority
    assert sorted(asked) == sorted(serial.replace(":", "") for serial in admin.list("pki/certs"))


@pytest.mark.parametrize(("retried", "searches"), [(False, 0), (True, 1)])
def test_only_a_later_attempt_of_a_slow_step_searches_for_a_certificate(
    server: Server, new_tenant: Callable[[], str], monkeypatch, retried, searches
) -> None:
    monkeypatch.setattr("vault.pki.authorities._SURELY_NEW_SECONDS", -1.0)
    secret = (server.folder / "worker.secret").read_text(encoding="ascii")
    with FaultProxy.running(server.url) as proxy:
        authorities = PkiAuthorities(VaultSession(proxy.url, "worker", secret))
        authorities.ensure(new_tenant(), nothing_recorded, retried=retried)
    assert sum(seen.line.startswith("LIST /v1/pki/certs?") for seen in proxy.seen) == searches


def test_search_for_a_certificate_reads_pages(
    admin: TokenSession, authorities: PkiAuthorities, new_tenant: Callable[[], str], monkeypatch
) -> None:
    monkeypatch.setattr("vault.pki.authorities._PAGE", 2)
    tenants = [new_tenant() for _ in range(5)]
    made = [authorities.ensure(tenant, nothing_recorded) for tenant in tenants]
    pages = list[int]()

    def of_page(serials: Sequence[str]) -> Sequence[str]:
        pages.append(len(serials))
        return serials

    assert [authorities.ensure(tenant, of_page) for tenant in tenants] == made
    assert max(pages) == 2
    assert sum(pages) == 5 * len(admin.list("pki/certs"))


def test_ca_with_a_manually_created_key_is_rejected(
    admin: TokenSession, authorities: PkiAuthorities, tenant: str
) -> None:
    admin.write(f"transit/keys/{ids.ca_key(tenant)}", {"type": "ecdsa-p256", "exportable": True})
    before = admin.list("pki/certs")
    with pytest.raises(ConflictingResource):
        authorities.ensure(tenant, nothing_recorded)
    assert admin.list("pki/certs") == before


def test_a_certificate_for_the_key_with_other_constraints_is_not_adopted(
    admin: TokenSession, authorities: PkiAuthorities, tenant: str
) -> None:
    admin.write(f"transit/keys/{ids.ca_key(tenant)}", {"type": "ecdsa-p256"})
    csr = admin.write(f"transit/keys/{ids.ca_key(tenant)}/csr")["csr"]
    admin.write("pki/root/sign-intermediate", {"csr": csr, "common_name": "loose"})
    with pytest.raises(ConflictingResource):
        authorities.ensure(tenant, nothing_recorded)


@pytest.mark.parametrize("version", [1, 2])
def test_a_key_version_without_a_certificate_gets_one(
    admin: TokenSession, authorities: PkiAuthorities, tenant: str, version: int
) -> None:
    admin.write(f"transit/keys/{ids.ca_key(tenant)}", {"type": "ecdsa-p256"})
    if version == 2:
        authorities.ensure(tenant, nothing_recorded)
        admin.write(f"transit/keys/{ids.ca_key(tenant)}/rotate")
    before = set(admin.list("pki/certs"))
    authority = authorities.ensure(tenant, nothing_recorded, version)
    (added,) = set(admin.list("pki/certs")) - before
    assert added.replace(":", "") == authority.serial


def test_surplus_version_is_used_by_the_next_rotation(
    admin: TokenSession, authorities: PkiAuthorities, tenant: str, authority: Authority
) -> None:
    for _ in range(2):
        admin.write(f"transit/keys/{ids.ca_key(tenant)}/rotate")
    second, third = (authorities.ensure(tenant, nothing_recorded, version) for version in (2, 3))
    for one in (authority, second, third):
        authorities.prove(one, tenant, authority)


def test_leaf_of_an_untrusted_root_fails_the_verification(
    authorities: PkiAuthorities, tenant: str, authority: Authority
) -> None:
    root = x509.load_pem_x509_certificates(authority.chain_pem.encode())[-1]
    key, now = p256(), datetime.now(UTC)
    same_name = (
        x509.CertificateBuilder(root.subject, root.subject, key.public_key(), root.serial_number)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    untrusted = replace(authority, chain_pem=same_name.public_bytes(serialization.Encoding.PEM).decode())
    with pytest.raises(ConflictingResource, match="is not valid"):
        authorities.prove(authority, tenant, untrusted)


def test_expired_ca_issues_nothing_and_the_error_has_a_hint(
    worker: VaultSession, tenant: str, authority: Authority
) -> None:
    later = PkiAuthorities(worker, lambda: authority.not_after)
    with pytest.raises(CaExpired) as lapsed:
        later.issue(authority, tenant, "orders", request(p256()), timedelta(days=1))
    assert "rotate-ca" in lapsed.value.hint


def assert_openssl_reads(  # noqa: PLR0917 - a CRL and its expected entries
    folder: Path,
    authorities: PkiAuthorities,
    tenant: str,
    issuer: Authority,
    revoked: IssuedCertificate,
    kept: IssuedCertificate,
) -> None:
    """Verify with OpenSSL the CRL, a revoked certificate and a valid one."""
    openssl = shutil.which("openssl")
    assert openssl, "this test needs the openssl command"
    now = datetime.now(UTC) - timedelta(minutes=1)
    der = authorities.revoke(issuer, tenant, RevocationList(9, now, now + DAY, [(revoked.serial, now)]))
    (folder / "ca.pem").write_text(issuer.certificate_pem)
    (folder / "root.pem").write_text(issuer.chain_pem.removeprefix(issuer.certificate_pem))
    (folder / "crl.der").write_bytes(der)
    (folder / "crl.pem").write_bytes(x509.load_der_x509_crl(der).public_bytes(serialization.Encoding.PEM))

    def run(*arguments: str) -> str:
        done = subprocess.run([openssl, *arguments], cwd=folder, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    assert "verify OK" in run(*["crl", "-inform", "DER", "-in", "crl.der", "-CAfile", "ca.pem", "-noout", "-verify"])
    check = ["verify", "-crl_check", "-CAfile", "root.pem", "-untrusted", "ca.pem", "-CRLfile", "crl.pem"]
    for leaf, answer in ((kept, "leaf.pem: OK"), (revoked, "certificate revoked")):
        (folder / "leaf.pem").write_text(leaf.certificate_pem)
        assert answer in run(*check, "leaf.pem")


def _point(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
