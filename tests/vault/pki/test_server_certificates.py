import ssl
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from core.errors.platform import SettingsInvalid
from openkcm.contract.csr import CsrRefused
from openkcm.errors import InvalidName
from tests.contracts.authorities import RequestKey, nothing_recorded, p256
from vault.auth.client import TokenSession, VaultRejected, VaultSession
from vault.pki.authorities import PkiAuthorities
from vault.pki.server_certificates import PkiServerCertificates

NAMES = ("localhost", "127.0.0.1")
DAY = timedelta(days=1)


@pytest.fixture
def certificates(crypto: VaultSession) -> PkiServerCertificates:
    return PkiServerCertificates(crypto)


@pytest.fixture(scope="module")
def key() -> ec.EllipticCurvePrivateKey:
    return p256()


def greedy_request(key: RequestKey) -> str:
    """Return a CSR with everything that the role must ignore."""
    builder = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "acme-corp-12345.tenants.openkcm.internal")]))
        .add_extension(
            x509.SubjectAlternativeName(
                [
                    x509.DNSName("acme-corp-12345.tenants.openkcm.internal"),
                    x509.UniformResourceIdentifier("spiffe://acme-corp-12345.tenants.openkcm.internal/service/orders"),
                ]
            ),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


@pytest.mark.parametrize("make_key", [p256, lambda: rsa.generate_private_key(65537, 2048)], ids=["ec", "rsa"])
def test_certificate_has_the_configured_names_and_nothing_from_the_csr(
    certificates: PkiServerCertificates, make_key: Callable[[], RequestKey], admin: TokenSession
) -> None:
    key = make_key()
    stored = admin.list("pki/certs")
    certificate_pem, root_pem = certificates.sign(greedy_request(key), NAMES, DAY)
    certificate, root = (x509.load_pem_x509_certificate(pem.encode()) for pem in (certificate_pem, root_pem))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert sorted(str(name.value) for name in names) == sorted(NAMES)
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    use = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert not use.key_cert_sign
    assert not use.crl_sign
    with pytest.raises(x509.ExtensionNotFound):
        certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert certificate.public_key() == key.public_key()
    assert certificate.not_valid_after_utc <= datetime.now(UTC) + DAY
    assert admin.list("pki/certs") == stored
    verifier = PolicyBuilder().store(Store([root])).build_server_verifier(x509.DNSName("localhost"))
    assert verifier.verify(certificate, []) == [certificate, root]
    with pytest.raises(VerificationError):
        PolicyBuilder().store(Store([root])).build_client_verifier().verify(certificate, [])


@pytest.mark.parametrize(
    "name",
    [
        "evil.example",
        "acme-corp-12345.tenants.openkcm.internal",
        "*.localhost",
        "kms.localhost",
        "10.0.0.1",
        "localhost,evil.example",
    ],
)
def test_name_that_is_not_configured_is_rejected(
    certificates: PkiServerCertificates, key: ec.EllipticCurvePrivateKey, name: str
) -> None:
    for names in ((name,), ("localhost", name)):
        with pytest.raises(SettingsInvalid) as refused:
            certificates.sign(greedy_request(key), names, DAY)
        assert "crypto_names" in refused.value.hint


@pytest.mark.parametrize("name", ["evil.example", "acme-corp-12345.tenants.openkcm.internal", "spiffe://acme/x"])
def test_subject_is_restricted_like_the_names(crypto: VaultSession, key: ec.EllipticCurvePrivateKey, name: str) -> None:
    with pytest.raises(VaultRejected, match="not allowed by this role"):
        crypto.write(
            "pki/sign/crypto-server", {"csr": greedy_request(key), "common_name": name, "alt_names": "localhost"}
        )


@pytest.mark.parametrize(
    "pem",
    [
        "",
        "not pem",
        greedy_request(rsa.generate_private_key(65537, 1024)),  # noqa: S505 - the attack
    ],
    ids=["empty", "text", "small rsa"],
)
def test_invalid_csr_or_small_key_is_rejected(certificates: PkiServerCertificates, pem: str) -> None:
    with pytest.raises(CsrRefused):
        certificates.sign(pem, NAMES, DAY)


def test_certificate_is_valid_for_at_most_three_days(
    certificates: PkiServerCertificates, crypto: VaultSession, key: ec.EllipticCurvePrivateKey
) -> None:
    for lifetime in (timedelta(hours=73), timedelta(), timedelta(days=-1)):
        with pytest.raises(InvalidName):
            certificates.sign(greedy_request(key), NAMES, lifetime)
    with pytest.raises(InvalidName):
        certificates.sign(greedy_request(key), (), DAY)
    answer = crypto.write(
        "pki/sign/crypto-server", {"csr": greedy_request(key), "alt_names": "localhost", "ttl": "8760h"}
    )
    certificate = x509.load_pem_x509_certificate(answer["certificate"].encode())
    assert certificate.not_valid_after_utc <= datetime.now(UTC) + timedelta(hours=72)


def test_service_and_server_verify_each_other_in_tls(
    certificates: PkiServerCertificates, worker: VaultSession, tenant: str, tmp_path: Path
) -> None:
    own, theirs = p256(), p256()
    authority = PkiAuthorities(worker).ensure(tenant, nothing_recorded)
    leaf = PkiAuthorities(worker).issue(authority, tenant, "orders", greedy_request(theirs), DAY)
    certificate_pem, root_pem = certificates.sign(greedy_request(own), NAMES, DAY)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for context, key, chain in (
        (server, own, certificate_pem),
        (client, theirs, leaf.certificate_pem + authority.certificate_pem),
    ):
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_verify_locations(cadata=root_pem)
        file = tmp_path / f"{id(context)}.pem"
        file.write_bytes(_pem(key) + chain.encode())
        context.load_cert_chain(file)
    shown = _shake_hands(client, server)
    assert shown == ssl.PEM_cert_to_DER_cert(leaf.certificate_pem)


def _shake_hands(client: ssl.SSLContext, server: ssl.SSLContext) -> bytes | None:
    """Return the client certificate that the server received."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(up, down, server_side=True)
    theirs = client.wrap_bio(down, up, server_hostname="localhost")
    for side in (theirs, ours, theirs, ours):
        with suppress(ssl.SSLWantReadError):
            side.do_handshake()
    return ours.getpeercert(binary_form=True)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
