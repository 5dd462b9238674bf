"""What every implementation of `vault.interfaces.CertificateAuthorities` does.

A subclass gives the fixture `authorities`, whose clock is the real one.
"""

import hashlib
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier, Thread

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store

from tenancy import ids
from tenancy.errors import CallerError, ConflictingResource, InvalidName, KeyUnavailable
from vault.interfaces import Authority, CertificateAuthorities, Leaf, RevocationList

DAY = timedelta(days=1)
RequestKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


def nothing_recorded(serials: Sequence[str]) -> Sequence[str]:
    return serials


def request(key: RequestKey, *names: str) -> str:
    """Return a certificate request that asks for `names`."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False
        )
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, digest).public_bytes(serialization.Encoding.PEM).decode()


def p256() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


class CertificateAuthoritiesContract:
    def test_an_authority_is_constrained_to_its_tenants_name_and_to_leaves(
        self, authorities: CertificateAuthorities, new_tenant: Callable[[], str]
    ) -> None:
        tenant = new_tenant()
        authority = authorities.ensure(tenant, nothing_recorded)
        certificate, root = x509.load_pem_x509_certificates(authority.chain_pem.encode())
        limits = certificate.extensions.get_extension_for_class(x509.NameConstraints)
        assert limits.critical
        assert limits.value.permitted_subtrees == [x509.DNSName(ids.tenant_dns(tenant))]
        assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
        certificate.verify_directly_issued_by(root)
        assert timedelta(days=364) < certificate.not_valid_after_utc - datetime.now(UTC) < timedelta(days=366)
        assert authority.not_after == certificate.not_valid_after_utc
        assert authority.certificate_pem == certificate.public_bytes(serialization.Encoding.PEM).decode()
        der = certificate.public_bytes(serialization.Encoding.DER)
        assert authority.fingerprint == hashlib.sha256(der).hexdigest()

    def test_a_certificate_that_was_signed_but_not_recorded_is_adopted(
        self, authorities: CertificateAuthorities, new_tenant: Callable[[], str]
    ) -> None:
        tenant, other = new_tenant(), new_tenant()
        signed = authorities.ensure(tenant, nothing_recorded)
        authorities.ensure(other, nothing_recorded)
        assert authorities.ensure(tenant, nothing_recorded) == signed

    def test_two_threads_make_one_authority(
        self, authorities: CertificateAuthorities, new_tenant: Callable[[], str]
    ) -> None:
        tenant, together, made = new_tenant(), Barrier(2), list[Authority]()

        def ensure() -> None:
            together.wait()
            made.append(authorities.ensure(tenant, nothing_recorded))

        threads = [Thread(target=ensure) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(made) == 2
        assert made[0] == made[1]

    @pytest.mark.parametrize(
        "key",
        [p256(), ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate()],
        ids=["p-256", "p-384", "ed25519"],
    )
    def test_a_leaf_takes_the_requests_key_and_none_of_its_names(
        self, authorities: CertificateAuthorities, new_tenant: Callable[[], str], key: RequestKey
    ) -> None:
        tenant = new_tenant()
        authority = authorities.ensure(tenant, nothing_recorded)
        leaf = authorities.issue(authority, tenant, "orders", request(key, "evil.example"), DAY)
        certificate = x509.load_pem_x509_certificate(leaf.certificate_pem.encode())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert list(names) == [
            x509.DNSName(ids.tenant_dns(tenant)),
            x509.UniformResourceIdentifier(ids.service_spiffe(tenant, "orders")),
        ]
        assert certificate.public_key() == key.public_key()
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
        assert leaf.not_after == certificate.not_valid_after_utc <= datetime.now(UTC) + DAY

    def test_a_leaf_verifies_up_to_the_root(
        self, authorities: CertificateAuthorities, new_tenant: Callable[[], str]
    ) -> None:
        tenant = new_tenant()
        authority = authorities.ensure(tenant, nothing_recorded)
        leaf = authorities.issue(authority, tenant, "orders", request(p256()), DAY)
        ca, root = x509.load_pem_x509_certificates(authority.chain_pem.encode())
        certificate = x509.load_pem_x509_certificate(leaf.certificate_pem.encode())
        verified = PolicyBuilder().store(Store([root])).build_client_verifier().verify(certificate, [ca])
        assert verified.chain == [certificate, ca, root]
        told = authorities.root()
        assert int(told.serial, 16) == root.serial_number
        assert (told.begins, told.ends) == (root.not_valid_before_utc, root.not_valid_after_utc)

    @pytest.mark.parametrize(
        "pem",
        [
            "",
            "not pem",
            "x" * 100_000,
            request(rsa.generate_private_key(65537, 1024)),  # noqa: S505 - weak on purpose
            request(ec.generate_private_key(ec.SECP521R1())),
        ],
        ids=["empty", "text", "long", "rsa-1024", "p-521"],
    )
    def test_a_request_that_is_none_or_weak_is_refused(
        self, authorities: CertificateAuthorities, new_tenant: Callable[[], str], pem: str
    ) -> None:
        tenant = new_tenant()
        authority = authorities.ensure(tenant, nothing_recorded)
        with pytest.raises(CallerError) as refused:
            authorities.issue(authority, tenant, "orders", pem, DAY)
        assert refused.value.code == "csr_refused"

    def test_a_request_for_somebody_elses_key_is_refused(
        self, authorities: CertificateAuthorities, new_tenant: Callable[[], str]
    ) -> None:
        tenant = new_tenant()
        authority = authorities.ensure(tenant, nothing_recorded)
        own, theirs = p256(), p256()
        der = x509.load_pem_x509_csr(request(own).encode()).public_bytes(serialization.Encoding.DER)
        swapped = der.replace(_point(own), _point(theirs))
        pem = x509.load_der_x509_csr(swapped).public_bytes(serialization.Encoding.PEM).decode()
        with pytest.raises(CallerError) as refused:
            authorities.issue(authority, tenant, "orders", pem, DAY)
        assert refused.value.code == "csr_refused"

    def test_a_leaf_cannot_live_longer_than_three_days_or_have_an_odd_name(
        self, authorities: CertificateAuthorities, new_tenant: Callable[[], str]
    ) -> None:
        tenant = new_tenant()
        authority = authorities.ensure(tenant, nothing_recorded)
        for service, lifetime in (("orders", timedelta(hours=73)), ("orders", timedelta()), ("or/ders", DAY)):
            with pytest.raises(InvalidName):
                authorities.issue(authority, tenant, service, request(p256()), lifetime)

    def test_one_tenants_authority_does_not_issue_for_another(
        self, authorities: CertificateAuthorities, new_tenant: Callable[[], str]
    ) -> None:
        tenant, other = new_tenant(), new_tenant()
        authority = authorities.ensure(tenant, nothing_recorded)
        authorities.ensure(other, nothing_recorded)
        with pytest.raises(ConflictingResource):
            authorities.issue(authority, other, "orders", request(p256()), DAY)

    def test_a_disabled_authority_signs_nothing_until_it_is_ensured(
        self, authorities: CertificateAuthorities, new_tenant: Callable[[], str]
    ) -> None:
        tenant = new_tenant()
        authority = authorities.ensure(tenant, nothing_recorded)
        authorities.disable(tenant)
        with pytest.raises(KeyUnavailable):
            authorities.issue(authority, tenant, "orders", request(p256()), DAY)
        assert authorities.ensure(tenant, nothing_recorded) == authority
        authorities.issue(authority, tenant, "orders", request(p256()), DAY)

    def test_a_second_version_is_an_authority_beside_the_first_and_each_issues_its_own(
        self, authorities: CertificateAuthorities, new_tenant: Callable[[], str]
    ) -> None:
        tenant = new_tenant()
        first = authorities.ensure(tenant, nothing_recorded)
        second = authorities.ensure(tenant, nothing_recorded, 2)
        assert (first.key_version, second.key_version) == (1, 2)
        assert first.serial != second.serial
        for authority in (first, second):
            leaf = authorities.issue(authority, tenant, "orders", request(p256()), DAY)
            ca, root = x509.load_pem_x509_certificates(authority.chain_pem.encode())
            certificate = x509.load_pem_x509_certificate(leaf.certificate_pem.encode())
            PolicyBuilder().store(Store([root])).build_client_verifier().verify(certificate, [ca])
            authorities.prove(authority, tenant, first)
        subjects = {x509.load_pem_x509_certificate(one.certificate_pem.encode()).subject for one in (first, second)}
        assert len(subjects) == 2

    def test_a_version_that_was_signed_but_not_recorded_is_adopted_and_none_is_made_beside_it(
        self, authorities: CertificateAuthorities, new_tenant: Callable[[], str]
    ) -> None:
        tenant = new_tenant()
        first = authorities.ensure(tenant, nothing_recorded)
        second = authorities.ensure(tenant, nothing_recorded, 2)
        assert authorities.ensure(tenant, nothing_recorded, 2) == second
        assert authorities.ensure(tenant, nothing_recorded) == first

    def test_a_version_that_is_not_the_next_is_refused(
        self, authorities: CertificateAuthorities, new_tenant: Callable[[], str]
    ) -> None:
        tenant = new_tenant()
        authorities.ensure(tenant, nothing_recorded)
        with pytest.raises(ConflictingResource):
            authorities.ensure(tenant, nothing_recorded, 3)

    def test_an_authority_with_another_versions_key_does_not_prove(
        self, authorities: CertificateAuthorities, new_tenant: Callable[[], str]
    ) -> None:
        tenant = new_tenant()
        first = authorities.ensure(tenant, nothing_recorded)
        authorities.ensure(tenant, nothing_recorded, 2)
        with pytest.raises(ConflictingResource, match="does not verify"):
            authorities.prove(replace(first, key_version=2), tenant, first)

    def test_a_revocation_list_is_signed_by_its_own_version_also_after_the_next_was_made(
        self, authorities: CertificateAuthorities, new_tenant: Callable[[], str], tmp_path: Path
    ) -> None:
        tenant, now = new_tenant(), datetime.now(UTC).replace(microsecond=0)
        first = authorities.ensure(tenant, nothing_recorded)
        revoked, kept = (authorities.issue(first, tenant, "orders", request(p256()), DAY) for _ in range(2))
        second = authorities.ensure(tenant, nothing_recorded, 2)
        for number, authority in enumerate((first, second), 7):
            wanted = RevocationList(number, now, now + DAY, [(revoked.serial, now)])
            der = authorities.revoke(authority, tenant, wanted)
            found = x509.load_der_x509_crl(der)
            ca = x509.load_pem_x509_certificate(authority.certificate_pem.encode())
            key = ca.public_key()
            assert isinstance(key, ec.EllipticCurvePublicKey)
            assert found.is_signature_valid(key)
            assert found.issuer == ca.subject
            assert found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == number
            assert (found.last_update_utc, found.next_update_utc) == (now, now + DAY)
            assert [format(entry.serial_number, "x") for entry in found] == [revoked.serial.lstrip("0")]
        assert_openssl_reads(tmp_path, authorities, tenant, first, revoked, kept)

    def test_disabling_an_authority_that_was_never_made_changes_nothing(
        self, authorities: CertificateAuthorities, new_tenant: Callable[[], str]
    ) -> None:
        authorities.disable(new_tenant())


def assert_openssl_reads(  # noqa: PLR0917 - whose list, and what is on it and what is not
    folder: Path, authorities: CertificateAuthorities, tenant: str, issuer: Authority, revoked: Leaf, kept: Leaf
) -> None:
    """Let OpenSSL judge the list, and with it a certificate that is on it and one that is not."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl here")
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
