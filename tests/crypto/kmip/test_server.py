"""The server loop over real TLS, against clients that are slow, broken or hostile."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator

from crypto.connections import Bounds
from crypto.interfaces import Caller
from crypto.kmip import ttlv
from crypto.kmip.enums import ResultReason, ResultStatus
from crypto.kmip.fields import choice, moment, number, octets, structure
from crypto.kmip.items import Item
from crypto.kmip.server import KmipConnection
from crypto.kmip.tags import Tag
from tenancy.errors import CallerRefused, DatabaseUnavailable, TenantClosed
from tests.crypto.echo import ACME, BETA, Place, is_closed, on_both_loops, place, until
from tests.crypto.kmip.messages import a_get, encoded, message, version

LIMIT = 65_536
BOUNDS = Bounds(look_seconds=0.02, message_seconds=0.3)
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Mirror:
    """Answers each item with what it asked, in order; `held` keeps the first answer back."""

    def __init__(self) -> None:
        self.callers: list[Caller] = []
        self.go = asyncio.Event()
        self.go.set()

    async def answer(self, caller: Caller, request: Item, address: str) -> Item:
        assert address == caller.address
        self.callers.append(caller)
        if not self.go.is_set():
            await self.go.wait()
        header, *items = request.children()
        return structure(
            Tag.RESPONSE_MESSAGE,
            structure(Tag.RESPONSE_HEADER, header.children()[0], moment(Tag.TIME_STAMP, 0), number(Tag.BATCH_COUNT, 1)),
            *(_mirrored(item) for item in items),
        )


def _mirrored(item: Item) -> Item:
    operation, payload = item.children()
    success = choice(Tag.RESULT_STATUS, ResultStatus.SUCCESS)
    return structure(Tag.BATCH_ITEM, operation, success, structure(Tag.RESPONSE_PAYLOAD, *payload.children()))


@contextlib.asynccontextmanager
async def front(bounds: Bounds = BOUNDS) -> AsyncIterator[tuple[Place, Mirror]]:
    mirror = Mirror()
    async with place(bounds, lambda parts, connections: KmipConnection(parts, connections, mirror, LIMIT)) as here:
        yield here, mirror


async def receive(streams: Streams) -> Item:
    head = await asyncio.wait_for(streams[0].readexactly(8), 5)
    return ttlv.decode(head + await asyncio.wait_for(streams[0].readexactly(struct.unpack(">4xI", head)[0]), 5))


async def ask(streams: Streams, request: bytes) -> Item:
    streams[1].write(request)
    return await receive(streams)


def asked_id(response: Item) -> object:
    payload = next(response.all(Tag.BATCH_ITEM)).first(Tag.RESPONSE_PAYLOAD)
    return payload.first(Tag.UNIQUE_IDENTIFIER).value


def refusal(response: Item) -> tuple[object, object]:
    (item,) = response.all(Tag.BATCH_ITEM)
    assert item.first(Tag.RESULT_STATUS).value == ResultStatus.OPERATION_FAILED
    return item.first(Tag.RESULT_REASON).value, item.first(Tag.RESULT_MESSAGE).value


@on_both_loops
async def test_requests_on_one_connection_are_answered_in_order():
    async with front() as (here, mirror):
        streams = await here.connect()
        streams[1].write(b"".join(encoded(a_get(f"object-{n}")) for n in range(200)))
        assert [asked_id(await receive(streams)) for _ in range(200)] == [f"object-{n}" for n in range(200)]
        assert {caller.tenant_id for caller in mirror.callers} == {ACME}


@on_both_loops
async def test_the_same_question_again_is_looked_at_again():
    async with front() as (here, mirror):
        streams = await here.connect()
        for object_id in ("one", "one", "two", "one"):
            assert asked_id(await ask(streams, encoded(a_get(object_id)))) == object_id
        assert len(mirror.callers) == 4


@on_both_loops
async def test_an_answer_that_waits_holds_back_those_after_it_and_nobody_else():
    async with front() as (here, mirror):
        held, free = await here.connect(ACME), await here.connect(BETA)
        mirror.go.clear()
        held[1].write(encoded(a_get("first")) + encoded(a_get("second")))
        await until(lambda: bool(mirror.callers))
        held_back, mirror.go = mirror.go, asyncio.Event()
        mirror.go.set()
        assert asked_id(await ask(free, encoded(a_get("other")))) == "other"
        held_back.set()
        assert [asked_id(await receive(held)) for _ in range(2)] == ["first", "second"]


@on_both_loops
async def test_a_message_may_come_byte_by_byte():
    async with front(Bounds(look_seconds=0.02)) as (here, _):
        streams = await here.connect()
        for byte in encoded():
            streams[1].write(bytes([byte]))
            await streams[1].drain()
        assert asked_id(await receive(streams)) == "object-1"


@on_both_loops
async def test_a_client_that_dawdles_is_closed_while_others_are_served():
    async with front() as (here, _):
        slow, quick = await here.connect(ACME), await here.connect(BETA)
        began = asyncio.get_running_loop().time()

        async def dawdle() -> None:
            with contextlib.suppress(ConnectionError):
                for byte in encoded():
                    slow[1].write(bytes([byte]))
                    await asyncio.wait({asyncio.ensure_future(asyncio.sleep(0.05))})

        dawdling = asyncio.ensure_future(dawdle())
        served = 0
        while not dawdling.done() and not slow[0].at_eof():
            assert asked_id(await ask(quick, encoded())) == "object-1"
            served += 1
            if asyncio.get_running_loop().time() - began > 3:
                break
        dawdling.cancel()
        assert await is_closed(slow[0])
        assert asyncio.get_running_loop().time() - began < 3
        assert served > 20


@on_both_loops
async def test_what_is_no_kmip_is_closed_with_its_first_bytes():
    async with front() as (here, mirror):
        for noise in (b"GET", b"\x16\x03\x01", encoded()[:4].replace(b"\x78", b"\x7b"), bytes(100)):
            reader, writer = await here.connect()
            writer.write(noise)
            assert await is_closed(reader)
        assert mirror.callers == []


@on_both_loops
async def test_a_length_beyond_the_limit_is_closed_before_anything_is_kept():
    async with front() as (here, mirror):
        for length in (0xFFFFFFF8, LIMIT - 7, LIMIT):
            reader, writer = await here.connect()
            writer.write(encoded()[:4] + struct.pack(">I", length))
            assert await is_closed(reader)
        assert mirror.callers == []


@on_both_loops
async def test_a_message_of_exactly_the_limit_is_taken():
    async with front() as (here, _):
        padding = octets(Tag.DATA, bytes(LIMIT - len(encoded(message_with(octets(Tag.DATA, b""))))))
        request = encoded(message_with(padding))
        assert len(request) == LIMIT
        response = await ask(await here.connect(), request)
        assert next(response.all(Tag.BATCH_ITEM)).first(Tag.RESULT_STATUS).value == ResultStatus.SUCCESS


def message_with(item: Item) -> Item:
    return message(structure(Tag.BATCH_ITEM, choice(Tag.OPERATION, 31), structure(Tag.REQUEST_PAYLOAD, item)))


def broken(minor: int = 4, major: int = 1) -> bytes:
    """A message whose frame and version are right, and whose last item is of no type."""
    body = ttlv.encode(structure(Tag.REQUEST_HEADER, version(minor, major))) + b"\x42\x00\x0f\x00" + bytes(4)
    return encoded()[:4] + struct.pack(">I", len(body)) + body


@on_both_loops
async def test_bytes_that_cannot_be_read_are_refused_in_the_clients_version():
    async with front() as (here, mirror):
        streams = await here.connect()
        response = await ask(streams, broken(minor=1))
        assert response.first(Tag.RESPONSE_HEADER).first(Tag.PROTOCOL_VERSION) == version(1)
        reason, text = refusal(response)
        assert reason == ResultReason.INVALID_MESSAGE
        assert text == "unknown type at byte 56"
        assert await is_closed(streams[0])
        assert mirror.callers == []


@on_both_loops
async def test_bytes_that_cannot_be_read_and_tell_no_version_are_closed():
    async with front() as (here, _):
        depths = encoded()[:4] + struct.pack(">I", 8 * 1000)
        depths += b"".join(b"\x42\x00\x79\x01" + struct.pack(">I", 8 * (999 - n)) for n in range(1000))
        for request in (encoded()[:4] + struct.pack(">I", 8) + bytes(8), depths, broken(major=2), broken(minor=9)):
            reader, writer = await here.connect()
            writer.write(request)
            assert await is_closed(reader)


@on_both_loops
async def test_who_may_not_connect_is_told_so_in_kmip():
    async with front() as (here, mirror):
        here.callers.refusals[ACME] = TenantClosed("locked")
        streams = await here.connect()
        assert refusal(await ask(streams, encoded(a_get(minor=0)))) == (
            ResultReason.PERMISSION_DENIED,
            "the tenant is locked, which does not allow this",
        )
        assert await is_closed(streams[0])
        assert mirror.callers == []


@on_both_loops
async def test_who_is_refused_meanwhile_is_told_so_at_the_next_request():
    async with front() as (here, mirror):
        streams = await here.connect()
        await ask(streams, encoded())
        here.callers.refusals[ACME] = CallerRefused()
        assert refusal(await ask(streams, encoded()))[0] == ResultReason.PERMISSION_DENIED
        assert await is_closed(streams[0])
        assert len(mirror.callers) == 1


@on_both_loops
async def test_a_database_that_is_away_fails_the_request_and_keeps_the_connection():
    async with front() as (here, _):
        streams = await here.connect()
        assert asked_id(await ask(streams, encoded())) == "object-1"
        here.callers.refusals[ACME] = DatabaseUnavailable()
        assert refusal(await ask(streams, encoded()))[0] == ResultReason.GENERAL_FAILURE
        del here.callers.refusals[ACME]
        assert asked_id(await ask(streams, encoded())) == "object-1"


@on_both_loops
async def test_a_response_longer_than_the_client_takes_is_replaced_by_a_reason():
    async with front() as (here, _):
        streams = await here.connect()
        small = (number(Tag.MAXIMUM_RESPONSE_SIZE, 64),)
        assert refusal(await ask(streams, encoded(a_get(header=small))))[0] == ResultReason.RESPONSE_TOO_LARGE
        large = (number(Tag.MAXIMUM_RESPONSE_SIZE, 2048),)
        assert asked_id(await ask(streams, encoded(a_get(header=large)))) == "object-1"
