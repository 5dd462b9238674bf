"""RSA and elliptic curve keys in the formats of KMIP 1.4, sections 2.1.3 and 2.1.7: DER, and transparent RSA.

Clients choose the numbers of the keys that they register. The checks of OpenSSL's loader include primality, take up to
a second and hold the interpreter lock, which would block the event loop. Here, the numbers are only compared with each
other: keys with numbers that are no primes give wrong results, but none has an exponent that makes it slow.
"""

from collections.abc import Mapping
from types import MappingProxyType

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
)

from crypto_service.kmip.codec.enums import KeyFormatType, ResultReason
from crypto_service.kmip.codec.errors import KmipRefused, invalid, wrong
from crypto_service.kmip.codec.fields import big, octets, read_big, required, structure
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item, ItemType
from crypto_service.kmip.objects import key_material

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey

CONVERSION_COST = 4
"""The cost of a conversion for `Limits.charge`: 0.3 ms with the largest RSA key."""

_F = KeyFormatType
_RSA_PRIVATE: Mapping[int, PrivateFormat] = MappingProxyType(
    {_F.PKCS_1: PrivateFormat.TraditionalOpenSSL, _F.PKCS_8: PrivateFormat.PKCS8}
)
_EC_PRIVATE: Mapping[int, PrivateFormat] = MappingProxyType(
    {_F.EC_PRIVATE_KEY: PrivateFormat.TraditionalOpenSSL, _F.PKCS_8: PrivateFormat.PKCS8}
)
_RSA_PUBLIC: Mapping[int, PublicFormat] = MappingProxyType(
    {_F.PKCS_1: PublicFormat.PKCS1, _F.X_509: PublicFormat.SubjectPublicKeyInfo}
)
_EC_PUBLIC: Mapping[int, PublicFormat] = MappingProxyType({_F.X_509: PublicFormat.SubjectPublicKeyInfo})
_MOST_RSA_BITS = 8192
_LARGEST_EXPONENT = 2**32
"""An exponent near the modulus makes a verification 300 times as slow."""


