"""The TTLV encoding (KMIP 1.4, section 9.1): bytes ↔ `Item`, with which every operation works.

Decoding is strict and its cost is bounded: one pass over the bytes without recursion, with limits for depth, number of
items and size. Every deviation from the specification is rejected, so that two implementations cannot interpret the
same bytes differently.
"""

from collections.abc import Callable, Generator, Iterator
from enum import IntEnum
from functools import partial
from struct import Struct
from typing import Any, NamedTuple, TypeAlias, cast

MAX_BYTES = 1 << 24
MAX_DEPTH = 32
MAX_ITEMS = 10_000
STEP_ITEMS = 250
"""Items that are decoded in about a tenth of a millisecond."""

HEADER_BYTES = 8
_HEAD = Struct(">II")  # tag and type together, length
_SIGNED_WORD, _WORD, _LONG = Struct(">iI"), Struct(">II"), Struct(">q")  # the second half of a word is padding
_SIGNED_ITEM, _WORD_ITEM, _LONG_ITEM = Struct(">IIiI"), Struct(">IIII"), Struct(">IIq")


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


_STRUCTURE = ItemType.STRUCTURE
_TYPES = (ItemType.STRUCTURE, *ItemType)  # indexed by number
_ZEROS = tuple(bytes(size) for size in range(8))
_TAG_PREFIXES = (0x42, 0x54)  # standard, extensions


class TtlvError(Exception):
    """The bytes are not one well-formed item. The message states error and position, never the content."""

    def __init__(self, what: str, position: int) -> None:
        super().__init__(f"{what} at byte {position}")


Value: TypeAlias = "tuple[Item, ...] | int | bool | str | bytes"


class Item(NamedTuple):
    """One item. `tag` is the 3-byte number (0x42…); DATE_TIME is in seconds since the epoch, INTERVAL in seconds.

    A tuple, because a frozen dataclass takes four times as long to create and a message has dozens of items.
    """

    tag: int
    type: ItemType
    value: Value

    def __repr__(self) -> str:
        """Return tag and type only: the value may be key material, and a representation may be logged."""
        return f"Item(0x{self.tag:06X}, {self.type.name})"

    def children(self) -> "tuple[Item, ...]":
        """Return the items of a structure; empty for another type."""
        return self.value if isinstance(self.value, tuple) else ()

    def all(self, tag: int) -> "Iterator[Item]":
        """Yield the children with `tag`."""
        return (item for item in self.children() if item.tag == tag)

    def first(self, tag: int) -> "Item | None":
        """Return the first child with `tag`."""
        children = self[2]  # its value; an index is faster than the attribute
        if isinstance(children, tuple):
            item: Item
            for item in children:
                if item[0] == tag:
                    return item
        return None


new_item = cast("Callable[[tuple[int, ItemType, Value]], Item]", partial(tuple.__new__, Item))
"""Creates an item; twice as fast as `Item`."""


def decode(data: bytes) -> Item:
    """Decode exactly one item.

    Raises: TtlvError.
    """
    steps = decode_in_steps(data)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            item: Item = end.value
            return item


