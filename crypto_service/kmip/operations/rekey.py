"""Re-key (KMIP 1.4, section 4.4): a new symmetric key that replaces another and takes its name."""

from crypto_service.kmip.batch import Batch, Payload
from crypto_service.kmip.codec.enums import LinkType, ObjectType, ResultReason
from crypto_service.kmip.codec.errors import KmipRefused, invalid
from crypto_service.kmip.codec.fields import choice, moment, read_interval, structure, text
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from crypto_service.kmip.objects import attributes as named
from crypto_service.kmip.objects import key_material as material
from crypto_service.kmip.objects.attributes import Attributes
from crypto_service.kmip.objects.managed_object import ManagedObject, require_here, with_changes
from crypto_service.kmip.operations.create import complete, given_attributes

# Attributes of the old key that are not copied. Links are created again.
_OWN = (
    named.INITIAL_DATE,
    named.LAST_CHANGE_DATE,
    named.ORIGINAL_CREATION_DATE,
    named.DESTROY_DATE,
    named.COMPROMISE_DATE,
    named.COMPROMISE_OCCURRENCE_DATE,
    named.REVOCATION_REASON,
    named.ARCHIVE_DATE,
    named.DIGEST,
    named.FRESH,
    named.LINK,
    named.GCM_INVOCATIONS,
    named.ALWAYS_SENSITIVE,
    named.NEVER_EXTRACTABLE,
    named.RANDOM_NUMBER_GENERATOR,
)
_DATES = range(-(2**63), 2**63)
"""What a date and time of KMIP can express, in seconds since the epoch."""
_LATER = (named.PROCESS_START_DATE, named.PROTECT_STOP_DATE, named.DEACTIVATION_DATE)


async def rekey(batch: Batch, payload: Item) -> Payload:
    old_id = batch.object_id(payload)
    offset = read_interval(payload, Tag.OFFSET)
    given = await given_attributes(batch, payload, Tag.TEMPLATE_ATTRIBUTE)
    if any(named.first(given, name) is not None for name in (named.ALGORITHM, named.LENGTH)):
        raise invalid("the replacement key must have the same algorithm and length")
    old = await batch.objects.get(batch.caller, old_id)
    require_here(old)
    if old.row.object_type != ObjectType.SYMMETRIC_KEY:
        raise invalid("only symmetric keys can be re-keyed")
    made = _new_key_like(old)

    def plan(before: ManagedObject, new_id: str) -> tuple[ManagedObject, Attributes]:
        require_here(before)
        after = named.without(before.attributes, named.NAME)
        after = _with_link(after, LinkType.REPLACEMENT_OBJECT_LINK, new_id)
        return with_changes(before, after, batch.now), _succession(before, given, made, offset, batch.now)

    successor = await batch.objects.succeed(batch.caller, old_id, made, plan, batch.change_event)
    return (batch.created(successor.row.object_id),)


def _new_key_like(old: ManagedObject) -> Item:
    algorithm, length = named.integer(old.attributes, named.ALGORITHM), named.integer(old.attributes, named.LENGTH)
    if algorithm is None or length is None:
        raise invalid("the key has no algorithm and length")
    made, _ = material.new_symmetric_key(algorithm, length)
    return made


def _succession(old: ManagedObject, given: Attributes, made: Item, offset: int | None, now: int) -> Attributes:
    """Return the attributes of the successor (KMIP 1.4, tables 4.4.1 and 4.4.2)."""
    attributes = named.without(old.attributes, *_OWN)
    if offset is not None:
        attributes = _with_shifted_dates(old, attributes, now + offset)
    for name in dict.fromkeys(attribute.name for attribute in given):
        if name not in named.RULES or not named.RULES[name].many:
            attributes = named.without(attributes, name)
    for attribute in given:
        attributes = named.with_instance(attributes, attribute.name, attribute.value)
    attributes = named.created_here(attributes, now)
    attributes = _with_link(attributes, LinkType.REPLACED_OBJECT_LINK, old.row.object_id)
    return complete(attributes, ObjectType.SYMMETRIC_KEY, made)


def _with_shifted_dates(old: ManagedObject, attributes: Attributes, activation: int) -> Attributes:
    """Return the attributes with all dates shifted by the same interval as the activation date."""
    was = old.activation
    attributes = named.with_single(attributes, named.ACTIVATION_DATE, moment(Tag.ATTRIBUTE_VALUE, activation))
    for name in _LATER:
        value = named.first(attributes, name)
        if value is None:
            continue
        if was is None:
            attributes = named.without(attributes, name)
        elif isinstance(value.value, int):
            later = value.value + activation - was
            if later not in _DATES:
                message = f"the offset moves the {name} beyond the possible dates"
                raise KmipRefused(ResultReason.INVALID_FIELD, message, ResultReason.NUMERIC_RANGE)
            attributes = named.with_single(attributes, name, moment(Tag.ATTRIBUTE_VALUE, later))
    return attributes


def _with_link(attributes: Attributes, kind: LinkType, other: str) -> Attributes:
    """Return the attributes with one link of this kind, to `other`."""
    kept = tuple(
        attribute
        for attribute in attributes
        if attribute.name != named.LINK or attribute.value.first(Tag.LINK_TYPE) != choice(Tag.LINK_TYPE, kind)
    )
    link = structure(Tag.ATTRIBUTE_VALUE, choice(Tag.LINK_TYPE, kind), text(Tag.LINKED_OBJECT_IDENTIFIER, other))
    return named.with_instance(kept, named.LINK, link)
