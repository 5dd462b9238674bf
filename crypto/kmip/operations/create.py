"""Create and Register (KMIP 1.4, sections 4.1, 4.3): new objects, made here or brought."""

from collections.abc import Sequence

from crypto.kmip import attributes as named
from crypto.kmip import material, x509_attributes
from crypto.kmip.attributes import Attributes
from crypto.kmip.batch import Batch, Payload
from crypto.kmip.enums import ObjectType
from crypto.kmip.fields import (
    choice,
    flag,
    long,
    moment,
    number,
    read_choice,
    read_long,
    read_octets,
    read_structure,
    required,
    structure,
)
from crypto.kmip.items import Item
from crypto.kmip.objects import Draft
from crypto.kmip.refusals import invalid, missing
from crypto.kmip.tags import Tag
from crypto.kmip.templates import with_templates

_X_509 = 1
"""The certificate type that is looked into; the other one is PGP."""


async def create(batch: Batch, payload: Item) -> Payload:
    kind = required(read_choice(payload, Tag.OBJECT_TYPE), Tag.OBJECT_TYPE)
    if kind != ObjectType.SYMMETRIC_KEY:
        raise invalid("only symmetric keys are made by Create")
    given = await described(batch, payload, Tag.TEMPLATE_ATTRIBUTE)
    algorithm, length = named.whole(given, named.ALGORITHM), named.whole(given, named.LENGTH)
    if algorithm is None or named.whole(given, named.USAGE_MASK) is None:
        raise missing(Tag.CRYPTOGRAPHIC_ALGORITHM if algorithm is None else Tag.CRYPTOGRAPHIC_USAGE_MASK)
    made, bits = material.new_symmetric_key(algorithm, length)
    given = named.put(given, named.LENGTH, number(Tag.ATTRIBUTE_VALUE, bits))
    given = named.put(given, named.ORIGINAL_CREATION_DATE, moment(Tag.ATTRIBUTE_VALUE, batch.now))
    stored = await batch.objects.add(batch.caller, Draft(kind, complete(given, kind, made), made))
    return (choice(Tag.OBJECT_TYPE, kind), batch.about(stored[0].row.object_id))


async def register(batch: Batch, payload: Item) -> Payload:
    kind = required(read_choice(payload, Tag.OBJECT_TYPE), Tag.OBJECT_TYPE)
    brought = material.registered(kind, payload)
    given = await described(batch, payload, Tag.TEMPLATE_ATTRIBUTE)
    if kind == ObjectType.TEMPLATE:
        given = _named_like(brought, given, batch.version)
    elif kind == ObjectType.CERTIFICATE:
        given = _certificate(brought, given)
    elif kind != ObjectType.OPAQUE_OBJECT:
        given = _agreeing(brought, given)
    stored = await batch.objects.add(batch.caller, Draft(kind, complete(given, kind, brought), brought))
    return (batch.about(stored[0].row.object_id),)


async def described(batch: Batch, payload: Item, tag: int) -> Attributes:
    """Return the attributes that a request gives to a new object, those of the templates it names included."""
    template = read_structure(payload, tag)
    if template is None:
        return ()
    own = named.creation(template.all(Tag.ATTRIBUTE), batch.version)
    return await with_templates(batch, template, own)


def complete(given: Attributes, kind: int, made: Item) -> Attributes:
    """Return the attributes with those that follow from the object itself."""
    limits = named.first(given, named.USAGE_LIMITS)
    if limits is not None:
        given = named.put(given, named.USAGE_LIMITS, whole_limits(limits))
    digest = material.digest(kind, made)
    if digest is not None:
        given = named.put(given, named.DIGEST, digest)
    if kind != ObjectType.TEMPLATE and named.first(given, named.FRESH) is None:
        given = named.put(given, named.FRESH, flag(Tag.ATTRIBUTE_VALUE, value=True))
    return given


def whole_limits(limits: Item) -> Item:
    """Return usage limits with a full count; what the client says about the count is not taken."""
    total = required(read_long(limits, Tag.USAGE_LIMITS_TOTAL), Tag.USAGE_LIMITS_TOTAL)
    if total < 0:
        raise invalid("usage limits cannot be negative")
    unit = required(read_choice(limits, Tag.USAGE_LIMITS_UNIT), Tag.USAGE_LIMITS_UNIT)
    return limits_item(total, total, unit)


def limits_item(total: int, left: int, unit: int) -> Item:
    return structure(
        Tag.ATTRIBUTE_VALUE,
        long(Tag.USAGE_LIMITS_TOTAL, total),
        long(Tag.USAGE_LIMITS_COUNT, left),
        choice(Tag.USAGE_LIMITS_UNIT, unit),
    )


def _agreeing(brought: Item, given: Attributes) -> Attributes:
    """Return the attributes with algorithm and length of the key block; raises where the two disagree."""
    facts = material.key_facts(brought)
    said: Sequence[tuple[str, Item | None]] = (
        (named.ALGORITHM, None if facts.algorithm is None else choice(Tag.ATTRIBUTE_VALUE, facts.algorithm)),
        (named.LENGTH, None if facts.length is None else number(Tag.ATTRIBUTE_VALUE, facts.length)),
    )
    for name, value in said:
        other = named.first(given, name)
        if value is None:
            continue
        if other is not None and other.value != value.value:
            raise invalid(f"the attribute {name} is not what the key block says")
        given = named.put(given, name, value)
    return given


def _certificate(brought: Item, given: Attributes) -> Attributes:
    kind = required(read_choice(brought, Tag.CERTIFICATE_TYPE), Tag.CERTIFICATE_TYPE)
    content = required(read_octets(brought, Tag.CERTIFICATE_VALUE), Tag.CERTIFICATE_VALUE)
    given = named.put(given, named.CERTIFICATE_TYPE, choice(Tag.ATTRIBUTE_VALUE, kind))
    given = named.put(given, named.CERTIFICATE_LENGTH, number(Tag.ATTRIBUTE_VALUE, len(content)))
    return x509_attributes.described(content, given) if kind == _X_509 else given


def _named_like(brought: Item, given: Attributes, version: int) -> Attributes:
    """Return a template's own attributes: where it is given no name, the ones among those it holds are its names."""
    held = named.creation(brought.all(Tag.ATTRIBUTE), version)
    if named.names(given):
        return given
    return (*given, *(attribute for attribute in held if attribute.name == named.NAME))
