"""Tenant certificates: the signing key in Transit, the profile of leaves and CRLs, and the tenant of a CA.

The private key of a CA is never in this process: `TransitSigningKey` sends the data to be signed to Transit.
"""

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NoReturn

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from core.errors.platform import ConflictingResource
from core.names import ca_key
from openkcm.contract.csr import LeafKey
from openkcm.contract.names import TENANT_DOMAIN
from vault.auth.client import VaultClient
from vault.transit.keys import encoded, key_errors

_CLOCK_SKEW = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class LeafNames:
    """The names in a leaf. The product fills them from its records, an isolation check from those of its target."""

    common_name: str
    dns: str
    spiffe: str


class TransitSigningKey(ec.EllipticCurvePrivateKey):
    """One version of a P-256 key in Transit, as a private key of `cryptography`.

    Requests always name the version. Otherwise Transit would sign with the newest one, which may differ from the
    version in the CA certificate, and no verifier would accept the signature.
    """

    def __init__(self, session: VaultClient, name: str, version: int, public_key: ec.EllipticCurvePublicKey) -> None:
        self._session = session
        self._name = name
        self._version = version
        self._public_key = public_key

    def sign(self, data: Any, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """Return the DER signature over SHA-256 of `data`; raises KeyUnavailable when the key is disabled."""
        if not isinstance(signature_algorithm.algorithm, hashes.SHA256):
            _only_signs()
        with key_errors():
            answer = self._session.write(
                f"transit/sign/{self._name}/sha2-256",
                {"input": encoded(bytes(data)), "marshaling_algorithm": "asn1", "key_version": self._version},
            )
        return base64.b64decode(str(answer["signature"]).rpartition(":")[2])

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self._public_key

    @property
    def curve(self) -> ec.EllipticCurve:
        return self._public_key.curve

    @property
    def key_size(self) -> int:
        return self._public_key.key_size

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> NoReturn:  # noqa: ARG002 - the base class names it
        _only_signs()

    def private_numbers(self) -> NoReturn:
        _only_signs()

    def private_bytes(self, encoding: Any, format: Any, encryption_algorithm: Any) -> NoReturn:  # noqa: A002, ARG002 - the base class names it
        _only_signs()

    def __copy__(self) -> "TransitSigningKey":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "TransitSigningKey":
        return self


def _only_signs() -> NoReturn:
    raise NotImplementedError("a key in transit only signs with sha-256")


@dataclass(frozen=True, slots=True)
class Issuer:
    """A tenant's CA: its certificate and the handle of its key."""

    certificate: x509.Certificate
    key: TransitSigningKey


def load_issuer(session: VaultClient, tenant_id: str, certificate_pem: str, key_version: int) -> Issuer:
    """Return the CA of `tenant_id`, ready to sign with the key version in its certificate.

    Raises:
        ConflictingResource: the certificate belongs to another tenant.
    """
    certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
    key = certificate.public_key()
    if tenant_of_authority(certificate) != tenant_id or not isinstance(key, ec.EllipticCurvePublicKey):
        raise ConflictingResource("authority", hex_serial(certificate), "it is another tenant's")
    return Issuer(certificate, TransitSigningKey(session, ca_key(tenant_id), key_version, key))


def build_leaf(  # noqa: PLR0913, PLR0917 - the content of a certificate
    issuer: Issuer,
    public_key: LeafKey,
    names: LeafNames,
    now: datetime,
    lifetime: timedelta,
    serial: int | None = None,
) -> x509.Certificate:
    """Return a leaf (RFC 5280) whose validity lies within that of its issuer.

    It is for client authentication only: with server authentication a service could impersonate the crypto service to
    other services. An isolation check passes the `serial` of another leaf; the product uses random ones.
    """
    ca = issuer.certificate
    rsa_only = isinstance(public_key, rsa.RSAPublicKey)
    usage = x509.KeyUsage(
        digital_signature=True,
        key_encipherment=rsa_only,  # old TLS 1.2 clients require it with RSA
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    ca_key_id = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        x509.CertificateBuilder()
        .serial_number(int.from_bytes(os.urandom(20), "big") >> 1 if serial is None else serial)
        .issuer_name(ca.subject)
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names.common_name)]))
        .public_key(public_key)
        .not_valid_before(max(now - _CLOCK_SKEW, ca.not_valid_before_utc))
        .not_valid_after(min(now + lifetime, ca.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(names.dns), x509.UniformResourceIdentifier(names.spiffe)]),
            critical=False,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ca_key_id), critical=False)
    )
    return builder.sign(issuer.key, hashes.SHA256())


@dataclass(frozen=True, slots=True)
class RevocationList:
    """The content of a CRL (RFC 5280, section 5); `revoked` are serials with their revocation times."""

    number: int
    this_update: datetime
    next_update: datetime
    revoked: Sequence[tuple[str, datetime]]


def build_revocation_list(issuer: Issuer, wanted: RevocationList) -> bytes:
    """Return a CRL (RFC 5280, section 5) in DER.

    Entries have no reason code, because the platform does not ask for the reason of a disconnection.
    """
    ca = issuer.certificate
    ca_key_id = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(ca.subject)
        .last_update(wanted.this_update)
        .next_update(wanted.next_update)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ca_key_id), critical=False)
        .add_extension(x509.CRLNumber(wanted.number), critical=False)
    )
    for serial, revoked_at in wanted.revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(int(serial, 16)).revocation_date(revoked_at)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(issuer.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def tenant_of_authority(ca: x509.Certificate) -> str:
    """Return the tenant of a CA, from its only permitted name, which the root constrains (MTCI A1).

    The tenant of a leaf is thus derived from its issuer. The URI in a leaf is not constrained and proves nothing.

    Raises:
        ConflictingResource: the certificate is not a CA constrained to exactly one tenant's name.
    """
    try:
        limits = ca.extensions.get_extension_for_class(x509.NameConstraints)
        depth = ca.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        raise ConflictingResource("authority", hex_serial(ca), "it is not constrained") from None
    permitted = limits.value.permitted_subtrees or []
    dns = permitted[0].value if len(permitted) == 1 and isinstance(permitted[0], x509.DNSName) else ""
    tenant, _, domain = dns.partition(".")
    if not (limits.critical and depth.ca and depth.path_length == 0 and tenant and domain == TENANT_DOMAIN):
        raise ConflictingResource("authority", hex_serial(ca), "it is not constrained to one tenant")
    return tenant


def hex_serial(certificate: x509.Certificate) -> str:
    """Return the serial number as recorded: lower-case hex of the minimal number of bytes."""
    number = certificate.serial_number
    return number.to_bytes((number.bit_length() + 7) // 8, "big").hex()


@dataclass(frozen=True, slots=True)
class Authority:
    """A tenant's CA certificate. `serial` is lower-case hex without separators, `chain_pem` ends with the root.

    `key_version` is the version of the tenant's key in the certificate; only that version signs for this CA.
    """

    serial: str
    certificate_pem: str
    chain_pem: str
    not_after: datetime
    fingerprint: str
    key_version: int


@dataclass(frozen=True, slots=True)
class PkiRoot:
    """The root certificate of all tenant CAs; no certificate is valid longer."""

    serial: str
    begins: datetime
    ends: datetime


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    serial: str
    certificate_pem: str
    not_after: datetime
