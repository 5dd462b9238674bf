"""Templates (KMIP 1.4, section 2.2.6; deprecated since 1.3): attributes kept under a name, for new objects."""

from core.errors.services import ObjectNotFound
from crypto.kmip import attributes as named
from crypto.kmip.attributes import Attributes
from crypto.kmip.batch import Batch
from crypto.kmip.enums import ObjectType
from crypto.kmip.fields import read_text, required
from crypto.kmip.items import Item
from crypto.kmip.refusals import invalid
from crypto.kmip.tags import Tag

_MOST_TEMPLATES = 8


async def with_templates(batch: Batch, template_attribute: Item, own: Attributes) -> Attributes:
    """Return the attributes of the templates that are named, then the request's own, which win.

    Where an attribute may have several instances both count. A template's own name is not one of the object's.
    """
    wanted = list(template_attribute.all(Tag.NAME))
    if len(wanted) > _MOST_TEMPLATES:
        raise invalid("a request names too many templates")
    merged: Attributes = ()
    for name in wanted:
        held = await _held(batch, required(read_text(name, Tag.NAME_VALUE), Tag.NAME_VALUE))
        merged = _over(merged, named.without(held, named.NAME))
    return _over(merged, own)


async def _held(batch: Batch, name: str) -> Attributes:
    if "\0" in name:
        raise ObjectNotFound
    found = await batch.objects.find(
        batch.caller,
        name,
        lambda managed: managed.row.object_type == ObjectType.TEMPLATE and not managed.gone and not managed.archived,
    )
    if not found:
        raise ObjectNotFound
    template = await batch.objects.open(batch.caller, found[0])
    return named.creation(template.all(Tag.ATTRIBUTE), batch.version)


def _over(under: Attributes, over: Attributes) -> Attributes:
    single = {attribute.name for attribute in over if attribute.name in named.RULES}
    kept = tuple(attribute for attribute in under if attribute.name not in single or named.RULES[attribute.name].many)
    for attribute in over:
        kept = named.added(kept, attribute.name, attribute.value)
    return kept