def private_key_cost(held: Item) -> int:
    """Return the cost of a signature or decryption for `Limits.charge`; with RSA the third power of the key's size."""
    content = key_material.content(held)
    if content.type is ItemType.STRUCTURE:
        size = 9 * _public_numbers(content).n.bit_length() // 16  # as in PKCS #1
    else:
        size = len(_der(content))
    return max(4, (size // 500) ** 3)


def load_private(held: Item) -> PrivateKey:
    """Return the key of a PrivateKey structure; raise KmipRefused."""
    try:
        key = _private(held)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise invalid("the private key has an unsupported format") from None
    if isinstance(key, rsa.RSAPrivateKey):
        _require_size(key.key_size)
        if not _is_consistent(key.private_numbers()):
            raise invalid("the numbers of the private key do not belong together")
    return key


def load_public(held: Item) -> PublicKey:
    """Return the key of a PublicKey structure; raise KmipRefused."""
    try:
        key = _public(held)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise invalid("the public key has an unsupported format") from None
    if isinstance(key, rsa.RSAPublicKey):
        _require_size(key.key_size)
        if key.public_numbers().e > _LARGEST_EXPONENT:
            raise invalid("the public exponent of an RSA key must not exceed 2^32")
    return key


def in_format(held: Item, wanted: int) -> Item:
    """Return a PrivateKey or PublicKey structure in the format that the client requests; raise KmipRefused."""
    content = _private_content(held, wanted) if held.tag == Tag.PRIVATE_KEY else _public_content(held, wanted)
    return key_material.with_content(held, wanted, content)


def require_readable(held: Item) -> None:
    """Raise KmipRefused for a transparent RSA key without the numbers that its use requires.

    Computes none of the numbers that follow from others: for the largest key this takes 2 ms of the event loop.
    """
    form = key_material.key_facts(held).format
    if form == _F.TRANSPARENT_RSA_PUBLIC_KEY:
        _public_numbers(key_material.content(held))
    elif form == _F.TRANSPARENT_RSA_PRIVATE_KEY:
        _primes(key_material.content(held))


def _private(held: Item) -> PrivateKey:
    content = key_material.content(held)
    if key_material.key_facts(held).format == _F.TRANSPARENT_RSA_PRIVATE_KEY:
        return _private_numbers(content).private_key(unsafe_skip_rsa_key_validation=True)
    key = load_der_private_key(_der(content), None, unsafe_skip_rsa_key_validation=True)
    if not isinstance(key, PrivateKey):
        raise invalid("the key must be an RSA or elliptic curve key")
    return key


def _public(held: Item) -> PublicKey:
    content = key_material.content(held)
    if key_material.key_facts(held).format == _F.TRANSPARENT_RSA_PUBLIC_KEY:
        return _public_numbers(content).public_key()
    key = load_der_public_key(_der(content))
    if not isinstance(key, PublicKey):
        raise invalid("the key must be an RSA or elliptic curve key")
    return key


def _private_content(held: Item, wanted: int) -> Item:
    key = load_private(held)
    if isinstance(key, rsa.RSAPrivateKey) and wanted == _F.TRANSPARENT_RSA_PRIVATE_KEY:
        numbers = key.private_numbers()
        return structure(
            Tag.KEY_MATERIAL,
            big(Tag.MODULUS, numbers.public_numbers.n),
            big(Tag.PRIVATE_EXPONENT, numbers.d),
            big(Tag.PUBLIC_EXPONENT, numbers.public_numbers.e),
            big(Tag.P, numbers.p),
            big(Tag.Q, numbers.q),
            big(Tag.PRIME_EXPONENT_P, numbers.dmp1),
            big(Tag.PRIME_EXPONENT_Q, numbers.dmq1),
            big(Tag.CRT_COEFFICIENT, numbers.iqmp),
        )
    form = (_RSA_PRIVATE if isinstance(key, rsa.RSAPrivateKey) else _EC_PRIVATE).get(wanted)
    if form is None:
        raise _unavailable()
    return octets(Tag.KEY_MATERIAL, key.private_bytes(Encoding.DER, form, NoEncryption()))


def _public_content(held: Item, wanted: int) -> Item:
    key = load_public(held)
    if isinstance(key, rsa.RSAPublicKey) and wanted == _F.TRANSPARENT_RSA_PUBLIC_KEY:
        numbers = key.public_numbers()
        return structure(Tag.KEY_MATERIAL, big(Tag.MODULUS, numbers.n), big(Tag.PUBLIC_EXPONENT, numbers.e))
    form = (_RSA_PUBLIC if isinstance(key, rsa.RSAPublicKey) else _EC_PUBLIC).get(wanted)
    if form is None:
        raise _unavailable()
    return octets(Tag.KEY_MATERIAL, key.public_bytes(Encoding.DER, form))


def _public_numbers(content: Item) -> rsa.RSAPublicNumbers:
    if content.type is not ItemType.STRUCTURE:
        raise wrong(Tag.KEY_MATERIAL)
    modulus = _positive(content, Tag.MODULUS)
    _require_size(modulus.bit_length())
    return rsa.RSAPublicNumbers(_positive(content, Tag.PUBLIC_EXPONENT), modulus)


def _private_numbers(content: Item) -> rsa.RSAPrivateNumbers:
    """Return the numbers of a transparent key; those that follow from its primes are optional."""
    public = _public_numbers(content)
    p, q = _primes(content)
    given = read_big(content, Tag.PRIVATE_EXPONENT)
    try:
        exponent = rsa.rsa_recover_private_exponent(public.e, p, q) if given is None else given
        return rsa.RSAPrivateNumbers(
            p, q, exponent, rsa.rsa_crt_dmp1(exponent, p), rsa.rsa_crt_dmq1(exponent, q), rsa.rsa_crt_iqmp(p, q), public
        )
    except (ValueError, ZeroDivisionError):
        raise invalid("the numbers of the private key do not belong together") from None


def _primes(content: Item) -> tuple[int, int]:
    """Return the primes of a transparent key.

    The specification also permits a key without its primes. To find them takes up to a second with the interpreter
    lock, so such a key is rejected.
    """
    modulus = _public_numbers(content).n
    p, q = _positive(content, Tag.P), _positive(content, Tag.Q)
    if max(p, q) >= modulus or p * q != modulus:
        raise invalid("the modulus of the RSA key is not the product of its primes")
    return p, q


def _is_consistent(numbers: rsa.RSAPrivateNumbers) -> bool:
    p, q, d, public = numbers.p, numbers.q, numbers.d, numbers.public_numbers
    return (
        p * q == public.n
        and min(p, q) > 2
        and p & q & public.e & 1 == 1
        and d < public.n
        and numbers.dmp1 == d % (p - 1)
        and numbers.dmq1 == d % (q - 1)
        and numbers.iqmp < p
        and numbers.iqmp * q % p == 1
        and d * public.e % (p - 1) == 1
        and d * public.e % (q - 1) == 1
    )


def _positive(content: Item, tag: Tag) -> int:
    value = required(read_big(content, tag), tag)
    if value <= 0:
        raise invalid("the numbers of an RSA key must be positive")
    return value


def _der(content: Item) -> bytes:
    if not isinstance(content.value, bytes):
        raise KmipRefused(ResultReason.KEY_FORMAT_TYPE_NOT_SUPPORTED, "the stored key has an unsupported format")
    return content.value


def _unavailable() -> KmipRefused:
    return KmipRefused(ResultReason.KEY_FORMAT_TYPE_NOT_SUPPORTED, "the key is not available in this format")


def _require_size(bits: int) -> None:
    if bits > _MOST_RSA_BITS:
        raise invalid(f"an RSA key must not have more than {_MOST_RSA_BITS} bits")
