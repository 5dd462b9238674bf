"""Operations that create objects (KMIP 1.4): Create (4.1), Create Key Pair (4.2), Register (4.3) and Derive Key (4.6).

Templates (KMIP 1.4, section 2.2.6; deprecated since 1.3) are attributes stored under a name, for new objects.
"""

from collections.abc import Sequence

from core.errors.services import ObjectNotFound
from crypto_service.kmip.batch import Batch, Payload
from crypto_service.kmip.codec.enums import CryptographicUsageMask, KeyFormatType, LinkType, ObjectType, SecretDataType
from crypto_service.kmip.codec.errors import invalid, missing, unknown_field, unsupported
from crypto_service.kmip.codec.fields import (
    choice,
    flag,
    long,
    moment,
    number,
    octets,
    read_choice,
    read_long,
    read_octets,
    read_structure,
    read_text,
    required,
    structure,
    text,
)
from crypto_service.kmip.codec.framing import VERSION_2
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from crypto_service.kmip.objects import attributes as named
from crypto_service.kmip.objects import key_formats, x509_attributes
from crypto_service.kmip.objects import key_material as material
from crypto_service.kmip.objects.algorithms import derivation_cost, derive_key_bytes, key_pair_cost, new_key_pair
from crypto_service.kmip.objects.attributes import Attributes
from crypto_service.kmip.objects.key_material import key_facts
from crypto_service.kmip.objects.store import NewObject, new_object_id

_X_509 = 1
"""The certificate type that is parsed; the other one is PGP."""


async def create(batch: Batch, payload: Item) -> Payload:
    kind = required(read_choice(payload, Tag.OBJECT_TYPE), Tag.OBJECT_TYPE)
    if kind != ObjectType.SYMMETRIC_KEY:
        raise invalid("Create supports only symmetric keys")
    given = await given_attributes(batch, payload, Tag.TEMPLATE_ATTRIBUTE)
    algorithm, length = named.integer(given, named.ALGORITHM), named.integer(given, named.LENGTH)
    if algorithm is None or named.integer(given, named.USAGE_MASK) is None:
        raise missing(Tag.CRYPTOGRAPHIC_ALGORITHM if algorithm is None else Tag.CRYPTOGRAPHIC_USAGE_MASK)
    made, bits = material.new_symmetric_key(algorithm, length)
    given = named.with_single(given, named.LENGTH, number(Tag.ATTRIBUTE_VALUE, bits))
    given = named.created_here(given, batch.now)
    return (choice(Tag.OBJECT_TYPE, kind), await _add(batch, NewObject(kind, complete(given, kind, made), made)))


async def register(batch: Batch, payload: Item) -> Payload:
    kind = required(read_choice(payload, Tag.OBJECT_TYPE), Tag.OBJECT_TYPE)
    if kind == ObjectType.TEMPLATE and batch.version >= VERSION_2:
        raise invalid("the object type is not supported")
    brought = material.read_registered(kind, payload)
    given = await given_attributes(batch, payload, Tag.TEMPLATE_ATTRIBUTE)
    if kind == ObjectType.TEMPLATE:
        given = _template_attributes(brought, given, batch.version)
    elif kind == ObjectType.CERTIFICATE:
        given = _certificate(brought, given)
    elif kind != ObjectType.OPAQUE_OBJECT:
        key_formats.require_readable(brought)
        given = _with_key_block(brought, given)
    return (await _add(batch, NewObject(kind, complete(given, kind, brought), brought)),)


async def _add(batch: Batch, draft: NewObject) -> Item:
    """Store a new object and return its Unique Identifier for the response."""
    await batch.objects.add(batch.caller, batch.change_event, draft)
    return batch.created(draft.object_id)


async def given_attributes(batch: Batch, payload: Item, tag: int) -> Attributes:
    """Return the attributes of a new object from a request, including those of the templates that it names.

    Raises: KmipRefused for another field, which could restrict the object's use.
    """
    template = read_structure(payload, tag)
    if template is None:
        return ()
    for item in template.children():
        if item.tag not in (Tag.ATTRIBUTE, Tag.NAME):
            raise unknown_field(item.tag)
    own = named.for_new_object(template.all(Tag.ATTRIBUTE), batch.version)
    return await with_templates(batch, template, own)


def complete(given: Attributes, kind: int, made: Item) -> Attributes:
    """Return the attributes with those that are derived from the object itself."""
    limits = named.first(given, named.USAGE_LIMITS)
    if limits is not None:
        given = named.with_single(given, named.USAGE_LIMITS, whole_limits(limits))
    digest = material.digest(kind, made)
    if digest is not None:
        given = named.with_single(given, named.DIGEST, digest)
        form = named.integer(given, named.KEY_FORMAT_TYPE)
        if form not in (None, read_choice(digest, Tag.KEY_FORMAT_TYPE)):
            raise invalid("the key does not have the given key format type")
        given = named.without(given, named.KEY_FORMAT_TYPE)
    if kind != ObjectType.TEMPLATE and named.first(given, named.FRESH) is None:
        given = named.with_single(given, named.FRESH, flag(Tag.ATTRIBUTE_VALUE, value=True))
    return given


