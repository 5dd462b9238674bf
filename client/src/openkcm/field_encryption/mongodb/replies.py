"""Documents as the application reads them: decrypted, and without an `_id` that was added."""

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import bson
from bson import CodecOptions
from bson.codec_options import DatetimeConversion, TypeRegistry
from bson.raw_bson import RawBSONDocument

from openkcm.field_encryption.key_cache import KeyUnwrapError
from openkcm.field_encryption.mongodb import encryption as sealing
from openkcm.field_encryption.mongodb.catalog import Field
from openkcm.field_encryption.mongodb.encryption import Codec, FieldKeys
from openkcm.field_encryption.mongodb.errors import PlainValueFound, StatementRefused, unavailable
from openkcm.field_encryption.mongodb.pymongo_internals import is_opaque
from openkcm.field_encryption.mongodb.rewrite.projections import Documents
from openkcm.field_encryption.mongodb.rewrite.request import Request

_BATCHES = ("firstBatch", "nextBatch")
_RAW = (bytes, memoryview)
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
            cursor = reply.get("cursor")
            if cursor is not None:
                for batch in _BATCHES:
                    if documents := cursor.get(batch):
                        return _with(reply, "cursor", _with(cursor, batch, self._documents(documents)))
            elif isinstance(found := reply.get("value"), Mapping):
                return _with(reply, "value", self._documents([found])[0])
        except KeyUnwrapError as failed:
            raise unavailable(failed) from None
        return reply

    def _documents(self, documents: Sequence[Any]) -> list[Any]:
        if isinstance(documents[0], _RAW):
            raise StatementRefused("raw batches would return ciphertext", "use find and aggregate")
        codec, keys = self.request.codec, self.request.keys
        fields = [(field, keys.of(field)) for field in self.request.collection.fields]
        if not is_opaque(codec):
            return [self._decrypt_fields(one, codec, fields) for one in documents]
        inner = [
            self._decrypt_fields(bson.decode(one.raw, codec_options=_AS_STORED), _AS_STORED, fields)
            for one in documents
        ]
        return [bson.decode(bson.encode(one, codec_options=_AS_STORED), codec_options=codec) for one in inner]

    def _decrypt_fields(self, document: Any, codec: Codec, fields: Sequence[tuple[Field, FieldKeys]]) -> Any:
        identity: bytes | None = None
        for field, keys in fields:
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
                keys.renew_if_due()
                plain = sealing.decrypted_quickly(keys, field, identity, stored)
                if plain is None:
                    holder[name] = self.request.decrypted(field, identity, stored, codec)
                else:
                    self.request.count.value(field, len(plain))
                    holder[name] = sealing.value_of(plain, codec)
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
