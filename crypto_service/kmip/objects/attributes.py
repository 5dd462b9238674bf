"""The attributes of managed objects (KMIP 1.4, section 3): who may set them, in which versions, and their form.

An object's attributes are a tuple of `Attribute`, stored as one TTLV structure. It contains neither attributes of the
row (unique identifier, object type, state) nor computed ones (lease time); `managed_object` adds them to responses.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from crypto_service.kmip.codec import ttlv
from crypto_service.kmip.codec.enums import ResultReason, RngAlgorithm
from crypto_service.kmip.codec.errors import KmipRefused, denied, invalid, missing
from crypto_service.kmip.codec.fields import choice, moment, number, read_number, read_text, required, structure, text
from crypto_service.kmip.codec.framing import VERSION_2
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item, ItemType

NAME, STATE, DIGEST, FRESH = "Name", "State", "Digest", "Fresh"
UNIQUE_IDENTIFIER, OBJECT_TYPE, OBJECT_GROUP, LINK = "Unique Identifier", "Object Type", "Object Group", "Link"
ALGORITHM, LENGTH, USAGE_MASK = "Cryptographic Algorithm", "Cryptographic Length", "Cryptographic Usage Mask"
PARAMETERS, USAGE_LIMITS, LEASE_TIME = "Cryptographic Parameters", "Usage Limits", "Lease Time"
INITIAL_DATE, ACTIVATION_DATE, DEACTIVATION_DATE = "Initial Date", "Activation Date", "Deactivation Date"
PROCESS_START_DATE, PROTECT_STOP_DATE, DESTROY_DATE = "Process Start Date", "Protect Stop Date", "Destroy Date"
COMPROMISE_DATE, COMPROMISE_OCCURRENCE_DATE = "Compromise Date", "Compromise Occurrence Date"
ARCHIVE_DATE, LAST_CHANGE_DATE, ORIGINAL_CREATION_DATE = "Archive Date", "Last Change Date", "Original Creation Date"
REVOCATION_REASON, SENSITIVE, EXTRACTABLE = "Revocation Reason", "Sensitive", "Extractable"
ALWAYS_SENSITIVE, NEVER_EXTRACTABLE = "Always Sensitive", "Never Extractable"
RANDOM_NUMBER_GENERATOR = "Random Number Generator"
CERTIFICATE_TYPE, CERTIFICATE_LENGTH = "Certificate Type", "Certificate Length"
KEY_FORMAT_TYPE = "Key Format Type"
NAME_PARTS = ("CN", "O", "OU", "Email", "C", "ST", "L", "UID", "Serial Number", "Title", "DC", "DN Qualifier")
"""The parts of a certificate's subject and issuer that are attributes since KMIP 2.0."""
_WHOSE = ("Subject", "Issuer")
CUSTOM_PREFIX = "x-"
GCM_INVOCATIONS = "y-GCM Invocations"
"""How many times the key was used for GCM, estimated by `invocation_limit`."""

MOST_INSTANCES = 64
_MOST_ATTRIBUTES = 256
_NAME_LENGTH, _VALUE_LENGTH = 255, 16_384
DATES = (ACTIVATION_DATE, PROCESS_START_DATE, PROTECT_STOP_DATE, DEACTIVATION_DATE)
"""Dates that a client may set; `managed_object` defines until when."""


class Attribute(NamedTuple):
    """One instance; its number is KMIP's attribute index. `value` has the tag Attribute Value."""

    name: str
    instance: int
    value: Item


