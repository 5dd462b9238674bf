"""Encryption context that binds a ciphertext to tenant, tenant key, service, purpose and resource (MTCI C1 to C3).

`EncryptionContext.encode` is canonical and injective: a version byte, then each field as a four-byte big-endian length
and its UTF-8 bytes, in one fixed order. Two different contexts therefore never have the same bytes, so a ciphertext
that was moved cannot be decrypted. The context is computed from the authenticated caller and the key's lineage at each
use. It is never stored beside the ciphertext: an attacker who can write both could move both.
"""

from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from openkcm.errors import InvalidName

FORMAT_VERSION = 1
_LENGTH_BYTES = 4


class Purpose(StrEnum):
    VERIFY = "verify"
    SERVICE_KEY = "service-key"
    DATA_KEY = "data-key"
    DATA = "data"
    MANAGED_OBJECT = "managed-object"
    BOUNDARY = "boundary"
    PAYLOAD = "payload"
    CREDENTIALS = "credentials"
    """Credentials of a customer's root key."""


class EncryptionContext(NamedTuple):
    """The identity of a ciphertext. `l2_key` is the Transit name; `service` and `object_id` may be empty."""

    tenant_id: str
    l2_key: str
    service: str
    purpose: Purpose
    object_id: str

    def encode(self) -> bytes:
        """Return the associated data, at most a few hundred bytes.

        Raises:
            InvalidName: a field contains a lone surrogate, which UTF-8 cannot encode. It is not replaced, because a
                replacement would give two contexts the same bytes.
        """
        tenant_id, l2_key, service, purpose, object_id = self
        try:
            return _lineage(tenant_id, l2_key, service, purpose) + _field(object_id)
        except UnicodeEncodeError as lone:
            raise InvalidName("part of a context", "text without lone surrogates") from lone


def decode(encoded: bytes) -> EncryptionContext:
    """Return the context that encodes to these bytes. For analysis of logged requests only, never for decisions.

    Raises:
        InvalidName: the bytes are not an encoded context.
    """
    fields, rest = [], encoded[1:]
    while rest:
        length, rest = int.from_bytes(rest[:_LENGTH_BYTES], "big"), rest[_LENGTH_BYTES:]
        fields.append(rest[:length])
        rest = rest[length:]
    try:
        tenant_id, l2_key, service, purpose, object_id = (field.decode("utf-8") for field in fields)
        context = EncryptionContext(tenant_id, l2_key, service, Purpose(purpose), object_id)
    except ValueError:
        raise InvalidName("a context", "the bytes of one") from None
    if context.encode() != encoded:
        raise InvalidName("a context", "the bytes of one")
    return context


@lru_cache(maxsize=1024)
def _lineage(tenant_id: str, l2_key: str, service: str, purpose: Purpose) -> bytes:
    """Return the encoding of all fields except `object_id`; it is the same for all data of a service."""
    return bytes([FORMAT_VERSION]) + b"".join(map(_field, (tenant_id, l2_key, service, purpose.value)))


def _field(text: str) -> bytes:
    raw = text.encode("utf-8")
    return len(raw).to_bytes(_LENGTH_BYTES, "big") + raw
