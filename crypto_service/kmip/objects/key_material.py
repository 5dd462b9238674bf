"""The content of a managed object: the structure that was registered or created, stored unchanged and encrypted.

Every object type can therefore be stored and returned unchanged. Only symmetric keys and secrets are interpreted,
because only they are used here.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from crypto_service.kmip.codec.enums import (
    CryptographicAlgorithm,
    HashingAlgorithm,
    KeyFormatType,
    ObjectType,
    ResultReason,
)
from crypto_service.kmip.codec.errors import KmipRefused, invalid, unsupported
from crypto_service.kmip.codec.fields import (
    choice,
    number,
    octets,
    read_choice,
    read_number,
    read_structure,
    required,
    structure,
)
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item, ItemType, encode

TAGS: Mapping[int, Tag] = MappingProxyType(
    {
        ObjectType.CERTIFICATE: Tag.CERTIFICATE,
        ObjectType.SYMMETRIC_KEY: Tag.SYMMETRIC_KEY,
        ObjectType.PUBLIC_KEY: Tag.PUBLIC_KEY,
        ObjectType.PRIVATE_KEY: Tag.PRIVATE_KEY,
        ObjectType.SPLIT_KEY: Tag.SPLIT_KEY,
        ObjectType.TEMPLATE: Tag.TEMPLATE,
        ObjectType.SECRET_DATA: Tag.SECRET_DATA,
        ObjectType.OPAQUE_OBJECT: Tag.OPAQUE_OBJECT,
        ObjectType.PGP_KEY: Tag.PGP_KEY,
    }
)
MOST_BYTES = 60_000
"""The maximum size of an object; the database stores 64 KiB including the encryption overhead."""

# Algorithm → permitted lengths in bits with the bytes of the key; 3DES counts without its parity bits.
_LENGTHS: Mapping[int, Mapping[int, int]] = MappingProxyType(
    {
        CryptographicAlgorithm.AES: {128: 16, 192: 24, 256: 32},
        CryptographicAlgorithm.DES3: {112: 16, 128: 16, 168: 24, 192: 24},
        CryptographicAlgorithm.CAMELLIA: {128: 16, 192: 24, 256: 32},
        CryptographicAlgorithm.CHACHA20: {256: 32},
        # Weak, like 3DES; created and stored for clients that request it by name, and never used here.
        CryptographicAlgorithm.SKIPJACK: {80: 10},
        CryptographicAlgorithm.CHACHA20_POLY1305: {256: 32},
    }
)
_HMAC: Mapping[int, int] = MappingProxyType(
    {
        CryptographicAlgorithm.HMAC_SHA1: 160,
        CryptographicAlgorithm.HMAC_SHA224: 224,
        CryptographicAlgorithm.HMAC_SHA256: 256,
        CryptographicAlgorithm.HMAC_SHA384: 384,
        CryptographicAlgorithm.HMAC_SHA512: 512,
    }
)
_HMAC_BITS = range(112, 4097, 8)
_PLAIN = (KeyFormatType.RAW, KeyFormatType.OPAQUE)


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """The fields of a key block beside the material; None where absent."""

    format: int
    algorithm: int | None
    length: int | None


def new_symmetric_key(algorithm: int, length: int | None) -> tuple[Item, int]:
    """Return a new SymmetricKey structure and its length in bits."""
    bits, size = key_size(algorithm, length)
    return symmetric_key(os.urandom(size), algorithm, bits), bits


def key_size(algorithm: int, length: int | None) -> tuple[int, int]:
    """Return the nominal bits of a key (the maximum without `length`) and its bytes; raise KmipRefused."""
    if algorithm in _HMAC:
        bits = length or _HMAC[algorithm]
        if bits not in _HMAC_BITS:
            raise invalid("an HMAC key must have 112 to 4096 bits")
        return bits, bits // 8
    if algorithm not in _LENGTHS:
        raise invalid("the algorithm is not supported for symmetric keys")
    bits = max(_LENGTHS[algorithm]) if length is None else length
    if bits not in _LENGTHS[algorithm]:
        raise invalid("the algorithm does not support this key length")
    return bits, _LENGTHS[algorithm][bits]


def symmetric_key(material: bytes, algorithm: int, bits: int) -> Item:
    return structure(
        Tag.SYMMETRIC_KEY,
        structure(
            Tag.KEY_BLOCK,
            choice(Tag.KEY_FORMAT_TYPE, KeyFormatType.RAW),
            structure(Tag.KEY_VALUE, octets(Tag.KEY_MATERIAL, material)),
            choice(Tag.CRYPTOGRAPHIC_ALGORITHM, algorithm),
            number(Tag.CRYPTOGRAPHIC_LENGTH, bits),
        ),
    )


def read_registered(object_type: int, payload: Item) -> Item:
    """Return the structure that a client registers, validated as far as its type is interpreted here."""
    tag = TAGS.get(object_type)
    if tag is None:
        raise invalid("the object type is not supported")
    found = required(read_structure(payload, tag), tag)
    if len(encode(found)) > MOST_BYTES:
        raise invalid("the object is too large")
    if object_type in (ObjectType.SYMMETRIC_KEY, ObjectType.SECRET_DATA):
        _check_key(object_type, found)
    elif object_type == ObjectType.SPLIT_KEY:
        raise unsupported("split keys are not supported")
    elif object_type == ObjectType.OPAQUE_OBJECT:
        required(read_choice(found, Tag.OPAQUE_DATA_TYPE), Tag.OPAQUE_DATA_TYPE)
        required(found.first(Tag.OPAQUE_DATA_VALUE), Tag.OPAQUE_DATA_VALUE)
    elif object_type == ObjectType.CERTIFICATE:
        required(read_choice(found, Tag.CERTIFICATE_TYPE), Tag.CERTIFICATE_TYPE)
        required(found.first(Tag.CERTIFICATE_VALUE), Tag.CERTIFICATE_VALUE)
    elif object_type != ObjectType.TEMPLATE:
        key_facts(found)
    return found


def key_facts(found: Item) -> KeyFacts:
    """Return the fields of an object's key block."""
    block = required(read_structure(found, Tag.KEY_BLOCK), Tag.KEY_BLOCK)
    return KeyFacts(
        required(read_choice(block, Tag.KEY_FORMAT_TYPE), Tag.KEY_FORMAT_TYPE),
        read_choice(block, Tag.CRYPTOGRAPHIC_ALGORITHM),
        read_number(block, Tag.CRYPTOGRAPHIC_LENGTH),
    )


