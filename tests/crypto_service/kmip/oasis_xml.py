"""The OASIS test cases as published: XML, with `$NAMES` for values that only a run can determine."""

import re
import tarfile
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum, IntFlag
from pathlib import Path

from crypto_service.kmip.codec import enums
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item, ItemType, Value
from tests.crypto_service.kmip import oasis_words

CASES = Path(__file__).with_name("oasis") / "cases.tar.xz"
TYPES = {kind.name.replace("_", ""): kind for kind in ItemType}
TAGS = {tag.name.replace("_", ""): tag for tag in Tag}
VOCABULARIES = {
    name.upper(): vocabulary
    for name, vocabulary in (vars(enums) | vars(oasis_words)).items()
    if isinstance(vocabulary, type) and issubclass(vocabulary, IntEnum | IntFlag)
}


@dataclass(frozen=True)
class Node:
    """An element: `raw` is its value as written, `vocabulary` the name of the enumeration of its values."""

    tag: int
    type: ItemType
    raw: str = ""
    children: "tuple[Node, ...]" = ()
    vocabulary: str = ""

    def all(self, tag: int) -> "list[Node]":
        return [child for child in self.children if child.tag == tag]

    def first(self, tag: int) -> "Node | None":
        return next(iter(self.all(tag)), None)

    def walk(self) -> "Iterator[Node]":
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(frozen=True)
class Case:
    name: str
    exchanges: tuple[tuple[Node, Node], ...]
    operations: frozenset[str]


@dataclass
class Known:
    """The values that a run has determined: those of `$NAMES`, and the time of `$NOW`."""

    now: int
    values: dict[str, Value] = field(default_factory=dict)


def cases() -> Iterator[Case]:
    """Yield every published case, in an order in which cases follow those that they depend on."""
    with tarfile.open(CASES) as archive:
        files = {member.name: archive.extractfile(member) for member in archive.getmembers() if member.isfile()}
        texts = {name: opened.read().decode() for name, opened in files.items() if opened is not None}
    for name in sorted(texts):
        yield _case(name.removesuffix(".xml"), ET.fromstring(texts[name]))  # noqa: S314 - committed beside this file


def _case(name: str, root: ET.Element) -> Case:
    messages = [element for element in root if element.tag.endswith("Message")]
    nodes = [_node(element) for element in messages]
    requests = [node for node in nodes if node.tag == Tag.REQUEST_MESSAGE]
    return Case(
        name,
        tuple(zip(nodes[::2], nodes[1::2], strict=True)),
        frozenset(operation for request in requests for operation in operations_of(request)),
    )


def operations_of(request: Node) -> set[str]:
    return {node.raw for node in request.walk() if node.tag == Tag.OPERATION}


def _node(element: ET.Element, vocabulary: str = "") -> Node:
    written = element.get("tag")
    tag = int(written, 16) if written else int(TAGS[element.tag.upper()])
    kind = TYPES[element.get("type", "Structure").upper()]
    # The typesetting of the cases broke long lines, also in the middle of attribute names.
    raw = " ".join(element.get("value", "").split())
    word = element.tag.upper()
    if tag == Tag.ATTRIBUTE:
        named = element.find("AttributeName")
        word = "" if named is None else re.sub(r"\W", "", named.get("value", "")).upper()
    elif tag == Tag.ATTRIBUTE_VALUE:
        word = vocabulary
    children = tuple(_node(child, word) for child in element)
    return Node(tag, kind, raw, children, word)


def item(node: Node, known: Known) -> Item:
    """Return the item of a node; raise KeyError for a name without a value."""
    if node.type is ItemType.STRUCTURE:
        return Item(node.tag, node.type, tuple(item(child, known) for child in node.children))
    return Item(node.tag, node.type, value(node, known))


def value(node: Node, known: Known) -> Value:
    raw = node.raw
    if raw.startswith("$NOW"):
        return known.now + int(raw.removeprefix("$NOW") or 0)
    if raw.startswith("$"):
        return known.values[raw]
    return _READERS[node.type](raw, node.vocabulary)


def _word(raw: str, vocabulary: str) -> int:
    if raw.startswith("0x"):
        return int(raw, 16)
    words: Mapping[str, IntEnum | IntFlag] = VOCABULARIES[vocabulary].__members__
    return int(next(member for name, member in words.items() if bare(name) == bare(raw)))


def _number(raw: str, vocabulary: str) -> int:
    if raw.lstrip("-").isdigit():
        return int(raw)
    return sum(_word(part, vocabulary) for part in raw.split())


def bare(name: str) -> str:
    return name.replace("_", "").upper()


_READERS: Mapping[ItemType, Callable[[str, str], Value]] = {
    ItemType.INTEGER: _number,
    ItemType.LONG_INTEGER: _number,
    ItemType.BIG_INTEGER: lambda raw, _: int.from_bytes(bytes.fromhex(raw), "big", signed=True),
    ItemType.ENUMERATION: _word,
    ItemType.BOOLEAN: lambda raw, _: raw == "true",
    ItemType.TEXT_STRING: lambda raw, _: raw,
    ItemType.BYTE_STRING: lambda raw, _: bytes.fromhex(raw),
    ItemType.DATE_TIME: lambda raw, _: int(datetime.fromisoformat(raw).timestamp()),
    ItemType.INTERVAL: _number,
}