def whole_limits(limits: Item) -> Item:
    """Return usage limits with a full count; the count from the client is ignored."""
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


def _with_key_block(brought: Item, given: Attributes) -> Attributes:
    """Return the attributes with algorithm and length of the key block; raise where they contradict."""
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
            raise invalid(f"the attribute {name} contradicts the key block")
        given = named.with_single(given, name, value)
    return given


def _certificate(brought: Item, given: Attributes) -> Attributes:
    kind = required(read_choice(brought, Tag.CERTIFICATE_TYPE), Tag.CERTIFICATE_TYPE)
    content = required(read_octets(brought, Tag.CERTIFICATE_VALUE), Tag.CERTIFICATE_VALUE)
    if named.integer(given, named.CERTIFICATE_TYPE) not in (None, kind):
        raise invalid("the attribute Certificate Type contradicts the certificate")
    given = named.with_single(given, named.CERTIFICATE_TYPE, choice(Tag.ATTRIBUTE_VALUE, kind))
    given = named.with_single(given, named.CERTIFICATE_LENGTH, number(Tag.ATTRIBUTE_VALUE, len(content)))
    return x509_attributes.with_certificate(content, given) if kind == _X_509 else given


def _template_attributes(brought: Item, given: Attributes, version: int) -> Attributes:
    """Return the attributes of a template; without a given name, the names among its contained attributes are used."""
    held = named.for_new_object(brought.all(Tag.ATTRIBUTE), version)
    if named.names(given):
        return given
    return (*given, *(attribute for attribute in held if attribute.name == named.NAME))


async def create_key_pair(batch: Batch, payload: Item) -> Payload:
    common = await given_attributes(batch, payload, Tag.COMMON_TEMPLATE_ATTRIBUTE)
    private = await _given_attributes(batch, payload, Tag.PRIVATE_KEY_TEMPLATE_ATTRIBUTE, common)
    public = await _given_attributes(batch, payload, Tag.PUBLIC_KEY_TEMPLATE_ATTRIBUTE, common)
    algorithm, bits = named.integer(private, named.ALGORITHM), named.integer(private, named.LENGTH)
    if algorithm is None:
        raise missing(Tag.CRYPTOGRAPHIC_ALGORITHM)
    batch.charge(key_pair_cost(algorithm, bits))
    pair = await batch.parts.computing.run(batch.caller.tenant_id, lambda: new_key_pair(algorithm, bits))
    private_id, public_id = new_object_id(), new_object_id()
    drafts = (
        _draft(batch, private, ObjectType.PRIVATE_KEY, pair.private, private_id, (LinkType.PUBLIC_KEY_LINK, public_id)),
        _draft(batch, public, ObjectType.PUBLIC_KEY, pair.public, public_id, (LinkType.PRIVATE_KEY_LINK, private_id)),
    )
    await batch.objects.add(batch.caller, batch.change_event, *drafts)
    batch.created(private_id)
    return (
        text(Tag.PRIVATE_KEY_UNIQUE_IDENTIFIER, private_id),
        text(Tag.PUBLIC_KEY_UNIQUE_IDENTIFIER, public_id),
    )


async def _given_attributes(batch: Batch, payload: Item, tag: int, common: Attributes) -> Attributes:
    own = await given_attributes(batch, payload, tag)
    given = named.without(common, *(attribute.name for attribute in own))
    return (*given, *own)


def _draft(  # noqa: PLR0913, PLR0917 - all properties of one half of a pair
    batch: Batch, given: Attributes, kind: ObjectType, made: Item, object_id: str, link: tuple[LinkType, str]
) -> NewObject:
    length = required(key_facts(made).length, Tag.CRYPTOGRAPHIC_LENGTH)
    given = named.with_single(given, named.LENGTH, number(Tag.ATTRIBUTE_VALUE, length))
    given = named.created_here(given, batch.now)
    linked = structure(Tag.ATTRIBUTE_VALUE, choice(Tag.LINK_TYPE, link[0]), text(Tag.LINKED_OBJECT_IDENTIFIER, link[1]))
    given = named.with_instance(given, named.LINK, linked)
    return NewObject(kind, complete(given, kind, made), made, object_id)


_BITS = range(112, 4097, 8)
_RESTRICTIONS = (
    (named.SENSITIVE, True),
    (named.ALWAYS_SENSITIVE, False),
    (named.EXTRACTABLE, False),
    (named.NEVER_EXTRACTABLE, False),
)
"""Attributes, and the values that a derived key takes from its base key."""


