"""A TTLV item (KMIP 1.4, section 9.1): what the codec reads and writes and every operation works on."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

Value: TypeAlias = "tuple[Item, ...] | int | bool | str | bytes"


class ItemType(IntEnum):
    STRUCTURE = 1
    INTEGER = 2
    LONG_INTEGER = 3
    BIG_INTEGER = 4
    ENUMERATION = 5
    BOOLEAN = 6
    TEXT_STRING = 7
    BYTE_STRING = 8
    DATE_TIME = 9
    INTERVAL = 10


@dataclass(frozen=True, slots=True)
class Item:
    """One item. `tag` is the 3-byte number (0x42…); DATE_TIME is seconds since the epoch, INTERVAL seconds."""

    tag: int
    type: ItemType
    value: Value

    def children(self) -> "tuple[Item, ...]":
        """Return a structure's items, none for another type."""
        return self.value if isinstance(self.value, tuple) else ()

    def all(self, tag: int) -> "Iterator[Item]":
        """Yield the children with `tag`."""
        return (item for item in self.children() if item.tag == tag)

    def first(self, tag: int) -> "Item | None":
        """Return the first child with `tag`."""
        return next(self.all(tag), None)
