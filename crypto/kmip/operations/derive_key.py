"""Derive Key (KMIP 1.4, section 4.6): a new key or secret out of one that stays here."""

from crypto.kmip import attributes as named
from crypto.kmip import material
from crypto.kmip.attributes import Attributes
from crypto.kmip.batch import Batch, Payload
from crypto.kmip.derivation import derived
from crypto.kmip.enums import CryptographicUsageMask, KeyFormatType, LinkType, ObjectType, SecretDataType
from crypto.kmip.fields import (
    choice,
    moment,
    octets,
    read_choice,
    read_structure,
    required,
    structure,
    text,
)
from crypto.kmip.items import Item
from crypto.kmip.objects import Draft
from crypto.kmip.operations.create import complete, described
from crypto.kmip.refusals import invalid, unsupported
from crypto.kmip.tags import Tag
from crypto.kmip.usable import require_usable

_BITS = range(112, 4097, 8)


async def derive_key(batch: Batch, payload: Item) -> Payload:
    kind = required(read_choice(payload, Tag.OBJECT_TYPE), Tag.OBJECT_TYPE)
    if kind not in (ObjectType.SYMMETRIC_KEY, ObjectType.SECRET_DATA):
        raise invalid("only symmetric keys and secrets are derived")
    if sum(1 for _ in payload.all(Tag.UNIQUE_IDENTIFIER)) > 1:
        raise unsupported("a key is derived from one object")
    base = await batch.objects.get(batch.caller, batch.object_id(payload))
    require_usable(base, CryptographicUsageMask.DERIVE_KEY, batch.now)
    method = required(read_choice(payload, Tag.DERIVATION_METHOD), Tag.DERIVATION_METHOD)
    parameters = required(read_structure(payload, Tag.DERIVATION_PARAMETERS), Tag.DERIVATION_PARAMETERS)
    given = await described(batch, payload, Tag.TEMPLATE_ATTRIBUTE)
    bits, size = _size(kind, given)
    key = material.key_bytes(await batch.objects.open(batch.caller, base))
    made = await batch.parts.blocking.run(batch.caller.tenant_id, lambda: derived(method, key, parameters, size))
    held = _held(kind, made, named.whole(given, named.ALGORITHM), bits)
    link = structure(
        Tag.ATTRIBUTE_VALUE,
        choice(Tag.LINK_TYPE, LinkType.DERIVATION_BASE_OBJECT_LINK),
        text(Tag.LINKED_OBJECT_IDENTIFIER, base.row.object_id),
    )
    given = named.added(given, named.LINK, link)
    given = named.put(given, named.ORIGINAL_CREATION_DATE, moment(Tag.ATTRIBUTE_VALUE, batch.now))
    # What comes out of a key must not leave more easily than the key itself.
    for name in (named.SENSITIVE, named.EXTRACTABLE):
        value = named.first(base.attributes, name)
        if value is not None:
            given = named.put(given, name, value)
    stored = await batch.objects.add(batch.caller, Draft(kind, complete(given, kind, held), held))
    return (batch.about(stored[0].row.object_id),)


def _size(kind: int, given: Attributes) -> tuple[int, int]:
    """Return bits and bytes of the new object."""
    bits = required(named.whole(given, named.LENGTH), Tag.CRYPTOGRAPHIC_LENGTH)
    if kind == ObjectType.SYMMETRIC_KEY:
        algorithm = required(named.whole(given, named.ALGORITHM), Tag.CRYPTOGRAPHIC_ALGORITHM)
        return material.key_size(algorithm, bits)
    if bits not in _BITS:
        raise invalid("a derived secret has 112 to 4096 bits")
    return bits, bits // 8


def _held(kind: int, made: bytes, algorithm: int | None, bits: int) -> Item:
    if kind == ObjectType.SYMMETRIC_KEY:
        return material.symmetric_key(made, required(algorithm, Tag.CRYPTOGRAPHIC_ALGORITHM), bits)
    value = structure(Tag.KEY_VALUE, octets(Tag.KEY_MATERIAL, made))
    block = structure(Tag.KEY_BLOCK, choice(Tag.KEY_FORMAT_TYPE, KeyFormatType.RAW), value)
    return structure(Tag.SECRET_DATA, choice(Tag.SECRET_DATA_TYPE, SecretDataType.SEED), block)
