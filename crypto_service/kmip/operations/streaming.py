"""The pieces of an operation: Init Indicator, Correlation Value and Final Indicator (KMIP 1.4, section 4.29).

Each piece is charged, audited and counted like a request, and its key is checked and decrypted again. The cipher of an
earlier piece contains the key, and would outlast a revocation of the key or the loss of the root key.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol

from crypto_service.kmip.batch import Batch, Payload
from crypto_service.kmip.codec.errors import unsupported
from crypto_service.kmip.codec.fields import octets, read_flag, read_octets
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from crypto_service.kmip.objects.managed_object import require_usable
from crypto_service.kmip.objects.streams import Stream

_SINCE = 3
"""The feature level of KMIP 1.3, the first version with pieces."""


class Transform(Protocol):
    """What an operation does with its data."""

    async def update(self, batch: Batch, data: bytes) -> bytes:
        """Return the result of a piece that is complete so far; empty if the result exists only at the end."""
        ...

    async def finish(self, batch: Batch, payload: Item) -> tuple[bytes, Payload]:
        """Return the rest of the result, and the further fields of the last response."""
        ...


Begin = Callable[[Batch, Item], Awaitable[tuple[Transform, Payload]]]
"""Returns the transform for a first piece, and the further fields of its response."""


def is_piece(payload: Item) -> bool:
    """Return whether the data is incomplete. Some clients flag complete data as neither first nor last piece."""
    if payload.first(Tag.CORRELATION_VALUE) is not None:
        return True
    return bool(read_flag(payload, Tag.INIT_INDICATOR)) and not read_flag(payload, Tag.FINAL_INDICATOR)


async def process_piece(batch: Batch, payload: Item, operation: int, begin: Begin, use: int | None) -> Payload:
    """Process a piece; `use` is the usage mask that the key needs, None for an operation without a key.

    An error ends the operation: its correlation value is not valid afterwards.
    """
    if batch.version < _SINCE:
        raise unsupported("data must be sent in one piece")
    correlation, more = read_octets(payload, Tag.CORRELATION_VALUE), Payload()
    if correlation is None:
        transform, more = await begin(batch, payload)
        object_id = "" if use is None else batch.subject
    else:
        stream = batch.streams.take(batch.caller, operation, correlation)
        transform, object_id = stream.transform, stream.object_id
        if use is not None:
            batch.subject = object_id
            managed = await batch.objects.get(batch.caller, object_id)
            require_usable(managed, use, batch.now)
            await batch.objects.open_written(batch.caller, managed)
    data = read_octets(payload, Tag.DATA) or b""
    batch.bytes = len(data)
    result = await transform.update(batch, data)
    if read_flag(payload, Tag.FINAL_INDICATOR):
        rest, fields = await transform.finish(batch, payload)
        result, more = result + rest, (*more, *fields)
    else:
        caller = batch.caller
        made = batch.streams.put(Stream(caller.tenant_id, caller.service, operation, object_id, transform))
        more = (*more, octets(Tag.CORRELATION_VALUE, made))
    identified = () if use is None else (batch.about(object_id),)
    return (*identified, *((octets(Tag.DATA, result),) if result else ()), *more)
