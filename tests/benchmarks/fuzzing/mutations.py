"""Mutations of valid KMIP requests, of their bytes and of their contents."""

import itertools
import random
from collections.abc import Sequence

from crypto_service.kmip.codec import ttlv
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item, ItemType, Value

_WORDS = (0, 1, 2, 3, 7, 8, 31, 32, 127, 128, 255, 256, 4096, 65_535, 65_536, 2**31 - 1)
_TEXTS = ("", "x", "x-", "x-a", "Name", "State", "Digest", "\0", "../..", "' or 1=1 --", "é" * 40, "a" * 5000)
_TAGS = tuple(Tag)


class Mutator:
    """Deterministic for its seed, so that findings are reproducible."""

    def __init__(self, seeds: Sequence[bytes], seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - reproducible on purpose, not secret
        self._seeds = seeds
        self._items = [ttlv.decode(data) for data in seeds]

    def message(self) -> bytes:
        """Return a well-formed message with invalid contents."""
        item = self._random.choice(self._items)
        for _ in range(self._random.choice((1, 1, 2, 4))):
            item = self._changed(item)
        return ttlv.encode(item)

    def noise(self) -> bytes:
        """Return a message with damaged bytes."""
        data = bytearray(self._random.choice(self._seeds))
        for _ in range(self._random.choice((1, 1, 2, 8))):
            self._damage(data)
        return bytes(data)

    def cut(self, data: bytes) -> list[bytes]:
        """Return the data in pieces, as a network may deliver it."""
        places = sorted(self._random.randrange(len(data) + 1) for _ in range(self._random.randrange(4)))
        edges = [0, *places, len(data)]
        return [data[begin:end] for begin, end in itertools.pairwise(edges)]

    def _changed(self, item: Item) -> Item:
        children = list(item.children())
        if not children or self._random.random() < 0.1:
            return self._replaced(item)
        place = self._random.randrange(len(children))
        what = self._random.random()
        if what < 0.7:
            children[place] = self._changed(children[place])
        elif what < 0.78:
            del children[place]
        elif what < 0.86:
            children.insert(place, self._random.choice(children))
        elif what < 0.92:
            self._random.shuffle(children)
        elif what < 0.97:
            children.insert(place, self._part(self._random.choice(self._items)))
        else:
            children[place : place + 1] = [children[place]] * self._random.choice((2, 50))
        return Item(item.tag, item.type, tuple(children))

    def _part(self, item: Item) -> Item:
        while item.children() and self._random.random() < 0.8:
            item = self._random.choice(item.children())
        return item

    def _replaced(self, item: Item) -> Item:
        what = self._random.random()
        if what < 0.15:
            return Item(self._random.choice(_TAGS), item.type, item.value)
        kind = item.type if what < 0.7 else self._random.choice(list(ItemType))
        return Item(item.tag, kind, self._value(kind))

    def _value(self, kind: ItemType) -> Value:
        number = self._random.choice(_WORDS)
        if kind is ItemType.STRUCTURE:
            return ()
        if kind is ItemType.TEXT_STRING:
            return self._random.choice(_TEXTS)
        if kind is ItemType.BYTE_STRING:
            return self._random.randbytes(self._random.choice((0, 1, 12, 15, 16, 17, 24, 32, 33, 1000)))
        if kind is ItemType.BOOLEAN:
            return self._random.random() < 0.5
        if kind in (ItemType.INTEGER, ItemType.LONG_INTEGER, ItemType.BIG_INTEGER, ItemType.DATE_TIME):
            number *= self._random.choice((1, -1))
        wide = kind in (ItemType.LONG_INTEGER, ItemType.DATE_TIME)
        return number << 32 if wide and self._random.random() < 0.3 else number

    def _damage(self, data: bytearray) -> None:
        place = self._random.randrange(len(data) + 1)
        what = self._random.randrange(6)
        if what == 0 and data:
            data[place % len(data)] ^= 1 << self._random.randrange(8)
        elif what == 1:
            del data[place:]
        elif what == 2:
            data[place:place] = self._random.randbytes(self._random.choice((1, 8, 64)))
        elif what == 3:
            start = place & ~7
            data[start + 4 : start + 8] = self._random.choice((0, 1, 2**31, 2**32 - 1)).to_bytes(4, "big")
        elif what == 4:
            other = self._random.choice(self._seeds)
            data[place & ~7 :] = other[self._random.randrange(len(other)) & ~7 :]
        else:
            data[place : place + 8] = b""
