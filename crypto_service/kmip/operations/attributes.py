"""Attribute operations: Get Attributes, Get Attribute List, Add, Modify, Delete, Set and Adjust Attribute.

KMIP 1.4, sections 4.13 to 4.17; Set and Adjust Attribute: KMIP 2.1, section 6.1.
"""

from collections.abc import Mapping
from types import MappingProxyType

from crypto_service.kmip.batch import Batch, Payload
from crypto_service.kmip.codec.enums import AdjustmentType, ResultReason
from crypto_service.kmip.codec.errors import KmipRefused, invalid, malformed, wrong
from crypto_service.kmip.codec.fields import read_choice, read_number, read_structure, read_text, required, text
from crypto_service.kmip.codec.framing import VERSION_2
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item, ItemType
from crypto_service.kmip.objects import attributes as named
from crypto_service.kmip.objects.attributes import Attribute, Attributes, is_visible, to_item
from crypto_service.kmip.objects.managed_object import ManagedObject, check_change, with_changes
from crypto_service.kmip.operations.create import whole_limits


async def add_attribute(batch: Batch, payload: Item) -> Payload:
    name, index, value = _given(batch, payload)
    if index:
        raise invalid("the server chooses the index of a new attribute")

    def edit(managed: ManagedObject) -> ManagedObject:
        _changeable(batch, managed, name, value, adds=True)
        if batch.version >= VERSION_2 and name == named.NAME and _holding(managed.attributes, name, value):
            message = "the object has this name"
            raise KmipRefused(ResultReason.ILLEGAL_OPERATION, message, ResultReason.NON_UNIQUE_NAME_ATTRIBUTE)
        return with_changes(managed, named.with_instance(managed.attributes, name, value), batch.now)

    managed = await batch.objects.change(batch.caller, batch.object_id(payload), edit, batch.change_event)
    newest = [attribute for attribute in managed.attributes if attribute.name == name][-1]
    return (batch.about(managed.row.object_id), named.to_item(newest, batch.version))


async def modify_attribute(batch: Batch, payload: Item) -> Payload:
    name, index, value = _given(batch, payload)
    current = _current(batch, payload)

    def edit(managed: ManagedObject) -> ManagedObject:
        _changeable(batch, managed, name, value)
        candidates = _named(managed.attributes, name, current)
        if batch.version >= VERSION_2 and current is None:
            _require_one(candidates, name)
        old = _instance(candidates, name, index, absent=ResultReason.INVALID_FIELD)
        new = old._replace(value=value)
        swapped = tuple(new if attribute == old else attribute for attribute in managed.attributes)
        return with_changes(managed, swapped, batch.now)

    managed = await batch.objects.change(batch.caller, batch.object_id(payload), edit, batch.change_event)
    return (
        batch.about(managed.row.object_id),
        named.to_item(_instance(managed.attributes, name, index), batch.version),
    )


async def set_attribute(batch: Batch, payload: Item) -> Payload:
    name, _, value = _given(batch, payload)

    def edit(managed: ManagedObject) -> ManagedObject:
        _changeable(batch, managed, name, value)
        _require_one(_named(managed.attributes, name), name)
        if name in named.RULES and named.RULES[name].many:
            raise _multi_valued(f"the attribute {name} can have several values")
        return with_changes(managed, named.with_single(managed.attributes, name, value), batch.now)

    managed = await batch.objects.change(batch.caller, batch.object_id(payload), edit, batch.change_event)
    return (batch.about(managed.row.object_id),)


async def adjust_attribute(batch: Batch, payload: Item) -> Payload:
    name = required(read_text(payload, Tag.ATTRIBUTE_NAME), Tag.ATTRIBUTE_NAME)
    kind = required(read_choice(payload, Tag.ADJUSTMENT_TYPE), Tag.ADJUSTMENT_TYPE)
    by = payload.first(Tag.ADJUSTMENT_VALUE)

    def edit(managed: ManagedObject) -> ManagedObject:
        _require_one(_named(managed.attributes, name), name)
        old = _instance(managed.attributes, name, None)
        value = _adjusted(old.value, kind, by)
        _changeable(batch, managed, name, value)
        return with_changes(managed, named.with_single(managed.attributes, name, value), batch.now)

    managed = await batch.objects.change(batch.caller, batch.object_id(payload), edit, batch.change_event)
    return (batch.about(managed.row.object_id),)


async def delete_attribute(batch: Batch, payload: Item) -> Payload:
    current = _current(batch, payload)
    referenced = read_text(payload, Tag.ATTRIBUTE_NAME)
    name = required(referenced if current is None else current[0], Tag.ATTRIBUTE_NAME)
    index = read_number(payload, Tag.ATTRIBUTE_INDEX)
    deleted: list[Attribute] = []

    def edit(managed: ManagedObject) -> ManagedObject:
        if not named.rule_of(name, batch.version).delete:
            raise named.read_only(f"a client cannot delete the attribute {name}")
        check_change(managed, name, None, batch.now)
        old = _instance(_named(managed.attributes, name, current), name, index)
        deleted[:] = [old]
        if batch.version >= VERSION_2 and current is None:
            # A reference without a value is to all instances; an index of 1.x is to one.
            return with_changes(managed, named.without(managed.attributes, name), batch.now)
        kept = tuple(attribute for attribute in managed.attributes if attribute != old)
        return with_changes(managed, kept, batch.now)

    managed = await batch.objects.change(batch.caller, batch.object_id(payload), edit, batch.change_event)
    return (batch.about(managed.row.object_id), named.to_item(deleted[0], batch.version))


