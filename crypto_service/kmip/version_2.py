"""KMIP 2.0 and 2.1: translation of payloads into the form of 1.4, in which the operations work, and back.

In 2.x an attribute has a tag instead of a name and an index, and the structure Attributes replaces template attributes
(KMIP 2.1, section 4). The attributes of vendors keep a name beside the vendor's identification (section 4.64).
"""

from collections.abc import Mapping
from types import MappingProxyType

from crypto_service.kmip.batch import Payload
from crypto_service.kmip.codec.enums import Operation, ProtectionStorageMask, ResultReason, UniqueIdentifier
from crypto_service.kmip.codec.errors import KmipRefused, invalid, missing, unknown_field, unsupported, wrong
from crypto_service.kmip.codec.fields import choice, read_structure, read_text, required, structure, text
from crypto_service.kmip.codec.framing import VERSION_2
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item, ItemType
from crypto_service.kmip.objects.attributes import CUSTOM_PREFIX, RULES, is_visible

_STRUCTURES: Mapping[int, Tag] = MappingProxyType(
    {
        Tag.ATTRIBUTES: Tag.TEMPLATE_ATTRIBUTE,
        Tag.COMMON_ATTRIBUTES: Tag.COMMON_TEMPLATE_ATTRIBUTE,
        Tag.PRIVATE_KEY_ATTRIBUTES: Tag.PRIVATE_KEY_TEMPLATE_ATTRIBUTE,
        Tag.PUBLIC_KEY_ATTRIBUTES: Tag.PUBLIC_KEY_TEMPLATE_ATTRIBUTE,
    }
)
_ONLY_1 = frozenset({*_STRUCTURES.values(), Tag.ATTRIBUTE, Tag.ATTRIBUTE_NAME, Tag.ATTRIBUTE_INDEX})
_STORAGE = frozenset(
    {
        Tag.PROTECTION_STORAGE_MASKS,
        Tag.COMMON_PROTECTION_STORAGE_MASKS,
        Tag.PRIVATE_PROTECTION_STORAGE_MASKS,
        Tag.PUBLIC_PROTECTION_STORAGE_MASKS,
    }
)
_CHANGES = frozenset(
    {
        Operation.ADD_ATTRIBUTE,
        Operation.MODIFY_ATTRIBUTE,
        Operation.DELETE_ATTRIBUTE,
        Operation.SET_ATTRIBUTE,
        Operation.ADJUST_ATTRIBUTE,
    }
)
_TAGS: Mapping[str, Tag] = MappingProxyType(
    {
        name: Tag[name.upper().replace(" ", "_").replace(".", "_").replace("#", "")]
        for name in RULES
        if is_visible(name, VERSION_2) and not name.startswith("y-")
    }
)
_NAMES: Mapping[int, str] = MappingProxyType({tag: name for name, tag in _TAGS.items()})
_SEPARATOR = "\x1f"
"""Between a vendor's identification and a name; the vendor x has none, so that names of 1.x are its names."""


def from_version_2(payload: Item) -> Item:
    """Return a request payload in the form of 1.4; raise KmipRefused."""
    return structure(payload.tag, *(item for part in payload.children() for item in _field_from_2(part)))


def to_version_2(operation: int, payload: Payload) -> Payload:
    """Return a response payload of 1.4 in the form of 2.x."""
    others = tuple(item for item in payload if item.tag not in (Tag.ATTRIBUTE, Tag.ATTRIBUTE_NAME))
    if operation == Operation.GET_ATTRIBUTES:
        found = (item for item in payload if item.tag == Tag.ATTRIBUTE)
        return (*others, structure(Tag.ATTRIBUTES, *map(_attribute_to_2, found)))
    if operation == Operation.GET_ATTRIBUTE_LIST:
        return (*others, *(_reference(str(item.value)) for item in payload if item.tag == Tag.ATTRIBUTE_NAME))
    return others if operation in _CHANGES else payload