Attributes = tuple[Attribute, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """`since` and `until` are feature levels; the three permissions apply to clients, the server may do everything."""

    type: ItemType
    since: int = 0
    many: bool = False
    create: bool = False
    change: bool = False
    delete: bool = False
    until: int = 9


_T = ItemType


def _free(kind: ItemType, since: int = 0, *, many: bool = False) -> Rule:
    return Rule(kind, since, many, create=True, change=True, delete=True)


def _once(kind: ItemType, since: int = 0, *, many: bool = False) -> Rule:
    return Rule(kind, since, many, create=True)


def _date() -> Rule:
    return Rule(_T.DATE_TIME, create=True, change=True)


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        UNIQUE_IDENTIFIER: Rule(_T.TEXT_STRING),
        NAME: _free(_T.STRUCTURE, many=True),
        OBJECT_TYPE: Rule(_T.ENUMERATION),
        ALGORITHM: _once(_T.ENUMERATION),
        LENGTH: _once(_T.INTEGER),
        PARAMETERS: _free(_T.STRUCTURE, many=True),
        "Cryptographic Domain Parameters": _once(_T.STRUCTURE),
        CERTIFICATE_TYPE: _once(_T.ENUMERATION),
        CERTIFICATE_LENGTH: Rule(_T.INTEGER, 1),
        "X.509 Certificate Identifier": Rule(_T.STRUCTURE, 1),
        "X.509 Certificate Subject": Rule(_T.STRUCTURE, 1),
        "X.509 Certificate Issuer": Rule(_T.STRUCTURE, 1),
        "Certificate Identifier": Rule(_T.STRUCTURE, until=4),
        "Certificate Subject": Rule(_T.STRUCTURE, until=4),
        "Certificate Issuer": Rule(_T.STRUCTURE, until=4),
        "Digital Signature Algorithm": Rule(_T.ENUMERATION, 1, many=True),
        DIGEST: Rule(_T.STRUCTURE, many=True),
        "Operation Policy Name": Rule(_T.TEXT_STRING, create=True, until=4),
        USAGE_MASK: _once(_T.INTEGER),
        LEASE_TIME: Rule(_T.INTERVAL),
        USAGE_LIMITS: _free(_T.STRUCTURE),
        STATE: Rule(_T.ENUMERATION),
        INITIAL_DATE: Rule(_T.DATE_TIME),
        ACTIVATION_DATE: _date(),
        PROCESS_START_DATE: _date(),
        PROTECT_STOP_DATE: _date(),
        DEACTIVATION_DATE: _date(),
        DESTROY_DATE: Rule(_T.DATE_TIME),
        COMPROMISE_OCCURRENCE_DATE: Rule(_T.DATE_TIME),
        COMPROMISE_DATE: Rule(_T.DATE_TIME),
        REVOCATION_REASON: Rule(_T.STRUCTURE),
        ARCHIVE_DATE: Rule(_T.DATE_TIME),
        OBJECT_GROUP: _free(_T.TEXT_STRING, many=True),
        FRESH: _once(_T.BOOLEAN, 1),
        LINK: _free(_T.STRUCTURE, many=True),
        "Application Specific Information": _free(_T.STRUCTURE, many=True),
        "Contact Information": _free(_T.TEXT_STRING),
        LAST_CHANGE_DATE: Rule(_T.DATE_TIME),
        "Alternative Name": _free(_T.STRUCTURE, 2, many=True),
        "Key Value Present": Rule(_T.BOOLEAN, 2),
        "Key Value Location": _free(_T.STRUCTURE, 2, many=True),
        ORIGINAL_CREATION_DATE: _once(_T.DATE_TIME, 2),
        RANDOM_NUMBER_GENERATOR: _once(_T.STRUCTURE, 3),
        "PKCS#12 Friendly Name": _free(_T.TEXT_STRING, 4),
        "Description": _free(_T.TEXT_STRING, 4),
        "Comment": _free(_T.TEXT_STRING, 4),
        # These two can only become stricter (`managed_object.check_change`), so a restriction is permanent.
        SENSITIVE: Rule(_T.BOOLEAN, 4, create=True, change=True),
        ALWAYS_SENSITIVE: Rule(_T.BOOLEAN, 4),
        EXTRACTABLE: Rule(_T.BOOLEAN, 4, create=True, change=True),
        NEVER_EXTRACTABLE: Rule(_T.BOOLEAN, 4),
        KEY_FORMAT_TYPE: _once(_T.ENUMERATION, VERSION_2),
        **{f"Certificate {whose} {part}": Rule(_T.TEXT_STRING, VERSION_2) for whose in _WHOSE for part in NAME_PARTS},
        GCM_INVOCATIONS: Rule(_T.LONG_INTEGER),
    }
)

