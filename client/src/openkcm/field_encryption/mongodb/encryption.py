"""Encryption of a document's values with their BSON types, and the format in which they are stored.

    plaintext        = BSON type (1) | the value as BSON encodes it, so that every type is restored exactly
    randomised       = Binary of OpenKCM's subtype: 00 "okcm" 01 | sealed (field_encryption/value_format.py)
    deterministic    = {"t": Binary of the same subtype: tag (16), "c": as above}

The place is store, database, collection, path and the document's `_id`. The subtype is from BSON's range for
applications. It is not the first one, 0x80, which applications commonly use, and not 6, which would make drivers with
client-side encryption try to decrypt the value.

MongoDB compares Binary by length, subtype and bytes, so a tag before a ciphertext could not be queried. In a document
of both parts, `path.t` is an ordinary path for queries and for indexes, unique or not.
"""

import hmac
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import bson
from bson import CodecOptions
from bson.binary import Binary
from bson.objectid import ObjectId

from openkcm.field_encryption import value_format as values
from openkcm.field_encryption.key_cache import TAG, Column, ColumnKeys, LatestKey, LentCiphers
from openkcm.field_encryption.mongodb.catalog import Collection, Field
from openkcm.field_encryption.mongodb.errors import PlainValueFound, ProtectionUnusable, ValueRefused
from openkcm.field_encryption.mongodb.pymongo_internals import binary

SUBTYPE = 0xC7
_PREFIX = values.BYTES_PREFIX[0]
_START = len(_PREFIX)
NONCE, BODY = _START + values.START, _START + values.HEAD
"""Where the nonce and the ciphertext of a stored value start; the bytes before the nonce identify its cipher."""
TAG_NAME, SEALED_NAME = "t", "c"
Codec = CodecOptions[Any]

STRING, _INT32, _INT64 = b"\x02", b"\x10", b"\x12"
_DOCUMENTS = frozenset({b"\x03", b"\x04"})
_COMPARABLE = frozenset({STRING, b"\x05", b"\x07", b"\x08", b"\x09", _INT32, b"\x11", _INT64})
"""Types whose equal values have equal bytes: string, Binary, ObjectId, bool, date, int, Timestamp."""


class FieldKeys(LentCiphers):
    """The keys of one field, which are looked up again only when their time is over; thread-safe."""

    __slots__ = ("_newest", "_tags")

    def __init__(self, keys: ColumnKeys, column: Column, place: bytes) -> None:
        super().__init__(keys, column, place, _PREFIX)
        self._newest, self._tags = LatestKey(keys, column), LatestKey(keys, column, TAG)

    def newest(self) -> values.ColumnKey:
        """Return the key to encrypt with. Raises KeyUnwrapError."""
        return self._newest.key(self._keys.clock())

    def tags(self) -> values.ColumnKey:
        """Return the key of the tags. Raises KeyUnwrapError."""
        return self._tags.key(self._keys.clock())


ReadableField = tuple[int, Field, str, bool, FieldKeys]
"""Number, field, its last name, whether that is inside of another document, and its keys."""
Readable = tuple[Collection, list[ReadableField], list[FieldKeys]]


class DatabaseKeys:
    """The keys of the fields of one database; thread-safe."""

    def __init__(self, keys: ColumnKeys) -> None:
        self._keys = keys
        self._fields: dict[Column, FieldKeys] = {}
        self._collections: dict[str, Readable] = {}

    def of(self, field: Field) -> FieldKeys:
        found = self._fields.get(field.column)
        if found is None:
            found = self._fields.setdefault(field.column, FieldKeys(self._keys, field.column, field.place))
        return found

    def readable(self, collection: Collection) -> list[ReadableField]:
        """Return the fields of a collection; their ciphers may now be used for the documents of a reply."""
        found = self._collections.get(collection.name)
        if found is None or found[0] is not collection:  # the list of protected fields has changed
            keys = [self.of(field) for field in collection.fields]
            fields = enumerate(zip(collection.fields, keys, strict=True))
            listed = [(at, field, field.parts[-1], field.nested, key) for at, (field, key) in fields]
            found = self._collections[collection.name] = collection, listed, keys
        self._keys.discard_expired(found[2])
        return found[1]


_OBJECT_ID = values.row_part([b"o" + bytes(12)])[:-12]


def identity(value: object, codec: Codec) -> bytes | None:
    """Return the part of a place that a document's fields share, None for an `_id` of an unsupported type."""
    if type(value) is ObjectId:
        return _OBJECT_ID + value.binary
    if type(value) is int:
        return values.row_part((value,))
    if isinstance(value, ObjectId):
        return values.row_part([b"o" + value.binary])
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return values.row_part([value])
    if isinstance(value, UUID):
        value = Binary.from_uuid(value, codec.uuid_representation)
    if isinstance(value, bytes):
        subtype = value.subtype if isinstance(value, Binary) else 0
        return values.row_part([b"s" + bytes([subtype]) + value])
    return None