_BOUNDS: Mapping[ItemType, range] = MappingProxyType(
    {
        ItemType.INTEGER: range(-(2**31), 2**31),
        ItemType.LONG_INTEGER: range(-(2**63), 2**63),
        ItemType.DATE_TIME: range(-(2**63), 2**63),
        ItemType.INTERVAL: range(2**32),
    }
)


def _adjusted(old: Item, kind: int, by: Item | None) -> Item:
    """Return a value that is incremented or decremented, by 1 without `by`, or negated; raise KmipRefused."""
    if kind == AdjustmentType.NEGATE and old.type is ItemType.BOOLEAN:
        return old._replace(value=not old.value)
    if kind not in (AdjustmentType.INCREMENT, AdjustmentType.DECREMENT) or old.type not in _BOUNDS:
        raise invalid("the attribute cannot be adjusted in this way")
    amount = 1 if by is None else by.value
    if isinstance(amount, bool) or not isinstance(amount, int) or not isinstance(old.value, int):
        raise wrong(Tag.ADJUSTMENT_VALUE)
    value = old.value + amount if kind == AdjustmentType.INCREMENT else old.value - amount
    if value not in _BOUNDS[old.type]:
        raise KmipRefused(ResultReason.INVALID_FIELD, "the adjusted value is too large", ResultReason.NUMERIC_RANGE)
    return old._replace(value=value)


def _given(batch: Batch, payload: Item) -> tuple[str, int | None, Item]:
    item = required(read_structure(payload, Tag.ATTRIBUTE), Tag.ATTRIBUTE)
    name, index, value = named.parse(item, batch.version)
    return name, index, whole_limits(value) if name == named.USAGE_LIMITS else value


def _current(batch: Batch, payload: Item) -> tuple[str, Item] | None:
    """Return name and value of the instance that a client of 2.x changes; None if it names no value."""
    item = read_structure(payload, Tag.CURRENT_ATTRIBUTE)
    if item is None:
        return None
    name, _, value = named.parse(item, batch.version)
    return name, value


def _changeable(batch: Batch, managed: ManagedObject, name: str, value: Item, *, adds: bool = False) -> None:
    """Raise KmipRefused unless a client may change the attribute, or add it.

    An attribute that may be set at creation may also be added later if the object does not have it; `with_instance`
    rejects a second one as an attribute that already exists.
    """
    rule = named.rule_of(name, batch.version)
    absent = named.first(managed.attributes, name) is None
    if not rule.change and not (rule.create and (absent or adds)):
        raise named.read_only(f"a client cannot change the attribute {name}")
    check_change(managed, name, value, batch.now)


def _instance(
    attributes: Attributes, name: str, index: int | None, absent: ResultReason = ResultReason.ITEM_NOT_FOUND
) -> Attribute:
    """Return one instance; the first where no index is given."""
    instances = _named(attributes, name)
    if not instances:
        message = f"the object has no attribute {name}"
        raise KmipRefused(absent, message, ResultReason.ATTRIBUTE_NOT_FOUND)
    for attribute in instances:
        if index is None or attribute.instance == index:
            return attribute
    message = f"the attribute {name} has no such index"
    raise KmipRefused(ResultReason.ITEM_NOT_FOUND, message, ResultReason.ATTRIBUTE_INSTANCE_NOT_FOUND)


def _require_one(instances: Attributes, name: str) -> None:
    """Raise KmipRefused for several instances, none of which the request names."""
    if len(instances) > 1:
        raise _multi_valued(f"the attribute {name} has several values")


def _multi_valued(message: str) -> KmipRefused:
    return KmipRefused(ResultReason.ILLEGAL_OPERATION, message, ResultReason.MULTI_VALUED_ATTRIBUTE)


def _named(attributes: Attributes, name: str, current: tuple[str, Item] | None = None) -> Attributes:
    """Return the instances of an attribute, with `current` only those with its value."""
    found = tuple(attribute for attribute in attributes if attribute.name == name)
    if current is None:
        return found
    same = _holding(found, *current)
    if found and not same:
        message = f"the attribute {name} does not have this value"
        raise KmipRefused(ResultReason.ITEM_NOT_FOUND, message, ResultReason.ATTRIBUTE_INSTANCE_NOT_FOUND)
    return same


def _holding(attributes: Attributes, name: str, value: Item) -> Attributes:
    return tuple(attribute for attribute in attributes if attribute.name == name and attribute.value == value)


async def get_attributes(batch: Batch, payload: Item) -> Payload:
    managed = await batch.objects.get(batch.caller, batch.object_id(payload))
    by_name: dict[str, list[Item]] = {}
    for attribute in managed.all_attributes(batch.now):
        if is_visible(attribute.name, batch.version):
            by_name.setdefault(attribute.name, []).append(to_item(attribute, batch.version))
    found = [item for name in _names(payload) or by_name for item in by_name.get(name, ())]
    return (batch.about(managed.row.object_id), *found)


async def get_attribute_list(batch: Batch, payload: Item) -> Payload:
    managed = await batch.objects.get(batch.caller, batch.object_id(payload))
    names = dict.fromkeys(attribute.name for attribute in managed.all_attributes(batch.now))
    shown_names = (text(Tag.ATTRIBUTE_NAME, name) for name in names if is_visible(name, batch.version))
    return (batch.about(managed.row.object_id), *shown_names)


def _names(payload: Item) -> list[str]:
    names: list[str] = []
    for item in payload.all(Tag.ATTRIBUTE_NAME):
        if item.type is not ItemType.TEXT_STRING:
            raise wrong(Tag.ATTRIBUTE_NAME)
        names.append(str(required(item.value, Tag.ATTRIBUTE_NAME)))
    if len(set(names)) != len(names):
        raise malformed("an attribute name is given more than once")
    return names
