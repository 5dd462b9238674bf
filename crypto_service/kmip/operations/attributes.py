"""Attribute operations: Get Attributes, Get Attribute List, Add, Modify and Delete Attribute.

KMIP 1.4, sections 4.13 to 4.17.
"""

from crypto_service.kmip.batch import Batch, Payload
from crypto_service.kmip.codec.enums import ResultReason
from crypto_service.kmip.codec.errors import KmipRefused, denied, invalid, malformed, wrong
from crypto_service.kmip.codec.fields import read_number, read_structure, read_text, required, text
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
        return with_changes(managed, named.with_instance(managed.attributes, name, value), batch.now)

    managed = await batch.objects.change(batch.caller, batch.object_id(payload), edit, batch.change_event)
    newest = [attribute for attribute in managed.attributes if attribute.name == name][-1]
    return (batch.about(managed.row.object_id), named.to_item(newest, batch.version))


async def modify_attribute(batch: Batch, payload: Item) -> Payload:
    name, index, value = _given(batch, payload)

    def edit(managed: ManagedObject) -> ManagedObject:
        _changeable(batch, managed, name, value)
        old = _instance(managed.attributes, name, index, absent=ResultReason.INVALID_FIELD)
        new = old._replace(value=value)
        swapped = tuple(new if attribute == old else attribute for attribute in managed.attributes)
        return with_changes(managed, swapped, batch.now)

    managed = await batch.objects.change(batch.caller, batch.object_id(payload), edit, batch.change_event)
    return (
        batch.about(managed.row.object_id),
        named.to_item(_instance(managed.attributes, name, index), batch.version),
    )


async def delete_attribute(batch: Batch, payload: Item) -> Payload:
    name = required(read_text(payload, Tag.ATTRIBUTE_NAME), Tag.ATTRIBUTE_NAME)
    index = read_number(payload, Tag.ATTRIBUTE_INDEX)
    deleted: list[Attribute] = []

    def edit(managed: ManagedObject) -> ManagedObject:
        if not named.rule_of(name, batch.version).delete:
            raise denied(f"a client cannot delete the attribute {name}")
        check_change(managed, name, None, batch.now)
        old = _instance(managed.attributes, name, index)
        deleted[:] = [old]
        kept = tuple(attribute for attribute in managed.attributes if attribute != old)
        return with_changes(managed, kept, batch.now)

    managed = await batch.objects.change(batch.caller, batch.object_id(payload), edit, batch.change_event)
    return (batch.about(managed.row.object_id), named.to_item(deleted[0], batch.version))


def _given(batch: Batch, payload: Item) -> tuple[str, int | None, Item]:
    item = required(read_structure(payload, Tag.ATTRIBUTE), Tag.ATTRIBUTE)
    name, index, value = named.parse(item, batch.version)
    return name, index, whole_limits(value) if name == named.USAGE_LIMITS else value


def _changeable(batch: Batch, managed: ManagedObject, name: str, value: Item, *, adds: bool = False) -> None:
    """Raise KmipRefused unless a client may change the attribute, or add it.

    An attribute that may be set at creation may also be added later if the object does not have it; `with_instance`
    rejects a second one as an attribute that already exists.
    """
    rule = named.rule_of(name, batch.version)
    absent = named.first(managed.attributes, name) is None
    if not rule.change and not (rule.create and (absent or adds)):
        raise denied(f"a client cannot change the attribute {name}")
    check_change(managed, name, value, batch.now)


def _instance(
    attributes: Attributes, name: str, index: int | None, absent: ResultReason = ResultReason.ITEM_NOT_FOUND
) -> Attribute:
    """Return one instance; the first where no index is given."""
    instances = [attribute for attribute in attributes if attribute.name == name]
    if not instances:
        raise KmipRefused(absent, f"the object has no attribute {name}")
    for attribute in instances:
        if index is None or attribute.instance == index:
            return attribute
    raise KmipRefused(ResultReason.ITEM_NOT_FOUND, f"the attribute {name} has no such index")


async def get_attributes(batch: Batch, payload: Item) -> Payload:
    managed = await batch.objects.get(batch.caller, batch.object_id(payload))
    everything = managed.all_attributes(batch.now)
    wanted = _names(payload)
    if not wanted:
        wanted = list(dict.fromkeys(attribute.name for attribute in everything))
    found = [
        to_item(attribute, batch.version)
        for name in wanted
        if is_visible(name, batch.version)
        for attribute in everything
        if attribute.name == name
    ]
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
