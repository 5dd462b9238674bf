"""Tenant certificates as bytes: the Transit-held key that signs them, the leaf profile, and whose a CA is.

No private key of an authority is ever here: `TransitSigningKey` sends what is to be signed to Transit.
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
    """What a leaf says about its holder. The product fills it from its own records; an attack from its target's."""

    common_name: str
    dns: str
    spiffe: str


class TransitSigningKey(ec.EllipticCurvePrivateKey):
    """One version of a P-256 key in Transit, in the form in which `cryptography` signs certificates with it.

    The version is always named: without it Transit takes the newest, which need not be the one that a certificate is
    about, and what it signs then would verify under no certificate at all.
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
    raise NotImplementedError("a key in transit signs with sha-256 and does nothing else")


@dataclass(frozen=True, slots=True)
class Issuer:
    """A tenant's CA: its certificate and the handle of its key."""

    certificate: x509.Certificate
    key: TransitSigningKey


def load_issuer(session: VaultClient, tenant_id: str, certificate_pem: str, key_version: int) -> Issuer:
    """Return the CA of `tenant_id`, ready to sign with the version of its key that the certificate is about.

    Raises:
        ConflictingResource: the certificate is not this tenant's.
    """
    certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
    key = certificate.public_key()
    if tenant_of_authority(certificate) != tenant_id or not isinstance(key, ec.EllipticCurvePublicKey):
        raise ConflictingResource("authority", hex_serial(certificate), "it is another tenant's")
    return Issuer(certificate, TransitSigningKey(session, ca_key(tenant_id), key_version, key))


def build_leaf(  # noqa: PLR0913, PLR0917 - what a certificate says
    issuer: Issuer,
    public_key: LeafKey,
    names: LeafNames,
    now: datetime,
    lifetime: timedelta,
    serial: int | None = None,
) -> x509.Certificate:
    """Return a leaf (RFC 5280), never valid outside its issuer's own time.

    It is for clients only: with server authentication one service could play the crypto service to its siblings. An
    attack brings a `serial` of somebody else's; the product takes random ones.
    """
    ca = issuer.certificate
    rsa_only = isinstance(public_key, rsa.RSAPublicKey)
    usage = x509.KeyUsage(
        digital_signature=True,
        key_encipherment=rsa_only,  # TLS 1.2 clients of old still ask for it with RSA
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
    """What a revocation list (RFC 5280, section 5) is to say; `revoked` are serials with the moment of each."""

    number: int
    this_update: datetime
    next_update: datetime
    revoked: Sequence[tuple[str, datetime]]


def build_revocation_list(issuer: Issuer, wanted: RevocationList) -> bytes:
    """Return a revocation list (RFC 5280, section 5) in DER.

    No entry gives a reason: a service is disconnected because somebody wants so, and why is not asked.
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
    """Return the tenant a CA belongs to, from the one name the root constrained it to (MTCI A1).

    This is how a tenant is derived from a certificate: by its issuer. A leaf's own URI is not constrained by anything
    and says nothing.

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
    """Return the serial number as it is recorded: lower-case hex of whole bytes, as many as the number needs."""
    number = certificate.serial_number
    return number.to_bytes((number.bit_length() + 7) // 8, "big").hex()


@dataclass(frozen=True, slots=True)
class Authority:
    """A tenant's CA certificate. `serial` is lower-case hex without separators, `chain_pem` ends in the root.

    `key_version` is the version of the tenant's key that it is about, which alone signs for it.
    """

    serial: str
    certificate_pem: str
    chain_pem: str
    not_after: datetime
    fingerprint: str
    key_version: int


@dataclass(frozen=True, slots=True)
class PkiRoot:
    """The certificate that every authority hangs from; no other ends later."""

    serial: str
    begins: datetime
    ends: datetime


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    serial: str
    certificate_pem: str
    not_after: datetime
