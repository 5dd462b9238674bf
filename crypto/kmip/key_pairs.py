"""New asymmetric key pairs, in the formats KMIP names. They are made and kept for clients; nothing here uses them."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from crypto.kmip.enums import CryptographicAlgorithm, KeyFormatType
from crypto.kmip.fields import choice, number, octets, structure
from crypto.kmip.items import Item
from crypto.kmip.refusals import invalid
from crypto.kmip.tags import Tag

_RSA_BITS = (1024, 2048, 3072, 4096)
"""1024 bits are too few since 2013; devices of that age still ask for them."""
_PUBLIC_EXPONENT = 65537
_CURVES: Mapping[int, type[ec.EllipticCurve]] = MappingProxyType(
    {224: ec.SECP224R1, 256: ec.SECP256R1, 384: ec.SECP384R1, 521: ec.SECP521R1}
)
_EC_NAMES = (CryptographicAlgorithm.EC, CryptographicAlgorithm.ECDSA, CryptographicAlgorithm.ECDH)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """The two structures as they are kept."""

    private: Item
    public: Item


def new_key_pair(algorithm: int, bits: int | None) -> KeyPair:
    """Make a pair; takes up to seconds for long RSA keys, so it belongs into a thread. Raises KmipRefused."""
    private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
    if algorithm == CryptographicAlgorithm.RSA and bits in (None, *_RSA_BITS):
        size = bits or 2048
        private = rsa.generate_private_key(_PUBLIC_EXPONENT, size)
        forms = KeyFormatType.PKCS_1, KeyFormatType.PKCS_1
        public_format = serialization.PublicFormat.PKCS1
    elif algorithm in _EC_NAMES and (bits or 256) in _CURVES:
        size = bits or 256
        private = ec.generate_private_key(_CURVES[size]())
        forms = KeyFormatType.EC_PRIVATE_KEY, KeyFormatType.X_509
        public_format = serialization.PublicFormat.SubjectPublicKeyInfo
    else:
        raise invalid("no key pair of this algorithm and length is made")
    own = private.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    shared = private.public_key().public_bytes(serialization.Encoding.DER, public_format)
    return KeyPair(
        _key(Tag.PRIVATE_KEY, forms[0], own, algorithm, size), _key(Tag.PUBLIC_KEY, forms[1], shared, algorithm, size)
    )


def _key(tag: Tag, form: KeyFormatType, content: bytes, algorithm: int, bits: int) -> Item:
    return structure(
        tag,
        structure(
            Tag.KEY_BLOCK,
            choice(Tag.KEY_FORMAT_TYPE, form),
            structure(Tag.KEY_VALUE, octets(Tag.KEY_MATERIAL, content)),
            choice(Tag.CRYPTOGRAPHIC_ALGORITHM, algorithm),
            number(Tag.CRYPTOGRAPHIC_LENGTH, bits),
        ),
    )
