"""Locate (KMIP 1.4, section 4.9; 2.1, section 6.1.28): the caller's own objects by their attributes."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from crypto_service.kmip.batch import Batch, Payload
from crypto_service.kmip.codec.enums import ObjectGroupMember, StorageStatusMask
from crypto_service.kmip.codec.errors import invalid, unknown_field
from crypto_service.kmip.codec.fields import number, read_choice, read_number, read_text, text
from crypto_service.kmip.codec.framing import VERSION_2
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item, ItemType
from crypto_service.kmip.objects import attributes as named
from crypto_service.kmip.objects.attributes import Attributes
from crypto_service.kmip.objects.managed_object import ManagedObject
from crypto_service.kmip.objects.search import object_filter

_MOST_ITEMS = 1000
"""The maximum number of ids in one response; a client of 1.3 or newer reads the rest by offset."""
_MOST_CRITERIA = 64
_FIELDS = frozenset(
    {
        Tag.MAXIMUM_ITEMS,
        Tag.OFFSET_ITEMS,
        Tag.STORAGE_STATUS_MASK,
        Tag.OBJECT_GROUP_MEMBER,
        Tag.ATTRIBUTE,
        Tag.TEMPLATE_ATTRIBUTE,
    }
)
"""Any other field is rejected here, although other operations ignore such fields: it could restrict the search, and
the client would use the wrong key."""
Criteria = dict[str, list[Item]]


async def locate(batch: Batch, payload: Item) -> Payload:
    batch.subject = ""
    criteria = _criteria(payload, batch.version)
    offset = read_number(payload, Tag.OFFSET_ITEMS) or 0
    asked = read_number(payload, Tag.MAXIMUM_ITEMS)
    if offset < 0 or (asked is not None and asked < 0):
        raise invalid("maximum items and offset items cannot be negative")
    most = _MOST_ITEMS if asked is None else min(asked, _MOST_ITEMS)
    total, found = await _found(batch, payload, criteria, slice(offset, offset + most))
    # Only a single match becomes the ID Placeholder for the next item of the batch.
    batch.placeholder = found[0] if len(found) == 1 else None
    batch.subject = batch.placeholder or ""
    counted = (number(Tag.LOCATED_ITEMS, total),) if batch.version >= 3 and (offset or asked is not None) else ()
    return (*counted, *(text(Tag.UNIQUE_IDENTIFIER, object_id) for object_id in found))


async def _found(batch: Batch, payload: Item, criteria: Criteria, page: slice) -> tuple[int, Sequence[str]]:
    """Return the number of matching objects, and the ids of those of a page.

    KMIP 2.x requires the newest first. 1.x defines no order; the oldest first keeps the pages of a client stable.
    """
    mask = read_number(payload, Tag.STORAGE_STATUS_MASK)
    mask = StorageStatusMask.ONLINE_STORAGE if mask is None else mask
    fresh = read_choice(payload, Tag.OBJECT_GROUP_MEMBER) == ObjectGroupMember.GROUP_MEMBER_FRESH
    wanted = _matcher(batch.now, criteria, mask, fresh=fresh)
    newest_first = batch.version >= VERSION_2
    name = _name(criteria)
    if name is not None:
        found = await batch.objects.named(batch.caller, name, wanted)
        found = found[::-1] if newest_first else found
    else:
        conditions, exact = object_filter(batch.caller, criteria, mask, fresh=fresh, now=batch.now)
        conditions = conditions._replace(newest_first=newest_first)
        if exact:
            return await batch.objects.search(batch.caller, batch.charge, conditions, page)
        found = await batch.objects.find(batch.caller, batch.charge, conditions, wanted)
    return len(found), found[page]


def _criteria(payload: Item, version: int) -> Criteria:
    """Return the attributes that a match must have.

    FortiOS sends them inside a template attribute, where the specification has them directly in the payload.
    """
    for field in payload.children():
        if field.tag not in _FIELDS:
            raise unknown_field(field.tag)
    given = list(payload.all(Tag.ATTRIBUTE))
    for template in payload.all(Tag.TEMPLATE_ATTRIBUTE):
        for item in template.children():
            if item.tag != Tag.ATTRIBUTE:
                raise unknown_field(item.tag)
            given.append(item)
    if len(given) > _MOST_CRITERIA:
        raise invalid("the request has too many attributes")
    criteria: Criteria = {}
    for item in given:
        name, _, value = named.parse(item, version, partial=True)
        criteria.setdefault(name, []).append(value)
    return criteria


def _name(criteria: Criteria) -> str | None:
    names = criteria.get(named.NAME)
    return read_text(names[0], Tag.NAME_VALUE) if names else None


def _matcher(now: int, criteria: Criteria, storage: int, *, fresh: bool) -> Callable[[ManagedObject], bool]:
    kinds = {value.value for value in criteria.get(named.OBJECT_TYPE, ())}

    def wanted(managed: ManagedObject) -> bool:
        stored = StorageStatusMask.ARCHIVAL_STORAGE if managed.archived else StorageStatusMask.ONLINE_STORAGE
        if managed.is_destroyed or not storage & stored or (kinds and kinds != {managed.row.object_type}):
            return False
        if fresh and not managed.fresh:
            return False
        attributes = managed.all_attributes(now)
        return all(_matches(attributes, name, values) for name, values in criteria.items())

    return wanted


def _matches(attributes: Attributes, name: str, values: Sequence[Item]) -> bool:
    held = [attribute.value for attribute in attributes if attribute.name == name]
    if all(value.type is ItemType.DATE_TIME for value in values):
        return any(_in_range(value, values) for value in held)
    fits = _COMPARISONS.get(name, _alike)
    return all(any(fits(value, wanted) for value in held) for wanted in values)


def _in_range(held: Item, wanted: Sequence[Item]) -> bool:
    """Return whether a date equals the given one or is between the two given ones."""
    bounds = sorted(value.value for value in wanted if isinstance(value.value, int))
    return isinstance(held.value, int) and len(bounds) in (1, 2) and bounds[0] <= held.value <= bounds[-1]


def _has_bits(held: Item, wanted: Item) -> bool:
    return isinstance(held.value, int) and isinstance(wanted.value, int) and held.value & wanted.value == wanted.value


def _has_left(held: Item, wanted: Item) -> bool:
    """Return whether usage limits have at least the requested total and count, and the requested unit."""
    return all(
        any(_is_enough(part, field) for part in held.children() if part.tag == field.tag) for field in wanted.children()
    )


def _is_enough(held: Item, wanted: Item) -> bool:
    if isinstance(held.value, int) and isinstance(wanted.value, int) and held.type is ItemType.LONG_INTEGER:
        return wanted.type is held.type and held.value >= wanted.value
    return held == wanted


def _alike(held: Item, wanted: Item) -> bool:
    """Return whether a value equals the requested one; for a structure only the given fields are compared."""
    if held.type is not wanted.type:
        return False
    if held.type is ItemType.STRUCTURE:
        return all(
            any(part.tag == field.tag and _alike(part, field) for part in held.children())
            for field in wanted.children()
        )
    return held.value == wanted.value


_COMPARISONS: Mapping[str, Callable[[Item, Item], bool]] = MappingProxyType(
    {named.USAGE_MASK: _has_bits, named.USAGE_LIMITS: _has_left}
)
"""Attributes that are not compared for equality."""
