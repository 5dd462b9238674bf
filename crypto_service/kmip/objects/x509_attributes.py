"""Attributes that the server reads from X.509 certificates (KMIP 1.4, sections 3.8 to 3.16; KMIP 2.1, section 4)."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from crypto_service.kmip.codec.enums import DigitalSignatureAlgorithm as Algorithm
from crypto_service.kmip.codec.fields import choice, number, octets, structure, text
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from crypto_service.kmip.objects import attributes as named
from crypto_service.kmip.objects.attributes import Attributes

_RSA, _ECDSA = "1.2.840.113549.1.1.", "1.2.840.10045.4."
_ALGORITHMS: Mapping[str, Algorithm] = MappingProxyType(
    {
        f"{_RSA}5": Algorithm.SHA1_WITH_RSA_ENCRYPTION,
        f"{_RSA}14": Algorithm.SHA224_WITH_RSA_ENCRYPTION,
        f"{_RSA}11": Algorithm.SHA256_WITH_RSA_ENCRYPTION,
        f"{_RSA}12": Algorithm.SHA384_WITH_RSA_ENCRYPTION,
        f"{_RSA}13": Algorithm.SHA512_WITH_RSA_ENCRYPTION,
        f"{_RSA}10": Algorithm.RSASSA_PSS,
        f"{_ECDSA}1": Algorithm.ECDSA_WITH_SHA1,
        f"{_ECDSA}3.1": Algorithm.ECDSA_WITH_SHA224,
        f"{_ECDSA}3.2": Algorithm.ECDSA_WITH_SHA256,
        f"{_ECDSA}3.3": Algorithm.ECDSA_WITH_SHA384,
        f"{_ECDSA}3.4": Algorithm.ECDSA_WITH_SHA512,
    }
)

_PARTS: Mapping[str, x509.ObjectIdentifier] = MappingProxyType(
    dict(
        zip(
            named.NAME_PARTS,
            (
                NameOID.COMMON_NAME,
                NameOID.ORGANIZATION_NAME,
                NameOID.ORGANIZATIONAL_UNIT_NAME,
                NameOID.EMAIL_ADDRESS,
                NameOID.COUNTRY_NAME,
                NameOID.STATE_OR_PROVINCE_NAME,
                NameOID.LOCALITY_NAME,
                NameOID.USER_ID,
                NameOID.SERIAL_NUMBER,
                NameOID.TITLE,
                NameOID.DOMAIN_COMPONENT,
                NameOID.DN_QUALIFIER,
            ),
            strict=True,
        )
    )
)
_MOST_SERIAL = 1 << 160
"""RFC 5280 permits 20 bytes."""


def with_certificate(der: bytes, given: Attributes) -> Attributes:
    """Return the attributes with those of the certificate; unchanged if the certificate cannot be parsed.

    A certificate that cannot be parsed is stored all the same: nothing here depends on it.
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        issuer, subject = certificate.issuer, certificate.subject
        key = certificate.public_key()
        algorithm = _ALGORITHMS.get(certificate.signature_algorithm_oid.dotted_string)
        issuer_text, subject_text = issuer.rfc4514_string(), subject.rfc4514_string()
        serial = certificate.serial_number
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion):
        return given
    if not 0 <= serial < _MOST_SERIAL:
        return given
    own = Tag.ATTRIBUTE_VALUE
    found: dict[str, Item] = {
        "Certificate Identifier": structure(
            own, text(Tag.ISSUER, issuer_text), text(Tag.SERIAL_NUMBER, _bytes(serial).hex().upper())
        ),
        "Certificate Issuer": structure(own, text(Tag.CERTIFICATE_ISSUER_DISTINGUISHED_NAME, issuer_text)),
        "Certificate Subject": structure(own, text(Tag.CERTIFICATE_SUBJECT_DISTINGUISHED_NAME, subject_text)),
        "X.509 Certificate Identifier": structure(
            own,
            octets(Tag.ISSUER_DISTINGUISHED_NAME, issuer.public_bytes()),
            octets(Tag.CERTIFICATE_SERIAL_NUMBER, _der_integer(serial)),
        ),
        "X.509 Certificate Issuer": structure(own, octets(Tag.ISSUER_DISTINGUISHED_NAME, issuer.public_bytes())),
        "X.509 Certificate Subject": structure(own, octets(Tag.SUBJECT_DISTINGUISHED_NAME, subject.public_bytes())),
    }
    for whose, name in (("Subject", subject), ("Issuer", issuer)):
        found |= {f"Certificate {whose} {part}": text(own, value) for part, value in _parts(name)}
    if algorithm is not None:
        found["Digital Signature Algorithm"] = choice(own, algorithm)
    if isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        found[named.LENGTH] = number(own, key.key_size)
    for attribute, value in found.items():
        given = named.with_single(given, attribute, value)
    return given


def _parts(name: x509.Name) -> Iterator[tuple[str, str]]:
    """Yield the parts of a name; of several equal ones only the first."""
    for part, oid in _PARTS.items():
        values = [one.value for one in name.get_attributes_for_oid(oid) if isinstance(one.value, str)]
        if values:
            yield part, values[0]


def _bytes(serial: int) -> bytes:
    return serial.to_bytes(max(1, (serial.bit_length() + 7) // 8), "big")


def _der_integer(serial: int) -> bytes:
    """Return the DER encoding of a number below `_MOST_SERIAL`."""
    content = serial.to_bytes(serial.bit_length() // 8 + 1, "big")
    return bytes([2, len(content)]) + content
