"""Sends mutated requests to a listener without network, and records their cost."""

import asyncio
import ctypes
import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from crypto_service.kmip.codec import ttlv
from crypto_service.kmip.codec.enums import CryptographicAlgorithm, Operation
from crypto_service.kmip.codec.fields import number, structure
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item, ItemType, Value
from crypto_service.kmip.version_2 import to_version_2
from tests.benchmarks.fuzzing.in_memory_server import KmipStand
from tests.benchmarks.fuzzing.mutations import Mutator
from tests.crypto_service.kmip import oasis_xml
from tests.crypto_service.kmip.oasis_xml import Known, Node

_SAMPLES = 2000


@dataclass
class Account:
    """`errors`: internal errors of the listener, with the input. `grown`: growth of resident memory, in MiB."""

    inputs: int = 0
    answered: int = 0
    errors: list[tuple[str, bytes]] = field(default_factory=list)
    slowest_seconds: float = 0.0
    slowest: bytes = b""
    milliseconds: list[float] = field(default_factory=list)
    grown: float = 0.0
    seconds: float = 0.0


def seeds(identifiers: Sequence[str]) -> list[bytes]:
    """Return the requests of the OASIS cases, for existing objects, in their version and in 2.1."""
    found: dict[bytes, None] = {}
    for case in oasis_xml.cases():
        for request, _ in case.exchanges:
            known = Known(int(time.time()), _values(request, identifiers))
            message = _quicker(oasis_xml.item(request, known))
            found |= dict.fromkeys((ttlv.encode(message), ttlv.encode(_in_version_2(message))))
    return list(found)


_STRUCTURES = {
    Tag.TEMPLATE_ATTRIBUTE: Tag.ATTRIBUTES,
    Tag.COMMON_TEMPLATE_ATTRIBUTE: Tag.COMMON_ATTRIBUTES,
    Tag.PRIVATE_KEY_TEMPLATE_ATTRIBUTE: Tag.PRIVATE_KEY_ATTRIBUTES,
    Tag.PUBLIC_KEY_TEMPLATE_ATTRIBUTE: Tag.PUBLIC_KEY_ATTRIBUTES,
}


def _in_version_2(item: Item) -> Item:
    """Return a request of 1.x in the form of 2.1, as far as its fields exist there."""
    if item.tag == Tag.PROTOCOL_VERSION:
        return structure(item.tag, number(Tag.PROTOCOL_VERSION_MAJOR, 2), number(Tag.PROTOCOL_VERSION_MINOR, 1))
    if item.tag in _STRUCTURES:
        return structure(_STRUCTURES[Tag(item.tag)], *_attributes_of(item.children()).children())
    if item.tag == Tag.BATCH_ITEM:
        operation = item.first(Tag.OPERATION)
        locates = operation is not None and operation.value == Operation.LOCATE
        return structure(item.tag, *(_payload(part, locates=locates) for part in item.children()))
    return Item(item.tag, item.type, tuple(map(_in_version_2, item.children()))) if item.children() else item


def _payload(item: Item, *, locates: bool) -> Item:
    if item.tag != Tag.REQUEST_PAYLOAD:
        return item
    given = [part for part in item.children() if part.tag == Tag.ATTRIBUTE]
    names = [part for part in item.children() if part.tag == Tag.ATTRIBUTE_NAME]
    others = [_in_version_2(part) for part in item.children() if part not in (*given, *names)]
    changed = [_attributes_of(given)] if locates and given else []
    changed += [] if locates else [structure(Tag.NEW_ATTRIBUTE, *_attributes_of([part]).children()) for part in given]
    return structure(item.tag, *others, *changed, *to_version_2(Operation.GET_ATTRIBUTE_LIST, tuple(names)))


def _attributes_of(given: Sequence[Item]) -> Item:
    return to_version_2(Operation.GET_ATTRIBUTES, tuple(given))[-1]


