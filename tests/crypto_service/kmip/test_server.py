"""The KMIP server over real TLS, with clients that are slow, broken or hostile."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator

import pytest

from core.errors.platform import DatabaseUnavailable
from core.errors.services import ClientNotAuthorized
from core.errors.tenants import TenantNotOperational
from crypto_service.interfaces import ClientIdentity, Dependencies
from crypto_service.kmip.codec import ttlv
from crypto_service.kmip.codec.enums import Operation, ResultReason, ResultStatus
from crypto_service.kmip.codec.fields import choice, moment, number, octets, structure
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from crypto_service.kmip.dispatch import Request
from crypto_service.kmip.server import KmipConnection
from crypto_service.server.connection_registry import ConnectionLimits, ConnectionRegistry
from database.postgres.change_feed import tenant_hash
from tests.concurrency import wait_until_async
from tests.crypto_service.echo import ACME, BETA, Place, client_context, is_closed, on_uvloop, place
from tests.crypto_service.kmip.messages import a_get, batch_item, encoded, message, version
from tests.crypto_service.reference_cycles import fewer_objects_in_cycles_than

pytestmark = pytest.mark.integration

LIMIT = 65_536
BOUNDS = ConnectionLimits(check_seconds=0.02, message_seconds=0.3)
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class EchoDispatcher:
    """Returns the payload of each item, in order; responses wait for `go`."""

    def __init__(self) -> None:
        self.callers: list[ClientIdentity] = []
        self.go = asyncio.Event()
        self.go.set()

    async def answer(self, caller: ClientIdentity, request: Request, address: str) -> Item:
        assert address == caller.address
        assert request.size == len(ttlv.encode(request.message))
        self.callers.append(caller)
        if not self.go.is_set():
            await self.go.wait()
        header, *items = request.message.children()
        return structure(
            Tag.RESPONSE_MESSAGE,
            structure(Tag.RESPONSE_HEADER, header.children()[0], moment(Tag.TIME_STAMP, 0), number(Tag.BATCH_COUNT, 1)),
            *(_echo(item) for item in items),
        )


def _echo(item: Item) -> Item:
    operation, payload = item.children()
    success = choice(Tag.RESULT_STATUS, ResultStatus.SUCCESS)
    return structure(Tag.BATCH_ITEM, operation, success, structure(Tag.RESPONSE_PAYLOAD, *payload.children()))


@contextlib.asynccontextmanager
async def kmip_server(
    bounds: ConnectionLimits = BOUNDS, rate: int = 1_000_000
) -> AsyncIterator[tuple[Place, EchoDispatcher]]:
    dispatcher = EchoDispatcher()

    def protocol(parts: Dependencies, connections: ConnectionRegistry) -> KmipConnection:
        return KmipConnection(parts, connections, dispatcher, LIMIT)

    async with place(bounds, protocol, rate) as here:
        yield here, dispatcher


async def receive(streams: Streams) -> Item:
    head = await asyncio.wait_for(streams[0].readexactly(8), 30)
    return ttlv.decode(head + await asyncio.wait_for(streams[0].readexactly(struct.unpack(">4xI", head)[0]), 30))


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


@on_uvloop
async def test_requests_on_one_connection_are_answered_in_order():
    async with kmip_server() as (here, dispatcher):
        streams = await here.connect()
        streams[1].write(b"".join(encoded(a_get(f"object-{n}")) for n in range(200)))
        assert [asked_id(await receive(streams)) for _ in range(200)] == [f"object-{n}" for n in range(200)]
        assert {caller.tenant_id for caller in dispatcher.callers} == {ACME}


@on_uvloop
async def test_waiting_response_delays_only_its_own_connection():
    async with kmip_server() as (here, dispatcher):
        held, free = await here.connect(ACME), await here.connect(BETA)
        dispatcher.go.clear()
        held[1].write(encoded(a_get("first")) + encoded(a_get("second")))
        await wait_until_async(lambda: bool(dispatcher.callers))
        blocked, dispatcher.go = dispatcher.go, asyncio.Event()
        dispatcher.go.set()
        assert asked_id(await ask(free, encoded(a_get("other")))) == "other"
        blocked.set()
        assert [asked_id(await receive(held)) for _ in range(2)] == ["first", "second"]


@on_uvloop
async def test_ended_connections_leave_no_reference_cycles():
    async with kmip_server() as (here, _):

        def connect() -> None:
            plain = socket.create_connection(("127.0.0.1", here.port), 30)
            with client_context(ACME).wrap_socket(plain, server_hostname="localhost") as client:
                client.sendall(encoded(a_get("one")))
                assert client.recv(LIMIT)

        await asyncio.to_thread(connect)
        await wait_until_async(lambda: not len(here.connections))
        with fewer_objects_in_cycles_than(20):
            for _ in range(20):
                await asyncio.to_thread(connect)
            await wait_until_async(lambda: not len(here.connections))


@on_uvloop
async def test_incomplete_message_closes_only_its_connection():
    async with kmip_server() as (here, _):
        slow, quick = await here.connect(ACME), await here.connect(BETA)
        slow[1].write(encoded()[:-1])
        closed = asyncio.ensure_future(is_closed(slow[0]))
        while not closed.done():
            assert asked_id(await ask(quick, encoded())) == "object-1"
        assert await closed


@on_uvloop
async def test_invalid_or_too_long_message_is_closed_at_its_first_bytes():
    async with kmip_server() as (here, dispatcher):
        other_tag = encoded()[:4].replace(b"\x78", b"\x7b")
        lengths = [encoded()[:4] + struct.pack(">I", length) for length in (0xFFFFFFF8, LIMIT - 7, LIMIT)]
        for noise in (b"GET", b"\x16\x03\x01", other_tag, bytes(100), *lengths):
            reader, writer = await here.connect()
            writer.write(noise)
            assert await is_closed(reader)
        assert dispatcher.callers == []


@on_uvloop
async def test_message_of_exactly_the_limit_is_accepted():
    async with kmip_server() as (here, _):
        padding = octets(Tag.DATA, bytes(LIMIT - len(encoded(message_with(octets(Tag.DATA, b""))))))
        request = encoded(message_with(padding))
        assert len(request) == LIMIT
        response = await ask(await here.connect(), request)
        assert next(response.all(Tag.BATCH_ITEM)).first(Tag.RESULT_STATUS).value == ResultStatus.SUCCESS


def message_with(item: Item) -> Item:
    return message(structure(Tag.BATCH_ITEM, choice(Tag.OPERATION, 31), structure(Tag.REQUEST_PAYLOAD, item)))


def broken(minor: int = 4, major: int = 1) -> bytes:
    """Return a message with a valid frame and version whose last item has no valid type."""
    body = ttlv.encode(structure(Tag.REQUEST_HEADER, version(minor, major))) + b"\x42\x00\x0f\x00" + bytes(4)
    return encoded()[:4] + struct.pack(">I", len(body)) + body


@on_uvloop
async def test_unreadable_message_is_rejected_in_the_clients_version():
    async with kmip_server() as (here, dispatcher):
        streams = await here.connect()
        response = await ask(streams, broken(minor=1))
        assert response.first(Tag.RESPONSE_HEADER).first(Tag.PROTOCOL_VERSION) == version(1)
        reason, text = refusal(response)
        assert reason == ResultReason.INVALID_MESSAGE
        assert text == "unknown type at byte 56"
        assert await is_closed(streams[0])
        # Without a known version there is no response.
        depths = encoded()[:4] + struct.pack(">I", 8 * 1000)
        depths += b"".join(b"\x42\x00\x79\x01" + struct.pack(">I", 8 * (999 - n)) for n in range(1000))
        for request in (encoded()[:4] + struct.pack(">I", 8) + bytes(8), depths, broken(major=2), broken(minor=9)):
            reader, writer = await here.connect()
            writer.write(request)
            assert await is_closed(reader)
        assert dispatcher.callers == []


@on_uvloop
async def test_rejection_is_a_kmip_response_and_outage_keeps_the_connection():
    async with kmip_server() as (here, dispatcher):
        here.callers.refusals[BETA] = TenantNotOperational("locked")
        streams = await here.connect(BETA)
        assert refusal(await ask(streams, encoded(a_get(minor=0)))) == (
            ResultReason.PERMISSION_DENIED,
            "the tenant is locked, which does not allow this operation",
        )
        assert await is_closed(streams[0])
        streams = await here.connect()
        assert asked_id(await ask(streams, encoded())) == "object-1"
        here.callers.refusals[ACME] = DatabaseUnavailable()
        assert refusal(await ask(streams, encoded()))[0] == ResultReason.GENERAL_FAILURE
        del here.callers.refusals[ACME]
        assert asked_id(await ask(streams, encoded())) == "object-1"
        here.callers.refusals[ACME] = ClientNotAuthorized()
        assert refusal(await ask(streams, encoded()))[0] == ResultReason.PERMISSION_DENIED
        assert await is_closed(streams[0])
        assert [caller.tenant_id for caller in dispatcher.callers] == [ACME, ACME]


@on_uvloop
async def test_connection_ends_with_the_response_before_the_client_needs_another_instance():
    async with kmip_server() as (here, _):
        first, second = await here.connect(), await here.connect()
        for streams in (first, second):
            assert asked_id(await ask(streams, encoded())) == "object-1"
        here.journal.is_failing = True
        assert asked_id(await ask(first, encoded())) == "object-1"
        assert await is_closed(first[0])
        here.journal.is_failing = False
        assert asked_id(await ask(second, encoded())) == "object-1"
        here.connections.end_after_responses()
        assert asked_id(await ask(second, encoded())) == "object-1"
        assert await is_closed(second[0])


def lock(here: Place, *tenants: str) -> None:
    for tenant in tenants:
        here.callers.refusals[tenant] = TenantNotOperational("locked")
        here.changes.tell(tenant_hash(tenant))


LOCKED = (ResultReason.PERMISSION_DENIED, "the tenant is locked, which does not allow this operation")


@on_uvloop
async def test_kept_connection_gets_errors_while_its_tenant_is_locked_and_answers_after_the_unlock():
    async with kmip_server() as (here, dispatcher):
        busy, idle, other = await here.connect(), await here.connect(), await here.connect(BETA)
        for streams in (busy, idle, other):
            await ask(streams, encoded())
        lock(here, ACME)
        for _ in range(5):
            assert refusal(await ask(busy, encoded())) == LOCKED
            await asyncio.sleep(0.01)
        assert asked_id(await ask(other, encoded(a_get("of beta")))) == "of beta"
        new = await here.connect()
        assert refusal(await ask(new, encoded())) == LOCKED
        assert await is_closed(new[0])
        del here.callers.refusals[ACME]
        here.changes.tell(tenant_hash(ACME))
        assert asked_id(await ask(busy, encoded(a_get("after")))) == "after"
        assert asked_id(await ask(idle, encoded(a_get("after")))) == "after"
        assert [caller.tenant_id for caller in dispatcher.callers] == [ACME, ACME, BETA, BETA, ACME, ACME]


@on_uvloop
async def test_caller_of_a_connection_that_survived_a_lock_is_read_before_the_next_request():
    async with kmip_server() as (here, _dispatcher):
        here.callers.all_current = True
        streams = await here.connect()
        await ask(streams, encoded())
        lock(here, ACME)
        await wait_until_async(lambda: here.connections.refused == 1)
        assert refusal(await ask(streams, encoded())) == LOCKED
        del here.callers.refusals[ACME]
        here.changes.tell(tenant_hash(ACME))
        for name in ("first", "second"):
            assert asked_id(await ask(streams, encoded(a_get(name)))) == name


@on_uvloop
async def test_response_that_is_pending_when_the_tenant_is_locked_is_not_sent():
    async with kmip_server() as (here, dispatcher):
        streams = await here.connect()
        await ask(streams, encoded())
        dispatcher.go.clear()
        streams[1].write(encoded(a_get("secret")) + encoded(a_get("next")))
        await wait_until_async(lambda: len(dispatcher.callers) == 2)
        lock(here, ACME)
        await wait_until_async(lambda: here.connections.refused == 1)
        dispatcher.go.set()
        assert [refusal(await receive(streams)) for _ in range(2)] == [LOCKED, LOCKED]
        assert len(dispatcher.callers) == 2


@on_uvloop
async def test_revoked_or_disconnected_client_of_a_locked_tenant_loses_its_connection_at_once():
    async with kmip_server() as (here, _):
        idle, busy = await here.connect(), await here.connect()
        await ask(idle, encoded())
        await ask(busy, encoded())
        lock(here, ACME)
        assert refusal(await ask(busy, encoded())) == LOCKED
        here.callers.refusals[ACME] = ClientNotAuthorized()
        here.changes.tell(tenant_hash(ACME))
        assert await is_closed(idle[0])
        assert await is_closed(busy[0])


@on_uvloop
async def test_requests_of_a_locked_tenant_are_limited_to_its_rate():
    async with kmip_server(rate=10) as (here, _):
        streams = await here.connect()
        await ask(streams, encoded())
        lock(here, ACME)
        await wait_until_async(lambda: here.connections.refused == 1)
        asked = here.callers.asked
        streams[1].write(encoded() * 100)
        reasons = [refusal(await receive(streams))[0] for _ in range(100)]
        assert 10 <= reasons.count(ResultReason.PERMISSION_DENIED) == here.callers.asked - asked < 30
        assert set(reasons) == {ResultReason.PERMISSION_DENIED, ResultReason.GENERAL_FAILURE}


@on_uvloop
async def test_large_message_is_decoded_on_the_loop_in_turns():
    """A thread would take the interpreter lock from the loop, and so delay all tenants."""
    async with kmip_server() as (here, _):
        here.threads.close()
        hostile, other = await here.connect(ACME), await here.connect(BETA)
        await ask(other, encoded(a_get()))
        large = encoded(message(batch_item(Operation.GET, *[number(Tag.BATCH_COUNT, 1)] * 3_000)))
        for _, writer in (hostile, other):
            writer.write(large if writer is hostile[1] else encoded(a_get("small")))
        assert asked_id(await receive(other)) == "small"
        assert len(next((await receive(hostile)).all(Tag.BATCH_ITEM)).first(Tag.RESPONSE_PAYLOAD).children()) == 3_000


@on_uvloop
async def test_connection_that_ends_before_its_response_holds_no_bytes_afterwards():
    async with kmip_server() as (here, dispatcher):
        _, writer = await here.connect()
        dispatcher.go.clear()
        large = encoded(message(batch_item(Operation.GET, *[number(Tag.BATCH_COUNT, 1)] * 3_000)))
        writer.write(encoded(a_get()) + large[:-1])
        await wait_until_async(lambda: here.connections.held > 40_000, seconds=10)
        writer.transport.abort()
        await wait_until_async(lambda: len(here.connections) == 0, seconds=10)
        dispatcher.go.set()
        await wait_until_async(lambda: not here.connections.tasks, seconds=10)
        assert here.connections.held == 0


@on_uvloop
async def test_tenant_whose_incomplete_messages_fill_the_memory_is_rejected_alone():
    """Half a message on many connections; each gets an answer, and another tenant and small messages are served."""
    limits = ConnectionLimits(check_seconds=0.02, message_bytes=400_000)
    large = encoded(message(batch_item(Operation.REGISTER, octets(Tag.DATA, bytes(60_000)))))
    async with kmip_server(limits) as (here, _):
        streams = [await here.connect() for _ in range(6)]
        for _, writer in streams:
            writer.write(large[:50_000])
        await wait_until_async(lambda: here.connections.refused == 2)
        assert here.connections.held == 200_000
        answers = await asyncio.gather(*(asyncio.wait_for(receive(one), 5) for one in streams), return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, Item)]
        assert {refusal(answer)[0] for answer in refused} == {ResultReason.GENERAL_FAILURE}
        assert len(refused) == 2
        assert asked_id(await ask(await here.connect(), encoded(a_get("small")))) == "small"
        beta = await here.connect(BETA)
        assert next((await ask(beta, large)).all(Tag.BATCH_ITEM)).first(Tag.RESPONSE_PAYLOAD) is not None
        await wait_until_async(lambda: here.connections.held == 200_000)
