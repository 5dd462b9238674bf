"""A TTLV item (KMIP 1.4, section 9.1): what the codec reads and writes and every operation works on."""

from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple, TypeAlias

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


class Item(NamedTuple):
    """One item. `tag` is the 3-byte number (0x42…); DATE_TIME is seconds since the epoch, INTERVAL seconds.

    A tuple, because a frozen dataclass takes four times as long to make and a message is made of dozens.
    """

    tag: int
    type: ItemType
    value: Value

    def __repr__(self) -> str:
        """Show no value: a value may be key material, and what is shown ends in logs."""
        return f"Item(0x{self.tag:06X}, {self.type.name})"

    def children(self) -> "tuple[Item, ...]":
        """Return a structure's items, none for another type."""
        return self.value if isinstance(self.value, tuple) else ()

    def all(self, tag: int) -> "Iterator[Item]":
        """Yield the children with `tag`."""
        return (item for item in self.children() if item.tag == tag)

    def first(self, tag: int) -> "Item | None":
        """Return the first child with `tag`."""
        if isinstance(self.value, tuple):
            item: Item
            for item in self.value:
                if item[0] == tag:  # its tag, without looking the name up
                    return item
        return None