async def derive_key(batch: Batch, payload: Item) -> Payload:
    kind = required(read_choice(payload, Tag.OBJECT_TYPE), Tag.OBJECT_TYPE)
    if kind not in (ObjectType.SYMMETRIC_KEY, ObjectType.SECRET_DATA):
        raise invalid("only symmetric keys and secrets can be derived")
    if sum(1 for _ in payload.all(Tag.UNIQUE_IDENTIFIER)) > 1:
        raise unsupported("a key can be derived from only one object")
    base = await batch.usable_key(payload, CryptographicUsageMask.DERIVE_KEY)
    method = required(read_choice(payload, Tag.DERIVATION_METHOD), Tag.DERIVATION_METHOD)
    parameters = required(read_structure(payload, Tag.DERIVATION_PARAMETERS), Tag.DERIVATION_PARAMETERS)
    given = await given_attributes(batch, payload, Tag.TEMPLATE_ATTRIBUTE)
    bits, size = _size(kind, given)
    key = material.key_bytes(await batch.objects.open(batch.caller, base))
    batch.charge(derivation_cost(method, parameters, size))
    made = await batch.parts.computing.run(
        batch.caller.tenant_id, lambda: derive_key_bytes(method, key, parameters, size)
    )
    held = _key_object(kind, made, named.integer(given, named.ALGORITHM), bits)
    link = structure(
        Tag.ATTRIBUTE_VALUE,
        choice(Tag.LINK_TYPE, LinkType.DERIVATION_BASE_OBJECT_LINK),
        text(Tag.LINKED_OBJECT_IDENTIFIER, base.row.object_id),
    )
    given = named.with_instance(given, named.LINK, link)
    given = named.with_single(given, named.ORIGINAL_CREATION_DATE, moment(Tag.ATTRIBUTE_VALUE, batch.now))
    # A derived key must not be easier to extract than its base key, from which it can be derived again.
    for name, restricted in _RESTRICTIONS:
        if named.is_set(base.attributes, name, default=not restricted) is restricted:
            given = named.with_single(given, name, flag(Tag.ATTRIBUTE_VALUE, value=restricted))
    return (await _add(batch, NewObject(kind, complete(given, kind, held), held)),)


def _size(kind: int, given: Attributes) -> tuple[int, int]:
    """Return bits and bytes of the new object."""
    bits = required(named.integer(given, named.LENGTH), Tag.CRYPTOGRAPHIC_LENGTH)
    if kind == ObjectType.SYMMETRIC_KEY:
        algorithm = required(named.integer(given, named.ALGORITHM), Tag.CRYPTOGRAPHIC_ALGORITHM)
        return material.key_size(algorithm, bits)
    if bits not in _BITS:
        raise invalid("a derived secret must have 112 to 4096 bits")
    return bits, bits // 8


def _key_object(kind: int, made: bytes, algorithm: int | None, bits: int) -> Item:
    if kind == ObjectType.SYMMETRIC_KEY:
        return material.symmetric_key(made, required(algorithm, Tag.CRYPTOGRAPHIC_ALGORITHM), bits)
    value = structure(Tag.KEY_VALUE, octets(Tag.KEY_MATERIAL, made))
    block = structure(Tag.KEY_BLOCK, choice(Tag.KEY_FORMAT_TYPE, KeyFormatType.RAW), value)
    return structure(Tag.SECRET_DATA, choice(Tag.SECRET_DATA_TYPE, SecretDataType.SEED), block)


_MOST_TEMPLATES = 8


async def with_templates(batch: Batch, template_attribute: Item, own: Attributes) -> Attributes:
    """Return the attributes of the named templates and the request's own, which take precedence.

    Attributes with several instances are combined. The name of a template is not a name of the object.
    """
    wanted = list(template_attribute.all(Tag.NAME))
    if len(wanted) > _MOST_TEMPLATES:
        raise invalid("a request names too many templates")
    merged: Attributes = ()
    for name in wanted:
        held = await _template_content(batch, required(read_text(name, Tag.NAME_VALUE), Tag.NAME_VALUE))
        merged = _merge(merged, named.without(held, named.NAME))
    return _merge(merged, own)


async def _template_content(batch: Batch, name: str) -> Attributes:
    if "\0" in name:
        raise ObjectNotFound
    found = await batch.objects.named(
        batch.caller,
        name,
        lambda managed: (
            managed.row.object_type == ObjectType.TEMPLATE and not managed.is_destroyed and not managed.archived
        ),
    )
    if not found:
        raise ObjectNotFound
    template = await batch.objects.open(batch.caller, await batch.objects.get(batch.caller, found[0]))
    return named.for_new_object(template.all(Tag.ATTRIBUTE), batch.version)


def _merge(under: Attributes, over: Attributes) -> Attributes:
    single = {attribute.name for attribute in over if attribute.name in named.RULES}
    kept = tuple(attribute for attribute in under if attribute.name not in single or named.RULES[attribute.name].many)
    for attribute in over:
        kept = named.with_instance(kept, attribute.name, attribute.value)
    return kept
