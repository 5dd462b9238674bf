"""Tag, type, length, value (KMIP 1.4, section 9.1): as much of it as the attacks write and read.

A codec of its own on purpose; see the package.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from fronts.interfaces import FrontsFailing

STRUCTURE, INTEGER, ENUMERATION, TEXT, OCTETS, DATE = 1, 2, 5, 7, 8, 9
HEADER = 8
_DEEPEST = 32
_Value = bytes | tuple["Node", ...]


class BadTtlv(FrontsFailing):
    """What came is not TTLV."""

    message = "an answer of the KMIP door cannot be read"


@dataclass(frozen=True, slots=True)
class Node:
    """One item. The value of a leaf stays the bytes that came, so that two that are equal were equal on the wire."""

    tag: int
    kind: int
    value: _Value

    def __iter__(self) -> Iterator["Node"]:
        return iter(self.value if isinstance(self.value, tuple) else ())

    def all(self, tag: int) -> Iterator["Node"]:
        return (node for node in self if node.tag == tag)

    def first(self, tag: int) -> "Node | None":
        return next(self.all(tag), None)

    @property
    def octets(self) -> bytes:
        return self.value if isinstance(self.value, bytes) else b""

    @property
    def number(self) -> int:
        return int.from_bytes(self.octets)

    @property
    def text(self) -> str:
        return self.octets.decode("utf-8", "replace")


def structure(tag: int, *nodes: Node) -> Node:
    return Node(tag, STRUCTURE, nodes)


def integer(tag: int, value: int) -> Node:
    return Node(tag, INTEGER, struct.pack(">i", value))


def enumeration(tag: int, value: int) -> Node:
    return Node(tag, ENUMERATION, struct.pack(">I", value))


def text(tag: int, value: str) -> Node:
    return Node(tag, TEXT, value.encode())


def octets(tag: int, value: bytes) -> Node:
    return Node(tag, OCTETS, value)


def date(tag: int, seconds: int) -> Node:
    return Node(tag, DATE, struct.pack(">q", seconds))


def encode(node: Node) -> bytes:
    value = node.value if isinstance(node.value, bytes) else b"".join(map(encode, node.value))
    return struct.pack(">I", node.tag << 8 | node.kind) + struct.pack(">I", len(value)) + value + bytes(-len(value) % 8)


def decode(data: bytes) -> Node:
    """Return the one item that `data` is; raises BadTtlv."""
    node, end = _decode(data, 0, len(data), _DEEPEST)
    if end != len(data):
        raise BadTtlv
    return node


def _decode(data: bytes, begin: int, end: int, deeper: int) -> tuple[Node, int]:
    if begin + HEADER > end or not deeper:
        raise BadTtlv
    head, length = struct.unpack_from(">II", data, begin)
    first, last = begin + HEADER, begin + HEADER + length
    after = last + (-length % 8)
    if after > end:
        raise BadTtlv
    tag, kind = head >> 8, head & 0xFF
    if kind != STRUCTURE:
        if any(data[last:after]):
            raise BadTtlv
        return Node(tag, kind, data[first:last]), after
    nodes, at = [], first
    while at < last:
        node, at = _decode(data, at, last, deeper - 1)
        nodes.append(node)
    return Node(tag, kind, tuple(nodes)), after
