"""Documents as the application reads them: decrypted, and without an `_id` that was added."""

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import bson
from bson import CodecOptions
from bson.binary import Binary
from bson.codec_options import DatetimeConversion, TypeRegistry
from bson.raw_bson import RawBSONDocument
from cryptography.exceptions import InvalidTag

from openkcm.field_encryption.key_cache import KeyUnwrapError
from openkcm.field_encryption.mongodb import encryption as sealing
from openkcm.field_encryption.mongodb.catalog import Field
from openkcm.field_encryption.mongodb.encryption import BODY, NONCE, SEALED_NAME, STRING, SUBTYPE, TAG_NAME, Codec
from openkcm.field_encryption.mongodb.errors import PlainValueFound, StatementRefused, unavailable
from openkcm.field_encryption.mongodb.pymongo_internals import is_opaque, subtype
from openkcm.field_encryption.mongodb.rewrite.projections import Documents
from openkcm.field_encryption.mongodb.rewrite.request import Request

_BATCHES = ("firstBatch", "nextBatch")
_RAW = (bytes, memoryview)
_AS_STORED: Codec = CodecOptions(document_class=dict, datetime_conversion=DatetimeConversion.DATETIME_MS)

_UNUSUAL = (KeyError, ValueError, TypeError, InvalidTag, KeyUnwrapError)
"""Errors of the fast path for a value that is not an ordinary one."""
_BATCH_DOCUMENTS = 1000
"""Documents that are decrypted together; a key may expire during that time only."""


class ReplyDecryptor:
    """Decrypts the documents of a reply.

    Nearly all values are valid and belong to a known session; the loop of `_decrypted` decrypts these without a
    call. `encryption.decrypted` handles all others with every check, and raises the reason if one cannot be decrypted.
    """

    __slots__ = ("_is_opaque", "reads", "request")

    def __init__(self, request: Request, reads: Documents) -> None:
        self.request, self.reads = request, reads
        self._is_opaque = reads is not Documents.OTHERS and is_opaque(request.codec)

    @property
    def codec(self) -> Codec:
        """The options with which the driver decodes the reply, once."""
        codec = self.request.codec
        if not self._is_opaque:
            return codec
        return codec.with_options(document_class=RawBSONDocument, type_registry=TypeRegistry())

    def decrypted(self, reply: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the reply with decrypted documents. Raises KeysUnavailable, PlainValueFound, ValueRefused."""
        try:
            cursor = reply.get("cursor")
            if cursor is not None:
                for batch in _BATCHES:
                    if documents := cursor.get(batch):
                        found = self._documents(documents)
                        return reply if found is documents else _with(reply, "cursor", _with(cursor, batch, found))
            elif isinstance(value := reply.get("value"), Mapping):
                return _with(reply, "value", self._documents([value])[0])
        except KeyUnwrapError as failed:
            raise unavailable(failed) from None
        return reply

    def _documents(self, documents: Sequence[Any]) -> Sequence[Any]:
        if isinstance(documents[0], _RAW):
            raise StatementRefused("raw batches would return ciphertext", "use find and aggregate")
        codec = self.request.codec
        if not self._is_opaque:
            return self._decrypted(documents, codec)
        inner = self._decrypted([bson.decode(one.raw, codec_options=_AS_STORED) for one in documents], _AS_STORED)
        return [bson.decode(bson.encode(one, codec_options=_AS_STORED), codec_options=codec) for one in inner]

    def _decrypted(self, documents: Sequence[Any], codec: Codec) -> Sequence[Any]:  # noqa: C901 - see the class
        """Decrypt the fields of documents in place."""
        request = self.request
        fields = request.keys.readable(request.collection)
        numbers, sizes = [0] * len(fields), [0] * len(fields)
        left = _BATCH_DOCUMENTS
        for document in documents:
            if not left:
                left = _BATCH_DOCUMENTS
                request.keys.readable(request.collection)
            left -= 1
            identity: bytes | None = None
            for at, field, name, nested, keys in fields:
                holder: Any = _holder(document, field) if nested else document
                stored = None if holder is None else holder.get(name)
                if stored is None:
                    continue
                if identity is None:
                    identity = sealing.identity(document.get("_id"), codec)
                plain: bytes | None = None
                try:
                    is_tagged = type(stored) is dict and len(stored) == 2
                    sealed = stored[SEALED_NAME] if is_tagged else stored
                    if type(sealed) is Binary and subtype(sealed) == SUBTYPE:
                        decrypt, place = keys.lent[1][sealed[:NONCE]]
                        plain = decrypt(sealed[NONCE:BODY], sealed[BODY:], place + identity)  # type: ignore[operator]  # for None as well
                        if is_tagged and not sealing.has_tag(keys, field, plain, stored[TAG_NAME]):
                            plain = None
                except _UNUSUAL:
                    plain = None
                if plain is None:
                    holder[name] = request.decrypted(field, keys, identity, stored, codec)
                    continue
                numbers[at] += 1
                sizes[at] += len(plain)
                holder[name] = plain[5:-1].decode("utf-8") if plain[:1] == STRING else sealing.value_of(plain, codec)
            if self.reads is Documents.WITHOUT_ID:
                document.pop("_id", None)
        for at, number in enumerate(numbers):
            if number:
                request.count.values(fields[at][1], number, sizes[at])
        return documents


def _holder(document: Any, field: Field) -> Any:
    """Return the document that directly contains a field, None if it is missing."""
    holder = document
    for part in field.parts[:-1]:
        holder = holder.get(part)
        if not isinstance(holder, Mapping):
            if isinstance(holder, list) and not field.plaintext_allowed:
                raise PlainValueFound(f"{field.full_name} is inside an array, where nothing is encrypted")
            return None
    return holder


def _with(holder: Mapping[str, Any], name: str, value: Any) -> Mapping[str, Any]:
    if type(holder) is dict or isinstance(holder, MutableMapping):
        holder[name] = value
        return holder
    return {**holder, name: value}
