"""Documents as the application reads them: decrypted, and without an `_id` that was added."""

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import bson
from bson import CodecOptions
from bson.codec_options import DatetimeConversion, TypeRegistry
from bson.raw_bson import RawBSONDocument

from openkcm.field_encryption.key_cache import KeyUnwrapError
from openkcm.field_encryption.mongodb import encryption as sealing
from openkcm.field_encryption.mongodb.catalog import Field
from openkcm.field_encryption.mongodb.encryption import Codec
from openkcm.field_encryption.mongodb.errors import PlainValueFound, StatementRefused, unavailable
from openkcm.field_encryption.mongodb.pymongo_internals import is_opaque
from openkcm.field_encryption.mongodb.rewrite.projections import Documents
from openkcm.field_encryption.mongodb.rewrite.request import Request

_BATCHES = ("firstBatch", "nextBatch")
_AS_STORED: Codec = CodecOptions(document_class=dict, datetime_conversion=DatetimeConversion.DATETIME_MS)


@dataclass(frozen=True, slots=True)
class ReplyDecryptor:
    """Decrypts the documents of a reply."""

    request: Request
    reads: Documents

    @property
    def codec(self) -> Codec:
        """The options with which the driver decodes the reply, once."""
        codec = self.request.codec
        if self.reads is Documents.OTHERS or not is_opaque(codec):
            return codec
        return codec.with_options(document_class=RawBSONDocument, type_registry=TypeRegistry())

    def decrypted(self, reply: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the reply with decrypted documents. Raises KeysUnavailable, PlainValueFound, ValueRefused."""
        try:
            if isinstance(reply.get("value"), Mapping):
                return _with(reply, "value", self._document(reply["value"]))
            cursor = reply.get("cursor")
            if cursor is None:
                return reply
            for batch in _BATCHES:
                if cursor.get(batch):
                    return _with(reply, "cursor", _with(cursor, batch, [self._document(one) for one in cursor[batch]]))
        except KeyUnwrapError as failed:
            raise unavailable(failed) from None
        return reply

    def _document(self, document: Any) -> Any:
        if isinstance(document, bytes | memoryview):
            raise StatementRefused("raw batches would return ciphertext", "use find and aggregate")
        codec = self.request.codec
        if not is_opaque(codec):
            return self._decrypt_fields(document, codec)
        inner = self._decrypt_fields(bson.decode(document.raw, codec_options=_AS_STORED), _AS_STORED)
        return bson.decode(bson.encode(inner, codec_options=_AS_STORED), codec_options=codec)

    def _decrypt_fields(self, document: Any, codec: Codec) -> Any:
        identity: bytes | None = None
        for field in self.request.collection.fields:
            holder: Any = document
            if field.nested:
                holder = _holder(document, field)
                if holder is None:
                    continue
            name = field.parts[-1]
            stored = holder.get(name)
            if stored is not None:
                if identity is None:
                    identity = sealing.identity(document.get("_id"), codec)
                holder[name] = self.request.decrypted(field, identity, stored, codec)
        if self.reads is Documents.WITHOUT_ID:
            document.pop("_id", None)
        return document


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
    if isinstance(holder, MutableMapping):
        holder[name] = value
        return holder
    return {**holder, name: value}