def _quicker(request: Item) -> Item:
    """Replace RSA by EC in requests for a key pair, whose generation is a thousand times faster."""
    operations = [part.value for item in request.all(Tag.BATCH_ITEM) for part in item.all(Tag.OPERATION)]
    return _replaced(request) if Operation.CREATE_KEY_PAIR in operations else request


def _replaced(item: Item) -> Item:
    if item.children():
        return Item(item.tag, item.type, tuple(map(_replaced, item.children())))
    if item.type is ItemType.ENUMERATION and item.value == CryptographicAlgorithm.RSA:
        return Item(item.tag, item.type, int(CryptographicAlgorithm.EC))
    return Item(item.tag, item.type, 256) if item.value in (1024, 2048) else item


def _values(request: Node, identifiers: Sequence[str]) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for node in request.walk():
        if node.raw.startswith("$"):
            text = node.type is ItemType.TEXT_STRING
            values[node.raw] = identifiers[len(values) % len(identifiers)] if text else bytes(16)
    return values


def fuzz(inputs: int, seed: int) -> Account:
    """Send `inputs` messages, most of them well-formed with invalid contents."""

    async def run() -> Account:
        stand = KmipStand()
        try:
            mutator = Mutator(seeds(await stand.furnish()), seed)

            def pieces(number: int) -> list[bytes]:
                return mutator.cut(mutator.noise() if number % 3 == 0 else mutator.message())

            began = time.perf_counter()
            account = await measure(stand, pieces, inputs, _decode)
            account.seconds = time.perf_counter() - began
        finally:
            stand.stop()
        return account

    return asyncio.run(run())


def _decode(answer: bytes) -> None:
    ttlv.decode(answer[: int.from_bytes(answer[4:8], "big") + 8])


class Listener(Protocol):
    """A listener without network: `errors` are its internal errors, `blocked` its CPU seconds outside the loop."""

    errors: list[str]

    @property
    def blocked(self) -> float: ...

    async def send(self, pieces: Sequence[bytes]) -> bytes: ...

    def hang_up(self) -> None: ...


async def measure(
    listener: Listener, pieces: Callable[[int], list[bytes]], inputs: int, check: Callable[[bytes], None]
) -> Account:
    """Send `inputs` inputs in pieces, and record answers, errors, cost and memory; `check` raises for a bad answer."""
    account, warm, resident = Account(), inputs // 5, 0.0
    for place in range(inputs):
        if place == warm:
            resident = _resident()
        await _one(listener, account, pieces(place), check, place)
        if place % 1000 == 0:
            await asyncio.sleep(0)  # lets the loop check the deadlines of the connections
    account.grown = _resident() - resident
    return account


async def _one(
    listener: Listener, account: Account, pieces: list[bytes], check: Callable[[bytes], None], place: int
) -> None:
    began = time.thread_time() - listener.blocked
    try:
        answer = await listener.send(pieces)
        if answer:
            check(answer)
    except Exception as escaped:  # noqa: BLE001 - every escaped exception is a finding
        listener.errors.append(repr(escaped))
        answer = b""
    spent = time.thread_time() - listener.blocked - began
    account.inputs += 1
    account.answered += bool(answer)
    if not answer:
        listener.hang_up()  # it waits for the rest of a message; the next message must not become that rest
    if listener.errors:
        account.errors += [(text, b"".join(pieces)) for text in listener.errors]
        listener.errors.clear()
    if place % max(1, account.inputs // _SAMPLES) == 0 and len(account.milliseconds) < 5 * _SAMPLES:
        account.milliseconds.append(round(spent * 1000, 4))
    if spent > account.slowest_seconds:
        account.slowest_seconds, account.slowest = spent, b"".join(pieces)


def _resident() -> float:
    """Return the resident memory of this process in MiB, without garbage and without free memory of the allocator."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm", encoding="ascii") as sizes:  # noqa: PTH123 - a file of the kernel
        return int(sizes.read().split()[1]) * 4096 / 2**20
