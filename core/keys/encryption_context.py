"""The cryptographic context that ties a ciphertext to its place (MTCI C1 to C3).

`EncryptionContext.encode` is canonical and injective: a version byte, then each field as a four-byte big-endian length
and its UTF-8 bytes, in one fixed order. Two different places can therefore never give the same bytes, whatever the
fields contain, which is what makes a moved ciphertext fail to open instead of opening as somebody else's. The context
is recomputed from the authenticated caller and the key's lineage at every use and never read back from beside the
ciphertext: an attacker who can write both would otherwise move both.
"""

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

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
    """What opens the door where a customer holds its root key."""


@dataclass(frozen=True, slots=True)
class EncryptionContext:
    """Where a ciphertext belongs. `l2_key` is the Transit name; `service` and `object_id` may be empty."""

    tenant_id: str
    l2_key: str
    service: str
    purpose: Purpose
    object_id: str

    def encode(self) -> bytes:
        """Return the associated data, at most a few hundred bytes.

        Raises:
            InvalidName: a field holds a lone surrogate, which UTF-8 cannot carry. It is refused and never replaced:
                a replacement would give two places the same bytes.
        """
        try:
            return _lineage(self.tenant_id, self.l2_key, self.service, self.purpose) + _field(self.object_id)
        except UnicodeEncodeError as lone:
            raise InvalidName("part of a context", "text without lone surrogates") from lone


def decode(encoded: bytes) -> EncryptionContext:
    """Return the context that gives these bytes, for whoever reads what a server was asked; never to decide by.

    Raises:
        InvalidName: they are no context's.
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
    """Return all but the last field, which is the same for everything a service encrypts."""
    return bytes([FORMAT_VERSION]) + b"".join(map(_field, (tenant_id, l2_key, service, purpose.value)))


def _field(text: str) -> bytes:
    raw = text.encode("utf-8")
    return len(raw).to_bytes(_LENGTH_BYTES, "big") + raw
