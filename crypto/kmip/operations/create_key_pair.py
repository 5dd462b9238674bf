"""Create Key Pair (KMIP 1.4, section 4.2)."""

from crypto.kmip import attributes as named
from crypto.kmip.attributes import Attributes
from crypto.kmip.batch import Batch, Payload
from crypto.kmip.enums import LinkType, ObjectType
from crypto.kmip.fields import choice, moment, number, required, structure, text
from crypto.kmip.items import Item
from crypto.kmip.key_pairs import new_key_pair
from crypto.kmip.material import key_facts
from crypto.kmip.objects import Draft, new_object_id
from crypto.kmip.operations.create import complete, described
from crypto.kmip.refusals import missing
from crypto.kmip.tags import Tag


async def create_key_pair(batch: Batch, payload: Item) -> Payload:
    common = await described(batch, payload, Tag.COMMON_TEMPLATE_ATTRIBUTE)
    private = await _described(batch, payload, Tag.PRIVATE_KEY_TEMPLATE_ATTRIBUTE, common)
    public = await _described(batch, payload, Tag.PUBLIC_KEY_TEMPLATE_ATTRIBUTE, common)
    algorithm, bits = named.whole(private, named.ALGORITHM), named.whole(private, named.LENGTH)
    if algorithm is None:
        raise missing(Tag.CRYPTOGRAPHIC_ALGORITHM)
    pair = await batch.parts.blocking.run(batch.caller.tenant_id, lambda: new_key_pair(algorithm, bits))
    private_id, public_id = new_object_id(), new_object_id()
    drafts = (
        _draft(batch, private, ObjectType.PRIVATE_KEY, pair.private, private_id, (LinkType.PUBLIC_KEY_LINK, public_id)),
        _draft(batch, public, ObjectType.PUBLIC_KEY, pair.public, public_id, (LinkType.PRIVATE_KEY_LINK, private_id)),
    )
    await batch.objects.add(batch.caller, *drafts)
    batch.about(private_id)
    return (
        text(Tag.PRIVATE_KEY_UNIQUE_IDENTIFIER, private_id),
        text(Tag.PUBLIC_KEY_UNIQUE_IDENTIFIER, public_id),
    )


async def _described(batch: Batch, payload: Item, tag: int, common: Attributes) -> Attributes:
    own = await described(batch, payload, tag)
    given = named.without(common, *(attribute.name for attribute in own))
    return (*given, *own)


def _draft(  # noqa: PLR0913, PLR0917 - everything that makes one half of a pair
    batch: Batch, given: Attributes, kind: ObjectType, made: Item, object_id: str, link: tuple[LinkType, str]
) -> Draft:
    length = required(key_facts(made).length, Tag.CRYPTOGRAPHIC_LENGTH)
    given = named.put(given, named.LENGTH, number(Tag.ATTRIBUTE_VALUE, length))
    given = named.put(given, named.ORIGINAL_CREATION_DATE, moment(Tag.ATTRIBUTE_VALUE, batch.now))
    linked = structure(Tag.ATTRIBUTE_VALUE, choice(Tag.LINK_TYPE, link[0]), text(Tag.LINKED_OBJECT_IDENTIFIER, link[1]))
    given = named.added(given, named.LINK, linked)
    return Draft(kind, complete(given, kind, made), made, object_id)