def key_bytes(found: Item) -> bytes:
    """Return the material of a symmetric key or secret; raise KmipRefused where it has another form."""
    material = content(found)
    if material.type is ItemType.STRUCTURE:
        inner = material.first(Tag.KEY)
        if inner is not None:
            material = inner
    if not isinstance(material.value, bytes):
        raise KmipRefused(ResultReason.KEY_FORMAT_TYPE_NOT_SUPPORTED, "the stored key has an unsupported format")
    return material.value


def is_in_format(object_type: int, found: Item, wanted: int | None) -> bool:
    """Return whether an object already has the format that the client requests, or has no key format."""
    if wanted is None or TAGS[object_type] in (Tag.CERTIFICATE, Tag.TEMPLATE, Tag.OPAQUE_OBJECT):
        return True
    return key_facts(found).format == wanted


def in_format(object_type: int, found: Item, wanted: int) -> Item:
    """Return a symmetric key or secret in the format that the client requests; raise KmipRefused for other objects."""
    symmetric = (*_PLAIN, KeyFormatType.TRANSPARENT_SYMMETRIC_KEY)
    if object_type not in (ObjectType.SYMMETRIC_KEY, ObjectType.SECRET_DATA) or wanted not in symmetric:
        raise KmipRefused(ResultReason.KEY_FORMAT_TYPE_NOT_SUPPORTED, "the object is not available in this format")
    plain = key_bytes(found)
    material = octets(Tag.KEY_MATERIAL, plain)
    if wanted == KeyFormatType.TRANSPARENT_SYMMETRIC_KEY:
        material = structure(Tag.KEY_MATERIAL, octets(Tag.KEY, plain))
    return with_content(found, wanted, material)


def with_content(found: Item, form: int, material: Item) -> Item:
    """Return an object with other key material, in the format `form`."""
    block = required(read_structure(found, Tag.KEY_BLOCK), Tag.KEY_BLOCK)
    value = structure(Tag.KEY_VALUE, material)
    swapped = {Tag.KEY_FORMAT_TYPE: choice(Tag.KEY_FORMAT_TYPE, form), Tag.KEY_VALUE: value}
    again = structure(Tag.KEY_BLOCK, *(swapped.get(Tag(part.tag), part) for part in block.children()))
    return structure(found.tag, *(again if part.tag == Tag.KEY_BLOCK else part for part in found.children()))


def digest(object_type: int, found: Item) -> Item | None:
    """Return the value of the Digest attribute; None for objects without one.

    A secret has no digest here, contrary to the specification: attributes are not encrypted, and the digest of a weak
    password permits an offline guess of it.
    """
    if object_type in (ObjectType.SECRET_DATA, ObjectType.OPAQUE_OBJECT, ObjectType.TEMPLATE):
        return None
    if object_type == ObjectType.CERTIFICATE:
        given, form = found.first(Tag.CERTIFICATE_VALUE), int(KeyFormatType.X_509)
    else:
        given, form = content(found), key_facts(found).format
    if given is None:
        return None
    raw = given.value if isinstance(given.value, bytes) else encode(given)
    return structure(
        Tag.ATTRIBUTE_VALUE,
        choice(Tag.HASHING_ALGORITHM, HashingAlgorithm.SHA_256),
        octets(Tag.DIGEST_VALUE, hashlib.sha256(raw).digest()),
        choice(Tag.KEY_FORMAT_TYPE, form),
    )


def content(found: Item) -> Item:
    """Return the key material of an object."""
    block = required(read_structure(found, Tag.KEY_BLOCK), Tag.KEY_BLOCK)
    value = required(block.first(Tag.KEY_VALUE), Tag.KEY_VALUE)
    return required(value.first(Tag.KEY_MATERIAL), Tag.KEY_MATERIAL)


def _check_key(object_type: int, found: Item) -> None:
    block = required(read_structure(found, Tag.KEY_BLOCK), Tag.KEY_BLOCK)
    if block.first(Tag.KEY_WRAPPING_DATA) is not None:
        raise KmipRefused(ResultReason.FEATURE_NOT_SUPPORTED, "wrapped keys are not supported")
    facts, material = key_facts(found), key_bytes(found)
    if not material:
        raise invalid("the key is empty")
    if object_type == ObjectType.SECRET_DATA:
        required(read_choice(found, Tag.SECRET_DATA_TYPE), Tag.SECRET_DATA_TYPE)
        return
    algorithm = required(facts.algorithm, Tag.CRYPTOGRAPHIC_ALGORITHM)
    length = required(facts.length, Tag.CRYPTOGRAPHIC_LENGTH)
    expected = _LENGTHS.get(algorithm, {}).get(length, length // 8)
    if len(material) != expected:
        raise invalid("the key does not have its stated length")