# Structures: required children and their types. Other children are stored unchanged.
_FORMS: Mapping[str, tuple[tuple[int, ItemType], ...]] = MappingProxyType(
    {
        NAME: ((Tag.NAME_VALUE, _T.TEXT_STRING), (Tag.NAME_TYPE, _T.ENUMERATION)),
        LINK: ((Tag.LINK_TYPE, _T.ENUMERATION), (Tag.LINKED_OBJECT_IDENTIFIER, _T.TEXT_STRING)),
        "Application Specific Information": ((Tag.APPLICATION_NAMESPACE, _T.TEXT_STRING),),
        "Alternative Name": (
            (Tag.ALTERNATIVE_NAME_VALUE, _T.TEXT_STRING),
            (Tag.ALTERNATIVE_NAME_TYPE, _T.ENUMERATION),
        ),
        RANDOM_NUMBER_GENERATOR: ((Tag.RNG_ALGORITHM, _T.ENUMERATION),),
        USAGE_LIMITS: ((Tag.USAGE_LIMITS_TOTAL, _T.LONG_INTEGER), (Tag.USAGE_LIMITS_UNIT, _T.ENUMERATION)),
    }
)


def rule_of(name: str, version: int) -> Rule:
    """Return the rule; raise KmipRefused for a name that does not exist in this version."""
    rule = RULES.get(name)
    if rule is not None and rule.since <= version <= rule.until:
        return rule
    if name.startswith(CUSTOM_PREFIX) and len(name) <= _NAME_LENGTH:
        return Rule(_T.STRUCTURE, many=True, create=True, change=True, delete=True)
    if name.startswith("y-"):
        raise read_only("only the server sets attributes that begin with y-")
    message = "the attribute does not exist in the protocol version of the request"
    raise KmipRefused(ResultReason.INVALID_FIELD, message, ResultReason.UNSUPPORTED_ATTRIBUTE)


def read_only(message: str) -> KmipRefused:
    return denied(message, exact=ResultReason.ATTRIBUTE_READ_ONLY)


def parse(item: Item, version: int, *, partial: bool = False) -> tuple[str, int | None, Item]:
    """Return name, optional index and validated value of a client's Attribute structure.

    A structure may be `partial` in a search, which compares only the given fields (KMIP 1.4, section 4.9).
    """
    name = required(read_text(item, Tag.ATTRIBUTE_NAME), Tag.ATTRIBUTE_NAME)
    index = read_number(item, Tag.ATTRIBUTE_INDEX)
    value = item.first(Tag.ATTRIBUTE_VALUE)
    if value is None:
        raise missing(Tag.ATTRIBUTE_VALUE)
    _check(name, value, rule_of(name, version), partial=partial)
    return name, index, value


def for_new_object(items: Iterable[Item], version: int) -> Attributes:
    """Return the attributes that a client sets on a new object; raise KmipRefused for attributes of the server."""
    made: Attributes = ()
    for item in items:
        name, _, value = parse(item, version)
        if not rule_of(name, version).create:
            raise read_only(f"only the server sets the attribute {name}")
        made = with_instance(made, name, value)
    return made


def with_instance(attributes: Attributes, name: str, value: Item) -> Attributes:
    """Return `attributes` with one more instance; raise KmipRefused when no more are permitted."""
    taken = [attribute.instance for attribute in attributes if attribute.name == name]
    if taken and not (name.startswith(CUSTOM_PREFIX) or RULES[name].many):
        message = f"the attribute {name} already exists"
        raise KmipRefused(ResultReason.ILLEGAL_OPERATION, message, ResultReason.ATTRIBUTE_SINGLE_VALUED)
    if len(taken) >= MOST_INSTANCES or len(attributes) >= _MOST_ATTRIBUTES:
        raise KmipRefused(ResultReason.INDEX_OUT_OF_BOUNDS, "the object has the maximum number of attributes")
    return (*attributes, Attribute(name, max(taken, default=-1) + 1, value))


def with_single(attributes: Attributes, name: str, value: Item) -> Attributes:
    """Return `attributes` with `value` as the only instance of `name`."""
    return (*without(attributes, name), Attribute(name, 0, value))


