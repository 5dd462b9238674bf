"""What the database compares in a search: the values of an object, and the conditions of a Locate (KMIP 1.4, 4.9).

Each attribute of an object has a term, a hash of its name and value; of a structure, each field has one. A condition
for a plain value is decided by its term. One for a structure only selects candidates by the terms of its fields,
because these may come from different instances of the attribute. One for usage limits is no equality, so it has none.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from crypto_service.interfaces import ClientIdentity
from crypto_service.kmip.codec import ttlv
from crypto_service.kmip.codec.enums import StorageStatusMask
from crypto_service.kmip.codec.ttlv import Item, ItemType
from crypto_service.kmip.objects import attributes as named
from crypto_service.kmip.objects.managed_object import ManagedObject
from database.services.managed_objects import ObjectFilter, SearchValues

_VERSION = 1
"""The form of the terms; the migration's default 0 marks objects without any."""


def search_values(managed: ManagedObject) -> SearchValues:
    """Return what a search compares of an object."""
    kept = (attribute for attribute in managed.attributes if attribute.name not in _WITHOUT_TERM)
    terms = {term for name, _, value in kept for term in _terms(name, value)}
    return SearchValues(
        _VERSION,
        managed.activation,
        managed.deactivation,
        managed.usage_mask,
        managed.archived,
        managed.fresh,
        sorted(terms),
    )


def object_filter(
    caller: ClientIdentity,
    criteria: Mapping[str, Sequence[Item]],
    storage: int,
    *,
    fresh: bool,
    now: int,
) -> tuple[ObjectFilter, bool]:
    """Return the conditions that the database decides, and whether there are no others."""
    # A mask without either bit matches nothing, which only the comparison in Python knows.
    exact = bool(storage & (StorageStatusMask.ONLINE_STORAGE | StorageStatusMask.ARCHIVAL_STORAGE))
    columns: dict[str, Any] = {}
    terms: list[int] = []
    for name, values in criteria.items():
        if name in _COLUMNS and len(values) == 1 and values[0].value:
            columns[_COLUMNS[name]] = values[0].value
        elif name in _WITHOUT_TERM or (values[0].type is ItemType.DATE_TIME and len(values) > 1):
            exact = False
        else:
            for value in values:
                is_whole = value.type is not ItemType.STRUCTURE
                exact = exact and is_whole
                terms += [_term(name, value)] if is_whole else [_term(name, field) for field in _fields(value)]
    conditions = ObjectFilter(
        caller.service, caller.l2_key, now, archived=_archived(storage), fresh=fresh, terms=terms, **columns
    )
    return conditions, exact


_COLUMNS = {
    named.UNIQUE_IDENTIFIER: "object_id",
    named.OBJECT_TYPE: "object_type",
    named.STATE: "state",
    named.USAGE_MASK: "usage_mask",
}
_WITHOUT_TERM = frozenset({*_COLUMNS, named.LEASE_TIME, named.KEY_FORMAT_TYPE, named.USAGE_LIMITS})


def _archived(storage: int) -> bool | None:
    """Return whether only archived objects (true) or only others (false) are wanted; None for both."""
    online, archival = storage & StorageStatusMask.ONLINE_STORAGE, storage & StorageStatusMask.ARCHIVAL_STORAGE
    return None if online and archival else bool(archival)


def _terms(name: str, value: Item) -> Iterator[int]:
    if value.type is ItemType.STRUCTURE:
        for field in _fields(value):
            yield _term(name, field)
    else:
        yield _term(name, value)


def _fields(value: Item) -> Iterator[Item]:
    """Yield the fields of a structure that are no structures."""
    for child in value.children():
        if child.type is ItemType.STRUCTURE:
            yield from _fields(child)
        else:
            yield child


def _term(name: str, value: Item) -> int:
    digest = hashlib.blake2b(name.encode() + b"\0" + ttlv.encode(value), digest_size=8)
    return int.from_bytes(digest.digest(), "big", signed=True)
