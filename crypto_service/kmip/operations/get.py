"""Get (KMIP 1.4, section 4.12): the only operation that returns the content of an object.

The key may be wrapped with AES key wrap under another key of the same service (KMIP 1.4, section 2.1.6). Only a holder
of the wrapping key can then use it; a sensitive key is returned only in this form.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from crypto_service.keys import primitives
from crypto_service.kmip.batch import Batch, Payload
from crypto_service.kmip.codec import ttlv
from crypto_service.kmip.codec.enums import (
    BlockCipherMode,
    CryptographicAlgorithm,
    CryptographicUsageMask,
    EncodingOption,
    KeyWrapType,
    ObjectType,
    ResultReason,
    WrappingMethod,
)
from crypto_service.kmip.codec.errors import KmipRefused, denied, invalid, unsupported, wrong
from crypto_service.kmip.codec.fields import (
    choice,
    flag,
    octets,
    read_choice,
    read_structure,
    read_text,
    required,
    structure,
)
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item, ItemType, encode
from crypto_service.kmip.objects import attributes as named
from crypto_service.kmip.objects import key_formats, states
from crypto_service.kmip.objects import key_material as material
from crypto_service.kmip.objects.managed_object import ManagedObject, require_here, require_usable
from crypto_service.kmip.operations.usage_limits import consume_usage

_MOST_NAMES = 64
_OBJECT_TYPES: Mapping[int, Item] = MappingProxyType(
    {kind: ttlv.pre_encode(choice(Tag.OBJECT_TYPE, kind)) for kind in material.TAGS}
)


async def wrap_object(batch: Batch, managed: ManagedObject, held: Item, specification: Item) -> Item:
    """Return the object with its key value wrapped according to `specification`."""
    if read_choice(specification, Tag.WRAPPING_METHOD) != WrappingMethod.ENCRYPT:
        raise unsupported("keys can be wrapped only by encryption")
    if specification.first(Tag.MAC_SIGNATURE_KEY_INFORMATION) is not None:
        raise unsupported("signatures of wrapped keys are not supported")
    information = required(
        read_structure(specification, Tag.ENCRYPTION_KEY_INFORMATION), Tag.ENCRYPTION_KEY_INFORMATION
    )
    wrapping = await _wrapping_key(batch, managed, information)
    option = read_choice(specification, Tag.ENCODING_OPTION)
    block = required(read_structure(held, Tag.KEY_BLOCK), Tag.KEY_BLOCK)
    value = required(read_structure(block, Tag.KEY_VALUE), Tag.KEY_VALUE)
    attributes = _attributes(batch, managed, specification)
    if option == EncodingOption.NO_ENCODING:
        if attributes:
            raise KmipRefused(ResultReason.ENCODING_OPTION_ERROR, "attributes can be wrapped only in TTLV encoding")
        plain = material.key_bytes(held)
    elif option in (None, EncodingOption.TTLV_ENCODING):
        plain = encode(structure(Tag.KEY_VALUE, *value.children(), *attributes))
    else:
        raise KmipRefused(ResultReason.ENCODING_OPTION_ERROR, "the encoding option is not supported")
    key = material.key_bytes(await batch.objects.open(batch.caller, wrapping))
    wrapped = primitives.aes_kw_wrap(key, plain)
    # Before the result is returned, but after the checks of its size: a rejected request is no use.
    await consume_usage(batch, wrapping, len(plain))
    data = structure(
        Tag.KEY_WRAPPING_DATA,
        *(part for part in specification.children() if part.tag != Tag.ATTRIBUTE_NAME),
    )
    again = structure(
        Tag.KEY_BLOCK,
        *(octets(Tag.KEY_VALUE, wrapped) if part.tag == Tag.KEY_VALUE else part for part in block.children()),
        data,
    )
    return structure(held.tag, *(again if part.tag == Tag.KEY_BLOCK else part for part in held.children()))


async def _wrapping_key(batch: Batch, managed: ManagedObject, information: Item) -> ManagedObject:
    """Return the key that wraps `managed`; raise unless it permits this."""
    wanted = required(read_text(information, Tag.UNIQUE_IDENTIFIER), Tag.UNIQUE_IDENTIFIER)
    subject = batch.subject
    wrapping = await batch.objects.get(batch.caller, batch.checked_id(wanted))
    batch.subject = subject
    require_usable(wrapping, CryptographicUsageMask.WRAP_KEY, batch.now)
    if wrapping.row.object_id == managed.row.object_id:
        raise denied("a key cannot wrap itself")
    parameters = read_structure(information, Tag.CRYPTOGRAPHIC_PARAMETERS) or named.first(
        wrapping.attributes, named.PARAMETERS
    )
    mode = None if parameters is None else read_choice(parameters, Tag.BLOCK_CIPHER_MODE)
    if mode != BlockCipherMode.NIST_KEY_WRAP:
        raise invalid("keys can be wrapped only with NIST key wrap")
    if named.integer(wrapping.attributes, named.ALGORITHM) != CryptographicAlgorithm.AES:
        raise invalid("wrapping requires an AES key")
    return wrapping


def _attributes(batch: Batch, managed: ManagedObject, specification: Item) -> list[Item]:
    names = list(specification.all(Tag.ATTRIBUTE_NAME))
    if len(names) > _MOST_NAMES:
        raise invalid("the request wraps too many attributes with the key")
    if any(name.type is not ItemType.TEXT_STRING for name in names):
        raise wrong(Tag.ATTRIBUTE_NAME)
    wanted = {name.value for name in names}
    return [
        named.to_item(attribute, batch.version)
        for attribute in managed.all_attributes(batch.now)
        if attribute.name in wanted and named.is_visible(attribute.name, batch.version)
    ]


async def get(batch: Batch, payload: Item) -> Payload:
    managed = await batch.objects.get(batch.caller, batch.object_id(payload))
    _require_gettable(batch, managed)
    specification, form = _chosen(payload)
    if managed.sensitive and specification is None:
        raise denied("the object is sensitive and can be returned only wrapped", ResultReason.SENSITIVE)
    if not managed.extractable:
        raise denied("the object is not extractable", ResultReason.NOT_EXTRACTABLE)
    kind = managed.row.object_type
    data = await batch.objects.open_written(batch.caller, managed)
    if form is None and specification is None:
        given = ttlv.from_encoded(material.TAGS[kind], data)  # returned unchanged
    else:
        given = await _in_format(batch, kind, ttlv.decode(data), form)
    if specification is not None:
        given = await wrap_object(batch, managed, given, specification)
    if managed.fresh:
        await batch.objects.serve(batch.caller, managed.row.object_id, lambda current: _not_fresh(batch, current))
    return (_OBJECT_TYPES[kind], batch.about(managed.row.object_id), given)


def _chosen(payload: Item) -> tuple[Item | None, int | None]:
    """Return the wrapping specification and the key format that a request asks for; raise KmipRefused."""
    fields = payload.children()
    if len(fields) == 1 and fields[0].tag == Tag.UNIQUE_IDENTIFIER:  # nearly always
        return None, None
    if read_choice(payload, Tag.KEY_WRAP_TYPE) not in (None, KeyWrapType.NOT_WRAPPED, KeyWrapType.AS_REGISTERED):
        raise KmipRefused(ResultReason.INVALID_FIELD, "the key wrap type is not supported")
    if payload.first(Tag.KEY_COMPRESSION_TYPE) is not None:
        raise KmipRefused(ResultReason.KEY_COMPRESSION_TYPE_NOT_SUPPORTED, "key compression is not supported")
    return read_structure(payload, Tag.KEY_WRAPPING_SPECIFICATION), read_choice(payload, Tag.KEY_FORMAT_TYPE)


async def _in_format(batch: Batch, kind: int, held: Item, form: int | None) -> Item:
    if form is None or material.is_in_format(kind, held, form):
        return held
    if kind not in (ObjectType.PRIVATE_KEY, ObjectType.PUBLIC_KEY):
        return material.in_format(kind, held, form)
    batch.charge(key_formats.CONVERSION_COST)
    return await batch.parts.computing.run(batch.caller.tenant_id, lambda: key_formats.in_format(held, form))


def _require_gettable(batch: Batch, managed: ManagedObject) -> None:
    require_here(managed)
    readable = batch.caller.revoked_keys_readable
    states.require_gettable(managed.state_at(batch.now), revoked_keys_readable=readable)


def _not_fresh(batch: Batch, managed: ManagedObject) -> ManagedObject:
    """Return the object as no longer fresh; raise if it was revoked meanwhile."""
    _require_gettable(batch, managed)
    if not managed.fresh:
        return managed
    attributes = named.with_single(managed.attributes, named.FRESH, flag(Tag.ATTRIBUTE_VALUE, value=False))
    row = managed.row._replace(attributes=named.encode(attributes))
    return replace(managed, row=row, attributes=attributes, fresh=False)
