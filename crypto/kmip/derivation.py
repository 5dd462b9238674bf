"""Deriving keys from keys (KMIP 1.4, section 4.6 and table 9.1.3.2.21)."""

import hashlib
import hmac
from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode

from crypto.kmip.enums import HashingAlgorithm
from crypto.kmip.fields import read_choice, read_number, read_octets, read_structure, required
from crypto.kmip.items import Item
from crypto.kmip.refusals import invalid
from crypto.kmip.tags import Tag

_MOST_ITERATIONS = 10_000_000
_LEAST_ITERATIONS = 1_000
"""SP 800-132 asks for no fewer."""
_H = HashingAlgorithm
_NAMES: Mapping[int, str] = MappingProxyType(
    {_H.SHA_224: "sha224", _H.SHA_256: "sha256", _H.SHA_384: "sha384", _H.SHA_512: "sha512"}
)
_HASHES: Mapping[int, hashes.HashAlgorithm] = MappingProxyType(
    {_H.SHA_224: hashes.SHA224(), _H.SHA_256: hashes.SHA256(), _H.SHA_384: hashes.SHA384(), _H.SHA_512: hashes.SHA512()}
)


class Method(IntEnum):
    PBKDF2 = 1
    HASH = 2
    HMAC = 3
    NIST_800_108_C = 5


def derived(method: int, base: bytes, parameters: Item, length: int) -> bytes:
    """Return `length` bytes; takes up to seconds with many iterations, so it belongs into a thread."""
    hashing = _hashing(parameters)
    data = read_octets(parameters, Tag.DERIVATION_DATA)
    if method == Method.PBKDF2:
        salt = required(read_octets(parameters, Tag.SALT), Tag.SALT)
        rounds = required(read_number(parameters, Tag.ITERATION_COUNT), Tag.ITERATION_COUNT)
        if not _LEAST_ITERATIONS <= rounds <= _MOST_ITERATIONS:
            raise invalid("the iteration count is not of 1000 to 10 million")
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
        raise invalid("keys are derived by PBKDF2, HASH, HMAC and NIST 800-108 in counter mode only")
    if length > len(whole):
        raise invalid("the method gives fewer bytes than the key has")
    return whole[:length]


def _hashing(parameters: Item) -> int:
    given = required(read_structure(parameters, Tag.CRYPTOGRAPHIC_PARAMETERS), Tag.CRYPTOGRAPHIC_PARAMETERS)
    hashing = read_choice(given, Tag.HASHING_ALGORITHM)
    if hashing is None or hashing not in _NAMES:
        raise invalid("the hashing algorithm is missing or not used for derivation")
    return hashing
