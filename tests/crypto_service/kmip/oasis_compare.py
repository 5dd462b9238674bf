"""Comparison of a response with an OASIS case; only what KMIP lets vary (Profiles 1.4, section 3.1) may differ."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from crypto_service.kmip.codec.enums import ObjectType, Operation
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item, ItemType
from tests.crypto_service.kmip import oasis_xml
from tests.crypto_service.kmip.oasis_xml import Known, Node

# Only the type is compared. A `$NAME` replaces every identifier that matters.
FREE = {Tag.RESULT_MESSAGE, Tag.TIME_STAMP, Tag.VENDOR_IDENTIFICATION, Tag.UNIQUE_IDENTIFIER}
MADE_BY_THE_SERVER = {Tag.KEY_MATERIAL, Tag.DIGEST_VALUE, Tag.DATA, Tag.IV_COUNTER_NONCE, Tag.MAC_DATA}
QUERY_EXTRAS = {Tag.SERVER_INFORMATION, Tag.APPLICATION_NAMESPACE}


@dataclass
class CaseComparison:
    """Compares the responses of one case in order, and records the values of `$NAMES`."""

    known: Known
    sent: set[object] = field(default_factory=set)
    registered: set[object] = field(default_factory=set)

    def record_request(self, request: Item) -> None:
        """Record the values that the client chose: responses repeat them unchanged."""
        self.sent |= {found.value for found in _walk(request) if found.type is not ItemType.STRUCTURE}

    def differences(self, request: Node, expected: Node, response: Item) -> list[str]:
        requested, wanted, got = (
            request.all(Tag.BATCH_ITEM),
            expected.all(Tag.BATCH_ITEM),
            list(response.all(Tag.BATCH_ITEM)),
        )
        header = response.first(Tag.RESPONSE_HEADER)
        found = list(self._compare(expected.children[0], header, "header")) if header else ["no header"]
        if len(wanted) != len(got):
            return [*found, f"{len(got)} results instead of {len(wanted)}"]
        for place, (question, want, have) in enumerate(zip(requested, wanted, got, strict=True)):
            found += [f"item {place}: {text}" for text in self._batch_item(question, want, have)]
        return found

    def _batch_item(self, question: Node, want: Node, have: Item) -> Iterator[str]:
        operation = next(node.raw for node in question.all(Tag.OPERATION))
        plain, answered = want.first(Tag.RESPONSE_PAYLOAD), have.first(Tag.RESPONSE_PAYLOAD)
        yield from self._all(
            _without(want.children, Tag.RESPONSE_PAYLOAD), _rest(have, Tag.RESPONSE_PAYLOAD), operation
        )
        if plain is None or answered is None:
            if (plain is None or not plain.children) != (answered is None or not answered.children()):
                yield f"{operation}: a payload on one side only"
            return
        payload = question.first(Tag.REQUEST_PAYLOAD)
        chosen = payload is not None and bool(payload.all(Tag.ATTRIBUTE_NAME))
        if operation == "Query":
            yield from _query(plain, answered)
        elif operation == "DiscoverVersions" and payload is not None and not payload.children:
            yield from _versions(plain, answered)
        else:
            yield from self._payload(operation, plain, answered, chosen=chosen)

    def _payload(self, operation: str, want: Node, have: Item, *, chosen: bool) -> Iterator[str]:
        identifier = have.first(Tag.UNIQUE_IDENTIFIER)
        if operation == "Register" and identifier is not None:
            self.registered.add(identifier.value)
        self._exact = identifier is not None and identifier.value in self.registered
        if operation == "GetAttributeList":
            names = {node.raw for node in want.all(Tag.ATTRIBUTE_NAME)}
            missing = names - {item.value for item in have.all(Tag.ATTRIBUTE_NAME)}
            if missing:
                yield f"{operation}: no {', '.join(sorted(missing))}"
        mixed = {Tag.ATTRIBUTE, Tag.ATTRIBUTE_NAME}
        yield from self._all(_without(want.children, *mixed), _rest(have, *mixed), operation)
        yield from self._attributes(want.all(Tag.ATTRIBUTE), list(have.all(Tag.ATTRIBUTE)), extra_allowed=not chosen)

    def _attributes(self, want: list[Node], have: list[Item], *, extra_allowed: bool) -> Iterator[str]:
        """Compare in any order; an instance without index is instance 0."""
        left = {_instance(item): item for item in have}
        for node in want:
            key = _instance(oasis_xml.item(_bare(node), self.known))
            if key not in left:
                yield f"no attribute {key[0]} {key[1]}"
                continue
            value, got = node.first(Tag.ATTRIBUTE_VALUE), left.pop(key).first(Tag.ATTRIBUTE_VALUE)
            yield from self._all([value] if value else [], [got] if got else [], f"attribute {key[0]}")
        if left and not extra_allowed:
            yield f"unexpected attributes: {sorted(str(name) for name, _ in left)}"

    def _all(self, want: list[Node], have: list[Item], where: str) -> Iterator[str]:
        want = [node for node in want if node.tag != Tag.RESULT_MESSAGE]
        have = [item for item in have if item.tag != Tag.RESULT_MESSAGE]
        if [node.tag for node in want] != [item.tag for item in have]:
            yield f"{where}: {_names(have)} instead of {_names(want)}"
            return
        for node, item in zip(want, have, strict=True):
            yield from self._compare(node, item, where)

    def _compare(self, want: Node, have: Item, where: str) -> Iterator[str]:
        where = f"{where}/{_name(have.tag)}"
        if want.type is not have.type:
            yield f"{where}: {have.type.name} instead of {want.type.name}"
        elif want.type is ItemType.STRUCTURE:
            yield from self._all(list(want.children), list(have.children()), where)
        elif want.raw.startswith("$") and not want.raw.startswith("$NOW"):
            if self.known.values.setdefault(want.raw, have.value) != have.value:
                yield f"{where}: not the {want.raw} of before"
        elif not self._same(want, have):
            yield f"{where}: {have.value!r} instead of {want.raw}"

    def _same(self, want: Node, have: Item) -> bool:
        if want.tag in FREE or want.type is ItemType.INTERVAL:
            return True
        value = oasis_xml.value(want, self.known)
        if want.type is ItemType.DATE_TIME and value not in self.sent:
            return not want.raw.startswith("$NOW") or abs(int(str(value)) - int(str(have.value))) <= 60
        if want.tag in MADE_BY_THE_SERVER and value not in self.sent and not self._exact:
            # The encoding of an asymmetric key varies by a few bytes.
            difference = len(bytes.fromhex(want.raw)) - len(bytes(have.value))
            return abs(difference) <= (0 if len(want.raw) <= 128 else 16)
        return value == have.value


def _query(want: Node, have: Item) -> Iterator[str]:
    """Compare a Query response: only known operations and object types, and each expected kind of information."""
    for tag, vocabulary in ((Tag.OPERATION, Operation), (Tag.OBJECT_TYPE, ObjectType)):
        listed = {item.value for item in have.all(tag)}
        if bool(listed) != bool(want.all(tag)) or not listed <= set(vocabulary):
            yield f"Query: {_name(tag)} listed or not, unlike the case"
    kinds = {node.tag for node in want.children} - QUERY_EXTRAS
    if kinds != {item.tag for item in have.children()} - QUERY_EXTRAS:
        yield f"Query: {_names(have.children())} instead of {_names(want.children)}"


def _versions(want: Node, have: Item) -> Iterator[str]:
    """Compare a complete list of versions: newest first, including those of the case."""
    expected = [oasis_xml.item(node, Known(0)) for node in want.children]
    listed = [item for item in have.children() if item in expected]
    if listed != expected:
        yield "DiscoverVersions: not all that are expected, or not newest first"


def _instance(attribute: Item) -> tuple[object, object]:
    name, index = attribute.first(Tag.ATTRIBUTE_NAME), attribute.first(Tag.ATTRIBUTE_INDEX)
    return name.value if name else None, index.value if index else 0


def _bare(node: Node) -> Node:
    return Node(node.tag, node.type, children=tuple(_without(node.children, Tag.ATTRIBUTE_VALUE)))


def _without(nodes: tuple[Node, ...], *tags: int) -> list[Node]:
    return [node for node in nodes if node.tag not in tags]


def _rest(item: Item, *tags: int) -> list[Item]:
    return [child for child in item.children() if child.tag not in tags]


def _walk(item: Item) -> Iterator[Item]:
    yield item
    for child in item.children():
        yield from _walk(child)


def _name(tag: int) -> str:
    return Tag(tag).name.lower() if tag in set(Tag) else hex(tag)


def _names(items: list[Item] | list[Node] | tuple[Item, ...] | tuple[Node, ...]) -> str:
    return " ".join(_name(item.tag) for item in items) or "nothing"