def _field_from_2(item: Item) -> Payload:  # noqa: PLR0911 - one result for each kind of field
    if item.tag in _STRUCTURES:
        return (structure(_STRUCTURES[item.tag], *map(_attribute_from_2, _fields(item))),)
    if item.tag == Tag.NEW_ATTRIBUTE:
        return (_attribute_from_2(_only(item)),)
    if item.tag == Tag.CURRENT_ATTRIBUTE:
        return (structure(item.tag, *_attribute_from_2(_only(item)).children()),)
    if item.tag == Tag.ATTRIBUTE_REFERENCE:
        return (text(Tag.ATTRIBUTE_NAME, _referenced(item)),)
    if item.tag in _STORAGE:
        _require_storage(item)
        return ()
    if item.tag == Tag.UNIQUE_IDENTIFIER and item.type is not ItemType.TEXT_STRING:
        if item.type is ItemType.ENUMERATION and item.value == UniqueIdentifier.ID_PLACEHOLDER:
            return ()  # as in 1.4, where the placeholder is meant if there is no identifier
        raise unsupported("a unique identifier must be a text or the ID placeholder")
    if item.tag in _ONLY_1:
        raise unknown_field(item.tag)
    return (item,)


def _attribute_from_2(item: Item) -> Item:
    if item.tag == Tag.ATTRIBUTE:
        value = item.first(Tag.ATTRIBUTE_VALUE)
        if value is None:
            raise missing(Tag.ATTRIBUTE_VALUE)
        return structure(Tag.ATTRIBUTE, text(Tag.ATTRIBUTE_NAME, _vendor_name(item)), value)
    value = Item(Tag.ATTRIBUTE_VALUE, item.type, item.value)
    return structure(Tag.ATTRIBUTE, text(Tag.ATTRIBUTE_NAME, _name(item.tag)), value)


def _attribute_to_2(attribute: Item) -> Item:
    name, value = str(attribute.children()[0].value), attribute.children()[-1]
    tag = _TAGS.get(name)
    if tag is None:
        return structure(Tag.ATTRIBUTE, *_vendor_parts(name), value)
    return Item(tag, value.type, value.value)


def _referenced(item: Item) -> str:
    if item.type is ItemType.STRUCTURE:
        return _vendor_name(item)
    if item.type is not ItemType.ENUMERATION or not isinstance(item.value, int):
        raise wrong(Tag.ATTRIBUTE_REFERENCE)
    return _name(item.value)


def _reference(name: str) -> Item:
    tag = _TAGS.get(name)
    if tag is None:
        return structure(Tag.ATTRIBUTE_REFERENCE, *_vendor_parts(name))
    return choice(Tag.ATTRIBUTE_REFERENCE, tag)


def _name(tag: int) -> str:
    name = _NAMES.get(tag)
    if name is None:
        message = "the attribute is not supported"
        raise KmipRefused(ResultReason.INVALID_FIELD, message, ResultReason.UNSUPPORTED_ATTRIBUTE)
    return name


def _vendor_name(item: Item) -> str:
    """Return the name of 1.4 for an attribute of a vendor; `x` are those of clients, `y` those of the server."""
    vendor = required(read_text(item, Tag.VENDOR_IDENTIFICATION), Tag.VENDOR_IDENTIFICATION)
    name = required(read_text(item, Tag.ATTRIBUTE_NAME), Tag.ATTRIBUTE_NAME)
    if _SEPARATOR in vendor + name:
        raise invalid("the name of an attribute contains a control character")
    return f"{vendor}-{name}" if vendor in ("x", "y") else f"{CUSTOM_PREFIX}{vendor}{_SEPARATOR}{name}"


def _vendor_parts(name: str) -> Payload:
    prefix, _, rest = name.partition("-")
    vendor, separator, own = rest.partition(_SEPARATOR)
    vendor, own = (vendor, own) if separator else (prefix, rest)
    return (text(Tag.VENDOR_IDENTIFICATION, vendor), text(Tag.ATTRIBUTE_NAME, own))


def _require_storage(item: Item) -> None:
    """Raise KmipRefused unless one of the given masks permits a key to be stored by software.

    The masks are alternatives; one with further bits requires properties that this server does not claim.
    """
    masks = [mask.value for mask in _fields(item) if mask.tag == Tag.PROTECTION_STORAGE_MASK]
    if masks and ProtectionStorageMask.SOFTWARE not in masks:
        message = "this server stores keys only with the protection storage mask Software"
        raise KmipRefused(ResultReason.FEATURE_NOT_SUPPORTED, message, ResultReason.PROTECTION_STORAGE_UNAVAILABLE)


def _only(item: Item) -> Item:
    fields = _fields(item)
    if len(fields) != 1:
        raise invalid("the request must have exactly one attribute")
    return fields[0]


def _fields(item: Item) -> Payload:
    return required(read_structure(structure(0, item), item.tag), item.tag).children()