def decode_in_steps(  # noqa: C901, PLR0912, PLR0915 - one loop: a call per item would double the cost
    data: bytes,
) -> Generator[None, None, Item]:
    """Decode exactly one item, as `decode` does, and yield after each `STEP_ITEMS` items.

    So a large message need not block the event loop. A thread for it would take the interpreter lock from the loop.
    """
    end = len(data)
    if end > MAX_BYTES:
        raise TtlvError("too many bytes", MAX_BYTES)
    position = count = 0
    siblings: list[Item] = []
    around: list[tuple[int, int, list[Item]]] = []  # for each enclosing structure: its tag; end and siblings outside it
    while True:
        while position < end:
            start, position = position, position + 8
            if position > end:
                raise TtlvError("truncated item", start)
            head, length = _HEAD.unpack_from(data, start)
            kind = head & 0xFF
            count += 1
            if count % STEP_ITEMS == 0:
                yield
            if count > MAX_ITEMS:
                raise TtlvError("too many items", start)
            if head >> 24 not in _TAG_PREFIXES:
                raise TtlvError("tag outside the standard ranges", start)
            stop = position + (length + 7 & -8)
            if stop > end:
                raise TtlvError("length exceeds the enclosing item", start)
            if kind == 1:
                if len(around) == MAX_DEPTH:
                    raise TtlvError("structures nested too deep", start)
                if length & 7:
                    raise TtlvError("wrong length for its type", start)
                around.append((head >> 8, end, siblings))
                siblings, end = [], stop
                continue
            value: Value
            if kind in {7, 8}:
                value = data[position : position + length]
                position += length
                if position != stop and data[position:stop] != _ZEROS[stop - position]:
                    raise TtlvError("padding not zero", start)
                if kind == 7:
                    try:
                        value = value.decode()
                    except UnicodeDecodeError:
                        raise TtlvError("text not UTF-8", start) from None
            elif kind in {2, 5, 10}:
                if length != 4:
                    raise TtlvError("wrong length for its type", start)
                value, padding = (_SIGNED_WORD if kind == 2 else _WORD).unpack_from(data, position)
                if padding:
                    raise TtlvError("padding not zero", start)
            else:
                value = _rare(data, kind, start, length)
            siblings.append(new_item((head >> 8, _TYPES[kind], value)))
            position = stop
        if not around:
            break
        tag, end, outer = around.pop()
        outer.append(new_item((tag, _STRUCTURE, tuple(siblings))))
        siblings = outer
    if len(siblings) != 1:
        raise TtlvError("not exactly one item", 0)
    return siblings[0]


def _rare(data: bytes, kind: int, start: int, length: int) -> int | bool:
    position = start + HEADER_BYTES
    if kind == ItemType.BIG_INTEGER:
        if not length or length % 8:
            raise TtlvError("wrong length for its type", start)
        return int.from_bytes(data[position : position + length], "big", signed=True)
    if kind not in (ItemType.DATE_TIME, ItemType.LONG_INTEGER, ItemType.BOOLEAN):
        raise TtlvError("unknown type", start)
    if length != 8:
        raise TtlvError("wrong length for its type", start)
    number: int = _LONG.unpack_from(data, position)[0]
    if kind != ItemType.BOOLEAN:
        return number
    if number not in (0, 1):
        raise TtlvError("boolean neither true nor false", start)
    return number == 1


def encode(item: Item) -> bytes:  # noqa: PLR0911 - one for each form
    """Encode an item.

    Raises: struct.error for a number that its type cannot represent.
    """
    value: Any  # of the type `kind`
    body: bytes
    tag, kind, value = item
    if kind == 1:
        if type(value) is bytes:  # encoded already: most parts of a response
            return value
        body = b"".join(map(encode, value))
        return _HEAD.pack(tag << 8 | 1, len(body)) + body
    head = tag << 8 | kind
    if kind in {7, 8}:
        body = value.encode() if kind == 7 else value
        return _HEAD.pack(head, len(body)) + body + _ZEROS[-len(body) & 7]
    if kind in {5, 10}:
        return _WORD_ITEM.pack(head, 4, value, 0)
    if kind == 2:
        return _SIGNED_ITEM.pack(head, 4, value, 0)
    if kind == 4:
        body = value.to_bytes((value.bit_length() // 64 + 1) * 8, "big", signed=True)
        return _HEAD.pack(head, len(body)) + body
    return _LONG_ITEM.pack(head, 8, value)


def pre_encode(item: Item) -> Item:
    """Return an item in its encoded form, for one that is sent repeatedly; see `from_encoded`."""
    return from_encoded(item.tag, encode(item))


def from_encoded(tag: int, data: bytes) -> Item:
    """Return the item that `data` encodes, to be sent unchanged. Nothing can be read from it except its tag."""
    return new_item((tag, _STRUCTURE, data))
