"""Certificates as the platform makes them: a root, an authority for each tenant, short leaves for services."""

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tenancy import ids
from tenancy.client_files import Offer, configuration
from tenancy.services import ServiceKind

_P256 = ec.SECP256R1()


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
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> str:
        return pem(self.certificate)

    @property
    def key_pem(self) -> str:
        private = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return private.decode()

    @property
    def serial(self) -> str:
        return f"{self.certificate.serial_number:x}"


def pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _authority(name: str, issuer: Issuer | None, constraint: str | None) -> Issuer:
    key = ec.generate_private_key(_P256)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    signer = issuer.key if issuer else key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if constraint is not None:
        names = x509.NameConstraints([x509.DNSName(constraint)], None)
        builder = builder.add_extension(names, critical=True)
    return Issuer(builder.sign(signer, hashes.SHA256()), key)


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


@cache
def root() -> Issuer:
    return _authority("Root", None, None)


@cache
def tenant_authority(tenant_id: str) -> Issuer:
    return _authority(f"Tenant {tenant_id}", root(), ids.tenant_dns(tenant_id))


def service_leaf(
    tenant_id: str,
    service: str,
    key: ec.EllipticCurvePrivateKey | None = None,
    began: timedelta = timedelta(minutes=1),
    life: timedelta = timedelta(hours=72),
) -> Leaf:
    names: list[x509.GeneralName] = [
        x509.DNSName(ids.tenant_dns(tenant_id)),
        x509.UniformResourceIdentifier(ids.service_spiffe(tenant_id, service)),
    ]
    return _leaf(tenant_authority(tenant_id), service, names, ExtendedKeyUsageOID.CLIENT_AUTH, key, began, life)


def server_leaf() -> Leaf:
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    return _leaf(root(), "localhost", names, ExtendedKeyUsageOID.SERVER_AUTH)


def _leaf(  # noqa: PLR0917 - a certificate has many fields
    issuer: Issuer,
    name: str,
    names: list[x509.GeneralName],
    usage: x509.ObjectIdentifier,
    key: ec.EllipticCurvePrivateKey | None = None,
    began: timedelta = timedelta(minutes=1),
    life: timedelta = timedelta(hours=72),
) -> Leaf:
    key = key or ec.generate_private_key(_P256)
    start = datetime.now(UTC) - began
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + life)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), critical=False)
        .sign(issuer.key, hashes.SHA256())
    )
    return Leaf(certificate, key)


def write_folder(folder: Path, tenant_id: str, leaf: Leaf, https_port: int) -> Path:
    """Write what `openkcm service connect --kind microservice --out` writes."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    offer = Offer(f"https://localhost:{https_port}", "localhost:5696")
    files = {"client.key": leaf.key_pem, "client.pem": leaf.pem + tenant_authority(tenant_id).pem, "ca.pem": root().pem}
    for name, text in (files | configuration(ServiceKind.MICROSERVICE, "orders", str(folder), offer, "")).items():
        path = folder / name
        path.touch(mode=0o600)
        path.write_text(text)
    return folder
