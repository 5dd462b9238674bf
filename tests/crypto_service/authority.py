"""Certificates as the platform issues them: a root, a CA for each tenant, short-lived leaves for services."""

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from crypto_service.server.tls import CertifiedKey, ServerCertificate
from openkcm.contract.client_files import Offer, configuration
from openkcm.contract.names import service_spiffe, tenant_dns
from openkcm.contract.services import ServiceKind

_P256 = ec.SECP256R1()
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class Issuer:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> str:
        return pem(self.certificate)


@dataclass(frozen=True)
class Leaf:
    certificate: x509.Certificate
    key: Key

    @property
    def pem(self) -> str:
        return pem(self.certificate)

    @property
    def key_pem(self) -> str:
        return key_pem(self.key)

    @property
    def serial(self) -> str:
        return f"{self.certificate.serial_number:x}"


def pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def signed(
    subject: str,
    public_key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey,
    issuer: x509.Name | None,
    signer: ec.EllipticCurvePrivateKey,
    *extensions: tuple[x509.ExtensionType, bool],
    start: datetime,
    life: timedelta,
    serial: int | None = None,
) -> x509.Certificate:
    """Return a certificate for `public_key`; self-issued without an issuer. Each extension has its `critical` flag."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    serial = serial or x509.random_serial_number()
    builder = x509.CertificateBuilder(issuer or name, name, public_key, serial, start, start + life)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(signer, hashes.SHA256())


def _common(key: Key, signer: ec.EllipticCurvePrivateKey, *, signs: bool) -> list[tuple[x509.ExtensionType, bool]]:
    """Return the extensions of every certificate of the platform."""
    usage = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return [
        (x509.BasicConstraints(ca=signs, path_length=None), True),
        (x509.KeyUsage(digital_signature=not signs, key_cert_sign=signs, crl_sign=signs, **usage), True),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False),
    ]


def _authority(name: str, issuer: Issuer | None, constraint: str | None) -> Issuer:
    key = ec.generate_private_key(_P256)
    signer = issuer.key if issuer else key
    extensions = _common(key, signer, signs=True)
    if constraint is not None:
        extensions.append((x509.NameConstraints([x509.DNSName(constraint)], None), True))
    above = issuer.certificate.subject if issuer else None
    start, life = datetime.now(UTC) - timedelta(days=1), timedelta(days=31)
    return Issuer(signed(name, key.public_key(), above, signer, *extensions, start=start, life=life), key)


@cache
def root() -> Issuer:
    return _authority("Root", None, None)


@cache
def tenant_authority(tenant_id: str) -> Issuer:
    return _authority(f"Tenant {tenant_id}", root(), tenant_dns(tenant_id))


def service_leaf(
    tenant_id: str,
    service: str,
    key: ec.EllipticCurvePrivateKey | None = None,
    began: timedelta = timedelta(minutes=1),
    life: timedelta = timedelta(hours=72),
) -> Leaf:
    names = service_names(tenant_id, service)
    return _leaf(tenant_authority(tenant_id), service, names, ExtendedKeyUsageOID.CLIENT_AUTH, key, began, life)


def server_leaf(key: Key | None = None) -> Leaf:
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    return _leaf(root(), "localhost", names, ExtendedKeyUsageOID.SERVER_AUTH, key)


@cache
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def server_identity() -> ServerCertificate:
    leaves = server_leaf(), server_leaf(rsa_key())
    with_ec, with_rsa = (CertifiedKey(leaf.pem, leaf.key_pem.encode()) for leaf in leaves)
    return ServerCertificate(root().pem, leaves[0].certificate.not_valid_after_utc, with_ec, with_rsa)


def _leaf(  # noqa: PLR0917 - a certificate has many fields
    issuer: Issuer,
    name: str,
    names: list[x509.GeneralName],
    usage: x509.ObjectIdentifier,
    key: Key | None = None,
    began: timedelta = timedelta(minutes=1),
    life: timedelta = timedelta(hours=72),
) -> Leaf:
    key = key or ec.generate_private_key(_P256)
    extensions = [
        *_common(key, issuer.key, signs=False),
        (x509.SubjectAlternativeName(names), False),
        (x509.ExtendedKeyUsage([usage]), False),
    ]
    above, start = issuer.certificate.subject, datetime.now(UTC) - began
    return Leaf(signed(name, key.public_key(), above, issuer.key, *extensions, start=start, life=life), key)


def service_names(tenant_id: str, service: str) -> list[x509.GeneralName]:
    return [
        x509.DNSName(tenant_dns(tenant_id)),
        x509.UniformResourceIdentifier(service_spiffe(tenant_id, service)),
    ]


def key_pem(key: Key) -> str:
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private.decode()


def write_folder(folder: Path, tenant_id: str, leaf: Leaf, https_port: int) -> Path:
    """Write the files that `openkcmctl service connect --kind microservice --out` writes."""
    files = {"client.key": leaf.key_pem, "client.pem": leaf.pem + tenant_authority(tenant_id).pem, "ca.pem": root().pem}
    return write_files(folder, files, "orders", https_port)


def write_files(folder: Path, files: dict[str, str], service: str, https_port: int) -> Path:
    """Write key and certificates of a service, and the configuration of its client."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    offer = Offer(f"https://localhost:{https_port}", "localhost:5696")
    for name, text in (files | configuration(ServiceKind.MICROSERVICE, service, str(folder), offer, "")).items():
        path = folder / name
        path.touch(mode=0o600)
        path.write_text(text)
    return folder
