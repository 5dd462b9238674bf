"""Get Attributes and Get Attribute List (KMIP 1.4, sections 4.13, 4.14)."""

from crypto.kmip.attributes import shown, visible
from crypto.kmip.batch import Batch, Payload
from crypto.kmip.fields import required, text
from crypto.kmip.items import Item, ItemType
from crypto.kmip.refusals import malformed, wrong
from crypto.kmip.tags import Tag


async def get_attributes(batch: Batch, payload: Item) -> Payload:
    managed = await batch.objects.get(batch.caller, batch.object_id(payload))
    everything = managed.all_attributes(batch.now)
    wanted = _names(payload)
    if not wanted:
        wanted = list(dict.fromkeys(attribute.name for attribute in everything))
    found = [
        shown(attribute, batch.version)
        for name in wanted
        if visible(name, batch.version)
        for attribute in everything
        if attribute.name == name
    ]
    return (batch.about(managed.row.object_id), *found)


async def get_attribute_list(batch: Batch, payload: Item) -> Payload:
    managed = await batch.objects.get(batch.caller, batch.object_id(payload))
    names = dict.fromkeys(attribute.name for attribute in managed.all_attributes(batch.now))
    shown_names = (text(Tag.ATTRIBUTE_NAME, name) for name in names if visible(name, batch.version))
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