def without(attributes: Attributes, *names: str) -> Attributes:
    return tuple(attribute for attribute in attributes if attribute.name not in names)


def first(attributes: Attributes, name: str) -> Item | None:
    """Return the value of the first instance."""
    for attribute in attributes:
        if attribute.name == name:
            return attribute.value
    return None


def is_set(attributes: Attributes, name: str, *, default: bool) -> bool:
    """Return a Boolean attribute, or `default` where it is missing."""
    value = first(attributes, name)
    return default if value is None else value.value is True


def random_number_generator(tag: int) -> Item:
    """Return the description of the operating system's generator, which is none of the algorithms of KMIP."""
    return structure(tag, choice(Tag.RNG_ALGORITHM, RngAlgorithm.UNSPECIFIED))


def created_here(attributes: Attributes, now: int) -> Attributes:
    """Return the attributes of a key that the server creates, with those of its creation; `now` in seconds.

    Raises: KmipRefused when the client names a generator, which it can only do for a key that it registers.
    """
    if first(attributes, RANDOM_NUMBER_GENERATOR) is not None:
        raise read_only("a client cannot choose the random number generator of a new key")
    attributes = with_single(attributes, ORIGINAL_CREATION_DATE, moment(Tag.ATTRIBUTE_VALUE, now))
    return with_single(attributes, RANDOM_NUMBER_GENERATOR, random_number_generator(Tag.ATTRIBUTE_VALUE))


def integer(attributes: Attributes, name: str) -> int | None:
    """Return a number or enumeration; None where it is missing."""
    value = first(attributes, name)
    return value.value if value is not None and isinstance(value.value, int) else None


def names(attributes: Attributes) -> tuple[str, ...]:
    """Return the texts of the Name attributes."""
    found = (read_text(value, Tag.NAME_VALUE) for name, _, value in attributes if name == NAME)
    return tuple(dict.fromkeys(name for name in found if name is not None))


def is_visible(name: str, version: int) -> bool:
    """Return whether the attribute exists in this version; newer ones are hidden, because they broke real clients."""
    rule = RULES.get(name)
    return rule is None or rule.since <= version <= rule.until


def to_item(attribute: Attribute, version: int) -> Item:
    """Return the Attribute structure for a client."""
    name, index, value = attribute
    if name == DIGEST and not version:
        # A digest of KMIP 1.0 has no key format type.
        value = structure(value.tag, *(part for part in value.children() if part.tag != Tag.KEY_FORMAT_TYPE))
    if index:
        return structure(Tag.ATTRIBUTE, text(Tag.ATTRIBUTE_NAME, name), number(Tag.ATTRIBUTE_INDEX, index), value)
    return structure(Tag.ATTRIBUTE, text(Tag.ATTRIBUTE_NAME, name), value)


def encode(attributes: Attributes) -> bytes:
    return ttlv.encode(structure(Tag.TEMPLATE_ATTRIBUTE, *(to_item(attribute, 9) for attribute in attributes)))


def decode(stored: bytes) -> Attributes:
    def one(item: Item) -> Attribute:
        parts = item.children()
        index = parts[1].value if len(parts) == 3 else 0
        return Attribute(str(parts[0].value), index if isinstance(index, int) else 0, parts[-1])

    return tuple(one(item) for item in ttlv.decode(stored).children())


def _check(name: str, value: Item, rule: Rule, *, partial: bool) -> None:
    if name not in RULES:
        return
    if value.type is not rule.type:
        raise invalid(f"the attribute {name} has the wrong type")
    for tag, kind in _FORMS.get(name, ()):
        part = value.first(tag)
        if not partial if part is None else part.type is not kind:
            raise invalid(f"the attribute {name} has the wrong form")
    for part in (value, *value.children()):
        # A name is stored as PostgreSQL text, which rejects NUL; no other text needs it either.
        if isinstance(part.value, str) and ("\0" in part.value or len(part.value) > _VALUE_LENGTH):
            raise invalid(f"the attribute {name} has a text that is too long or contains NUL")
