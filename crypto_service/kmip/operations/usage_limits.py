"""Usage limits; Check, Obtain Lease, Get Usage Allocation (KMIP 1.4, sections 4.10, 4.18, 4.19)."""

from crypto_service.kmip.batch import Batch, Payload
from crypto_service.kmip.codec.enums import ResultReason, UsageLimitsUnit
from crypto_service.kmip.codec.errors import denied, invalid
from crypto_service.kmip.codec.fields import (
    interval,
    long,
    moment,
    number,
    read_choice,
    read_interval,
    read_long,
    read_number,
    required,
)
from crypto_service.kmip.codec.framing import VERSION_2
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from crypto_service.kmip.objects import attributes as named
from crypto_service.kmip.objects import states
from crypto_service.kmip.objects.managed_object import (
    LEASE_SECONDS,
    ManagedObject,
    require_here,
    require_protecting,
    with_changes,
)
from crypto_service.kmip.operations.create import limits_item


async def consume_usage(batch: Batch, managed: ManagedObject, size: int) -> None:
    """Subtract one use of `size` bytes from the key's usage limits; raise when too little remains.

    Subtracted before the data is encrypted, and in the database, so that two processes cannot use the same bytes.
    """
    unit = managed.usage_unit()
    if unit is not None:
        await _subtract(batch, managed.row.object_id, size if unit == UsageLimitsUnit.BYTE else 1)


class PiecesUsage:
    """The usage of a key by one operation in pieces: a limit of objects counts it once, a limit of bytes each piece."""

    def __init__(self, managed: ManagedObject) -> None:
        self._managed, self._begun = managed, False

    async def consume(self, batch: Batch, size: int) -> None:
        """Subtract a piece of `size` bytes; raise when too little remains."""
        if not self._begun or self._managed.usage_unit() == UsageLimitsUnit.BYTE:
            await consume_usage(batch, self._managed, size)
        self._begun = True


async def check(batch: Batch, payload: Item) -> Payload:
    managed = await batch.objects.get(batch.caller, batch.object_id(payload))
    require_here(managed)
    refused: list[Item] = []
    wanted, left = read_long(payload, Tag.USAGE_LIMITS_COUNT), managed.usage_left()
    if wanted is not None and left is not None and wanted > left:
        refused.append(long(Tag.USAGE_LIMITS_COUNT, left))
    mask = read_number(payload, Tag.CRYPTOGRAPHIC_USAGE_MASK)
    if mask is not None and mask & ~managed.usage_mask:
        if batch.version >= VERSION_2:
            message = "the key's cryptographic usage mask does not permit this"
            raise denied(message, exact=ResultReason.INCOMPATIBLE_CRYPTOGRAPHIC_USAGE_MASK)
        refused.append(number(Tag.CRYPTOGRAPHIC_USAGE_MASK, managed.usage_mask))
    lease = read_interval(payload, Tag.LEASE_TIME)
    if lease is not None and lease > LEASE_SECONDS:
        refused.append(interval(Tag.LEASE_TIME, LEASE_SECONDS))
    if refused:
        # A Get may follow in the batch: without a placeholder it does not return a key whose use is denied here.
        batch.placeholder = None
        return tuple(refused)
    return (batch.about(managed.row.object_id),)


async def obtain_lease(batch: Batch, payload: Item) -> Payload:
    managed = await batch.objects.get(batch.caller, batch.object_id(payload))
    require_here(managed)
    readable = batch.caller.revoked_keys_readable
    states.require_gettable(managed.state_at(batch.now), revoked_keys_readable=readable)
    since = required(named.integer(managed.attributes, named.LAST_CHANGE_DATE), Tag.LAST_CHANGE_DATE)
    return (
        batch.about(managed.row.object_id),
        interval(Tag.LEASE_TIME, LEASE_SECONDS),
        moment(Tag.LAST_CHANGE_DATE, since),
    )


async def get_usage_allocation(batch: Batch, payload: Item) -> Payload:
    object_id = batch.object_id(payload)
    wanted = required(read_long(payload, Tag.USAGE_LIMITS_COUNT), Tag.USAGE_LIMITS_COUNT)
    if wanted < 0:
        raise invalid("the usage limits count cannot be negative")
    await _subtract(batch, object_id, wanted)
    return (batch.about(object_id),)


async def _subtract(batch: Batch, object_id: str, amount: int) -> None:
    def edit(managed: ManagedObject) -> ManagedObject:
        require_here(managed)
        states.require_active(managed.state_at(batch.now))
        require_protecting(managed, batch.now)
        limits = named.first(managed.attributes, named.USAGE_LIMITS)
        if limits is None:
            raise denied("the key has no usage limits to allocate from")
        total = required(read_long(limits, Tag.USAGE_LIMITS_TOTAL), Tag.USAGE_LIMITS_TOTAL)
        left = required(read_long(limits, Tag.USAGE_LIMITS_COUNT), Tag.USAGE_LIMITS_COUNT) - amount
        unit = required(read_choice(limits, Tag.USAGE_LIMITS_UNIT), Tag.USAGE_LIMITS_UNIT)
        if left < 0:
            raise denied("the key's usage limits are exceeded")
        limits = limits_item(total, left, unit)
        return with_changes(managed, named.with_single(managed.attributes, named.USAGE_LIMITS, limits), batch.now)

    await batch.objects.change(batch.caller, object_id, edit, batch.change_event)
