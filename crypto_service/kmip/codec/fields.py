"""Functions that create items, and functions that read them with the type that the specification requires."""

from typing import TypeVar

from crypto_service.kmip.codec.errors import missing, wrong
from crypto_service.kmip.codec.ttlv import Item, ItemType, new_item

Found = TypeVar("Found")


def structure(tag: int, *items: Item) -> Item:
    return new_item((tag, ItemType.STRUCTURE, items))


def text(tag: int, value: str) -> Item:
    return new_item((tag, ItemType.TEXT_STRING, value))


def octets(tag: int, value: bytes) -> Item:
    return new_item((tag, ItemType.BYTE_STRING, value))


def number(tag: int, value: int) -> Item:
    return new_item((tag, ItemType.INTEGER, value))


def long(tag: int, value: int) -> Item:
    return new_item((tag, ItemType.LONG_INTEGER, value))


def big(tag: int, value: int) -> Item:
    return new_item((tag, ItemType.BIG_INTEGER, value))


def choice(tag: int, value: int) -> Item:
    return new_item((tag, ItemType.ENUMERATION, int(value)))


def flag(tag: int, value: bool) -> Item:  # noqa: FBT001 - the value of an item, as in the functions beside it
    return new_item((tag, ItemType.BOOLEAN, value))


def moment(tag: int, seconds: int) -> Item:
    return new_item((tag, ItemType.DATE_TIME, seconds))


def interval(tag: int, seconds: int) -> Item:
    return new_item((tag, ItemType.INTERVAL, seconds))


def read_text(parent: Item, tag: int) -> str | None:
    return _read(parent, tag, ItemType.TEXT_STRING, str)


def read_octets(parent: Item, tag: int) -> bytes | None:
    return _read(parent, tag, ItemType.BYTE_STRING, bytes)


def read_number(parent: Item, tag: int) -> int | None:
    return _read(parent, tag, ItemType.INTEGER, int)


def read_long(parent: Item, tag: int) -> int | None:
    return _read(parent, tag, ItemType.LONG_INTEGER, int)


def read_big(parent: Item, tag: int) -> int | None:
    return _read(parent, tag, ItemType.BIG_INTEGER, int)


def read_choice(parent: Item, tag: int) -> int | None:
    return _read(parent, tag, ItemType.ENUMERATION, int)


def read_flag(parent: Item, tag: int) -> bool | None:
    return _read(parent, tag, ItemType.BOOLEAN, bool)


def read_moment(parent: Item, tag: int) -> int | None:
    return _read(parent, tag, ItemType.DATE_TIME, int)


def read_interval(parent: Item, tag: int) -> int | None:
    return _read(parent, tag, ItemType.INTERVAL, int)


def read_structure(parent: Item, tag: int) -> Item | None:
    found = parent.first(tag)
    if found is not None and found.type is not ItemType.STRUCTURE:
        raise wrong(tag)
    return found


def required(value: Found | None, tag: int) -> Found:
    """Return the value that was read; raise KmipRefused (Missing Data) when it is None."""
    if value is None:
        raise missing(tag)
    return value


def _read(parent: Item, tag: int, kind: ItemType, form: type[Found]) -> Found | None:
    found = parent.first(tag)
    if found is None:
        return None
    if found.type is not kind or not isinstance(found.value, form):
        raise wrong(tag)
    return found.value
