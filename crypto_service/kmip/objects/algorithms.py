"""Key derivation and new key pairs for managed objects; `asymmetric` uses the pairs.

Key derivation: KMIP 1.4, section 4.6 and table 9.1.3.2.21. New key pairs: in the formats that KMIP defines.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode

from crypto_service.kmip.codec.enums import CryptographicAlgorithm, HashingAlgorithm, KeyFormatType
from crypto_service.kmip.codec.errors import invalid
from crypto_service.kmip.codec.fields import (
    choice,
    number,
    octets,
    read_choice,
    read_number,
    read_octets,
    read_structure,
    required,
    structure,
)
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item

_H = HashingAlgorithm
HASHES: Mapping[int, hashes.HashAlgorithm] = MappingProxyType(
    {_H.SHA_224: hashes.SHA224(), _H.SHA_256: hashes.SHA256(), _H.SHA_384: hashes.SHA384(), _H.SHA_512: hashes.SHA512()}
)
_MOST_ITERATIONS = 10_000_000
_ITERATIONS_FOR_A_UNIT = 100
_LEAST_ITERATIONS = 1_000
"""The minimum of SP 800-132."""
_NAMES: Mapping[int, str] = MappingProxyType(
    {_H.SHA_224: "sha224", _H.SHA_256: "sha256", _H.SHA_384: "sha384", _H.SHA_512: "sha512"}
)


class Method(IntEnum):
    PBKDF2 = 1
    HASH = 2
    HMAC = 3
    NIST_800_108_C = 5


def derivation_cost(method: int, parameters: Item, length: int) -> int:
    """Return the cost of a derivation for `Limits.charge`; raise KmipRefused."""
    if method != Method.PBKDF2:
        return 1
    return 1 + _iterations(parameters, length) // _ITERATIONS_FOR_A_UNIT


def _iterations(parameters: Item, length: int) -> int:
    """Return the iterations of PBKDF2 over all blocks of the result."""
    rounds = required(read_number(parameters, Tag.ITERATION_COUNT), Tag.ITERATION_COUNT)
    total = rounds * -(-length // hashlib.new(_NAMES[_hashing(parameters)]).digest_size)
    if rounds < _LEAST_ITERATIONS or total > _MOST_ITERATIONS:
        raise invalid("the iteration count must be between 1000 and 10 million, over all blocks of the derived key")
    return total


def derive_key_bytes(method: int, base: bytes, parameters: Item, length: int) -> bytes:
    """Return `length` derived bytes; many iterations take seconds, so it MUST run in a thread."""
    hashing = _hashing(parameters)
    data = read_octets(parameters, Tag.DERIVATION_DATA)
    if method == Method.PBKDF2:
        salt = required(read_octets(parameters, Tag.SALT), Tag.SALT)
        _iterations(parameters, length)
        rounds = required(read_number(parameters, Tag.ITERATION_COUNT), Tag.ITERATION_COUNT)
        return hashlib.pbkdf2_hmac(_NAMES[hashing], base, salt, rounds, length)
    if method == Method.NIST_800_108_C:
        context = required(data, Tag.DERIVATION_DATA)
        return KBKDFHMAC(
            algorithm=HASHES[hashing],
            mode=Mode.CounterMode,
            length=length,
            rlen=4,
            llen=None,
            location=CounterLocation.BeforeFixed,
            label=None,
            context=None,
            fixed=context,
        ).derive(base)
    if method == Method.HMAC:
        whole = hmac.digest(base, required(data, Tag.DERIVATION_DATA), _NAMES[hashing])
    elif method == Method.HASH:
        whole = hashlib.new(_NAMES[hashing], base + (data or b"")).digest()
    else:
        raise invalid("supported derivation methods are PBKDF2, HASH, HMAC and NIST 800-108 in counter mode")
    if length > len(whole):
        raise invalid("the derivation method returns fewer bytes than the key requires")
    return whole[:length]


def _hashing(parameters: Item) -> int:
    given = required(read_structure(parameters, Tag.CRYPTOGRAPHIC_PARAMETERS), Tag.CRYPTOGRAPHIC_PARAMETERS)
    hashing = read_choice(given, Tag.HASHING_ALGORITHM)
    if hashing is None or hashing not in _NAMES:
        raise invalid("the hashing algorithm is missing or not supported for derivation")
    return hashing


_RSA_BITS = (1024, 2048, 3072, 4096)
"""1024 bits are insufficient since 2013, but older devices still request them."""
_PUBLIC_EXPONENT = 65537
_CURVES: Mapping[int, type[ec.EllipticCurve]] = MappingProxyType(
    {224: ec.SECP224R1, 256: ec.SECP256R1, 384: ec.SECP384R1, 521: ec.SECP521R1}
)
_EC_NAMES = (CryptographicAlgorithm.EC, CryptographicAlgorithm.ECDSA, CryptographicAlgorithm.ECDH)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """The two structures as they are stored."""

    private: Item
    public: Item


def key_pair_cost(algorithm: int, bits: int | None) -> int:
    """Return the cost of a key pair for `Limits.charge`; that of RSA grows with the fourth power of its size."""
    if algorithm != CryptographicAlgorithm.RSA:
        return 4
    return 100 * (min(bits or 2048, max(_RSA_BITS)) // 1024) ** 4


def new_key_pair(algorithm: int, bits: int | None) -> KeyPair:
    """Create a key pair; long RSA keys take seconds, so it MUST run in a thread. Raise KmipRefused."""
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
        raise invalid("key pairs of this algorithm and length are not supported")
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
