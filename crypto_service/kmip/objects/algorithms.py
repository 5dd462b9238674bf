"""Asymmetric algorithms and key derivation for managed objects.

Signatures: RSA (PKCS #1 v1.5 and PSS) and ECDSA. SHA-1 is not supported, because its signatures can be forged; a client
that must verify old signatures can fetch the public key. Key derivation: KMIP 1.4, section 4.6 and table 9.1.3.2.21.
New key pairs: in the formats that KMIP defines; they are created and stored for clients, and not used here.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode

from crypto_service.kmip.codec.enums import (
    CryptographicAlgorithm,
    DigitalSignatureAlgorithm,
    HashingAlgorithm,
    KeyFormatType,
    PaddingMethod,
)
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

_D, _H, _P = DigitalSignatureAlgorithm, HashingAlgorithm, PaddingMethod
_HASHES: Mapping[int, hashes.HashAlgorithm] = MappingProxyType(
    {_H.SHA_224: hashes.SHA224(), _H.SHA_256: hashes.SHA256(), _H.SHA_384: hashes.SHA384(), _H.SHA_512: hashes.SHA512()}
)
_NAMED: Mapping[int, tuple[int, int | None]] = MappingProxyType(
    {
        _D.SHA224_WITH_RSA_ENCRYPTION: (_H.SHA_224, _P.PKCS1_V1_5),
        _D.SHA256_WITH_RSA_ENCRYPTION: (_H.SHA_256, _P.PKCS1_V1_5),
        _D.SHA384_WITH_RSA_ENCRYPTION: (_H.SHA_384, _P.PKCS1_V1_5),
        _D.SHA512_WITH_RSA_ENCRYPTION: (_H.SHA_512, _P.PKCS1_V1_5),
        _D.ECDSA_WITH_SHA224: (_H.SHA_224, None),
        _D.ECDSA_WITH_SHA256: (_H.SHA_256, None),
        _D.ECDSA_WITH_SHA384: (_H.SHA_384, None),
        _D.ECDSA_WITH_SHA512: (_H.SHA_512, None),
    }
)
"""Digital signature algorithm → hash and padding; RSASSA-PSS specifies its hash separately."""


class Scheme:
    """Signature parameters from a request's cryptographic parameters; raises KmipRefused for unsupported ones."""

    def __init__(self, parameters: Item) -> None:
        algorithm = read_choice(parameters, Tag.DIGITAL_SIGNATURE_ALGORITHM)
        hashing, padded = _NAMED.get(algorithm or 0, (None, None))
        if algorithm == _D.RSASSA_PSS:
            padded = _P.PSS
        elif algorithm is not None and hashing is None:
            raise invalid("the digital signature algorithm is not supported")
        wanted = _HASHES.get(hashing or read_choice(parameters, Tag.HASHING_ALGORITHM) or 0)
        if wanted is None:
            raise invalid("the hashing algorithm is missing or not supported for signatures")
        self.hash: hashes.HashAlgorithm = wanted
        self.padding = padded or read_choice(parameters, Tag.PADDING_METHOD)

    def of_rsa(self) -> padding.AsymmetricPadding:
        """Return the padding of an RSA signature."""
        if self.padding == _P.PKCS1_V1_5:
            return padding.PKCS1v15()
        if self.padding == _P.PSS:
            return padding.PSS(padding.MGF1(self.hash), self.hash.digest_size)
        raise invalid("the padding method of an RSA signature must be PKCS1v1.5 or PSS")


VERIFICATION_COST = 8
"""The cost of a verification for `Limits.charge`: at most 0.4 ms, with a key of the largest size and exponent."""
_MOST_RSA_BITS = 8192
_LARGEST_EXPONENT = 2**32
"""An exponent near the modulus makes a verification 300 times as slow."""


def signature_cost(private_der: bytes) -> int:
    """Return the cost of a signature for `Limits.charge`; that of RSA grows with the third power of the key's size."""
    return max(4, (len(private_der) // 500) ** 3)


def sign(private_der: bytes, scheme: Scheme, data: bytes) -> bytes:
    """Return the signature; for ECDSA in DER."""
    try:
        key = serialization.load_der_private_key(private_der, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise invalid("the private key has an unsupported format") from None
    if isinstance(key, rsa.RSAPrivateKey):
        _require_size(key.key_size)
        return key.sign(data, scheme.of_rsa(), scheme.hash)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(data, ec.ECDSA(scheme.hash))
    raise invalid("signatures require an RSA or elliptic curve key")


def is_valid_signature(public_der: bytes, scheme: Scheme, data: bytes, signature: bytes) -> bool:
    """Return whether the signature over the data is valid for the key."""
    try:
        key = serialization.load_der_public_key(public_der)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise invalid("the public key has an unsupported format") from None
    try:
        if isinstance(key, rsa.RSAPublicKey):
            _require_size(key.key_size)
            if key.public_numbers().e > _LARGEST_EXPONENT:
                raise invalid("the public exponent of an RSA key must not exceed 2^32")
            key.verify(signature, data, scheme.of_rsa(), scheme.hash)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, data, ec.ECDSA(scheme.hash))
        else:
            raise invalid("signatures require an RSA or elliptic curve key")
    except InvalidSignature:
        return False
    return True


def _require_size(bits: int) -> None:
    if bits > _MOST_RSA_BITS:
        raise invalid(f"an RSA key must not have more than {_MOST_RSA_BITS} bits")


_MOST_ITERATIONS = 10_000_000
_ITERATIONS_FOR_A_UNIT = 100
_LEAST_ITERATIONS = 1_000
"""The minimum of SP 800-132."""
_HASHING = HashingAlgorithm
_NAMES: Mapping[int, str] = MappingProxyType(
    {_HASHING.SHA_224: "sha224", _HASHING.SHA_256: "sha256", _HASHING.SHA_384: "sha384", _HASHING.SHA_512: "sha512"}
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
            algorithm=_HASHES[hashing],
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