def is_document(value: object, codec: Codec) -> bool:
    """Return whether a value is stored as a document or an array."""
    return bson.encode({"": value}, codec_options=codec)[4:5] in _DOCUMENTS


def seal(
    keys: FieldKeys, field: Field, identity: bytes, value: object, codec: Codec
) -> tuple[Binary | dict[str, Binary], int]:
    """Return the encrypted value to store, and the size of its plaintext. Raises KeyUnwrapError, ProtectionUnusable."""
    plain = _plain(value, codec)
    equality = tag(keys, field, plain) if field.deterministic else None
    sealed = binary(_PREFIX + values.seal(keys.newest(), field.place + identity, plain), SUBTYPE)
    if equality is None:
        return sealed, len(plain)
    return {TAG_NAME: binary(equality, SUBTYPE), SEALED_NAME: sealed}, len(plain)


def tag_of(keys: FieldKeys, field: Field, value: object, codec: Codec) -> Binary:
    """Return the tag for an equality query. Raises KeyUnwrapError, ProtectionUnusable."""
    return binary(tag(keys, field, _plain(value, codec)), SUBTYPE)


def tag(keys: FieldKeys, field: Field, plain: bytes) -> bytes:
    if plain[:1] not in _COMPARABLE:
        raise ProtectionUnusable(
            f"a value of {field.full_name} has a type that does not support equality",
            "store a string, an integer, a date, a boolean, bytes or an id, or protect the field without equality",
        )
    if plain[:1] == _INT32:  # drivers choose the type by size, and MongoDB considers the values equal
        plain = _INT64 + int.from_bytes(plain[1:], "little", signed=True).to_bytes(8, "little", signed=True)
    return values.tag(keys.tags(), field.place, plain)


def decrypted(keys: FieldKeys, field: Field, identity: bytes | None, stored: Any, codec: Codec) -> Any:
    """Return the decrypted value. Raises KeyUnwrapError, PlainValueFound, ValueRefused."""
    try:
        return value_of(_unseal(keys, field, identity, stored), codec)
    except values.NotEncrypted:
        if field.plaintext_allowed:
            return stored
        raise PlainValueFound(f"{field.full_name} contains a value that is not encrypted") from None
    except values.DecryptionFailed:
        raise ValueRefused(
            f"a value of {field.full_name} cannot be decrypted in its document: "
            "it was altered, moved, or encrypted by another service"
        ) from None


def has_tag(keys: FieldKeys, field: Field, plain: bytes, equality: object) -> bool:
    """Return whether a stored tag is that of the plaintext. Raises KeyUnwrapError, ProtectionUnusable."""
    return (
        type(equality) is Binary
        and equality.subtype == SUBTYPE
        and hmac.compare_digest(equality, tag(keys, field, plain))
    )


def size_of(stored: Binary | Mapping[str, Binary]) -> int:
    """Return the number of plaintext bytes of a stored value."""
    sealed = stored if isinstance(stored, Binary) else stored[SEALED_NAME]
    return len(sealed) - _START - values.AROUND


def _unseal(keys: FieldKeys, field: Field, identity: bytes | None, stored: Any) -> bytes:
    sealed, equality = _parts(stored)
    if identity is None:
        raise values.DecryptionFailed
    plain = keys.unseal(sealed, identity)
    if equality is not None and not hmac.compare_digest(equality, tag(keys, field, plain)):
        raise values.DecryptionFailed
    return plain


def _parts(stored: Any) -> tuple[bytes, Binary | None]:
    """Return the sealed bytes and the tag. Raises NotEncrypted, DecryptionFailed."""
    equality = None
    if (
        type(stored) is not Binary
        and isinstance(stored, Mapping)
        and len(stored) == 2
        and _is_encrypted(stored.get(TAG_NAME))
    ):
        equality, stored = stored[TAG_NAME], stored.get(SEALED_NAME)
    if not _is_encrypted(stored):
        raise values.NotEncrypted
    return values.from_bytes(stored)[0], equality


def _is_encrypted(stored: Any) -> bool:
    return isinstance(stored, Binary) and stored.subtype == SUBTYPE


def _plain(value: object, codec: Codec) -> bytes:
    if type(value) is str:
        text = value.encode("utf-8")
        return STRING + (len(text) + 1).to_bytes(4, "little") + text + b"\0"
    encoded = bson.encode({"": value}, codec_options=codec)
    return encoded[4:5] + encoded[6:-1]


def value_of(plain: bytes, codec: Codec) -> Any:
    """Return the value of a plaintext."""
    if plain[:1] == STRING:
        return plain[5:-1].decode("utf-8")
    element = plain[:1] + b"\0" + plain[1:] + b"\0"
    return bson.decode((len(element) + 4).to_bytes(4, "little") + element, codec_options=codec)[""]
