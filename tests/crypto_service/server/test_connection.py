"""The connection class of both servers: real TLS and real sockets, on the service's event loop."""

import asyncio
import socket
import ssl
import time
from typing import cast

import pytest

from core.errors.platform import DatabaseUnavailable
from core.errors.services import ClientNotAuthorized
from core.errors.tenants import TenantNotOperational
from crypto_service.https import server as https
from crypto_service.kmip import server as kmip
from crypto_service.server.connection import Connection
from crypto_service.server.connection_registry import ConnectionLimits
from database.postgres.change_feed import tenant_hash
from tests.concurrency import wait_until_async
from tests.crypto_service import authority
from tests.crypto_service.echo import ACME, BETA, Echo, PoliteEcho, ask, client_context, is_closed, on_uvloop, place

pytestmark = pytest.mark.integration


@on_uvloop
async def test_client_is_identified_by_its_certificate():
    async with place() as here:
        assert await ask(await here.connect(ACME), b"hello") == b"acme-corp-12345 hello\n"
        assert await ask(await here.connect(BETA), b"hello") == b"beta-corp-67890 hello\n"
        assert {echo.caller.address for echo in here.made} == {"127.0.0.1"}


@on_uvloop
async def test_client_with_nagles_algorithm_is_not_delayed():
    async with place() as here:

        def ask_once() -> float:
            with socket.create_connection(("127.0.0.1", here.port), timeout=5) as plain:
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
                with client_context(ACME).wrap_socket(plain, server_hostname="127.0.0.1") as client:
                    began = time.perf_counter()
                    client.sendall(b"hello\n")
                    assert client.recv(100) == b"acme-corp-12345 hello\n"
                    return time.perf_counter() - began

        async with asyncio.timeout(30):
            while await asyncio.to_thread(ask_once) > 0.03:  # the kernel's delay is 40 ms, every time
                pass


@on_uvloop
async def test_connection_without_certificate_is_rejected():
    async with place() as here:
        bare = ssl.create_default_context(cadata=authority.root().pem)
        reader, writer = await asyncio.open_connection("127.0.0.1", here.port, ssl=bare)
        writer.write(b"hello\n")
        with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):  # TLS 1.3 reports it when the client reads
            await reader.readexactly(1)
        writer.close()
        assert here.callers.asked == 0


@on_uvloop
async def test_data_before_identification_is_processed_later():
    async with place() as here:
        here.callers.open.clear()
        here.callers.waits = True
        streams = await here.connect()
        streams[1].write(b"early\n")
        await wait_until_async(lambda: bool(here.made[0]._early))
        assert here.made[0].identified is False
        here.callers.open.set()
        assert await streams[0].readline() == b"acme-corp-12345 early\n"


@on_uvloop
async def test_data_before_identification_is_bounded():
    async with place() as here:
        here.callers.open.clear()
        here.callers.waits = True
        streams = await here.connect()
        streams[1].write(b"x" * 4_000_000)
        await wait_until_async(lambda: len(here.made[0]._early) >= 65_536)
        await asyncio.sleep(0.1)
        assert len(here.made[0]._early) < 1_000_000
        here.callers.open.set()


@on_uvloop
async def test_rejected_or_unidentified_client_is_closed():
    soon = ConnectionLimits(identify_seconds=0.1, check_seconds=0.02)
    for bounds, server_class, refusal in (
        (None, Echo, ClientNotAuthorized()),
        (soon, PoliteEcho, ClientNotAuthorized()),
        (soon, Echo, None),
    ):
        async with place(bounds, server_class) as here:
            here.callers.refusals = {ACME: refusal} if refusal else {}
            here.callers.waits = refusal is None
            here.callers.open.clear()
            reader, _ = await here.connect()
            assert await is_closed(reader)
            assert here.connections.refused == (bounds is None)
            here.callers.open.set()
            await wait_until_async(lambda here=here: here.callers.asked == 2)  # too late


@on_uvloop
async def test_rejection_is_sent_once_for_the_first_data():
    async with place(server_class=PoliteEcho) as here:
        here.callers.refusals[ACME] = TenantNotOperational("locked")
        reader, writer = await here.connect()
        writer.write(b"give me my key\n")
        assert await asyncio.wait_for(reader.read(), 30) == b"tenant_not_operational give me my key\n"
        reader, writer = await here.connect()
        writer.write(b"wait\n")
        await wait_until_async(here.made[1].busy)
        writer.write(b"and more\n")
        await wait_until_async(lambda: bytes(here.made[1]._early) == b"wait\nand more\n")
        Echo.go.set()
        assert await asyncio.wait_for(reader.read(), 30) == b"tenant_not_operational wait\n"
        assert here.connections.refused == 2


@on_uvloop
async def test_responses_keep_the_order_of_requests():
    async with place() as here:
        reader, writer = await here.connect()
        writer.write(b"first\nwait\nlast\n")
        assert await reader.readline() == b"acme-corp-12345 first\n"
        writer.write(b"more\n")
        await wait_until_async(here.made[0].busy)
        Echo.go.set()
        assert [await reader.readline() for _ in range(3)] == [
            b"acme-corp-12345 wait\n",
            b"acme-corp-12345 last\n",
            b"acme-corp-12345 more\n",
        ]


@on_uvloop
async def test_waiting_request_keeps_its_context():
    async with place() as here:
        reader, writer = await here.connect()
        writer.write(b"named wait\nnamed last\n")
        await wait_until_async(lambda: bool(here.made) and here.made[0].identified and here.made[0].busy())
        Echo.go.set()
        assert await reader.readline() == b"acme-corp-12345 named wait\n"
        assert await reader.readline() == b"acme-corp-12345 named last\n"


@on_uvloop
async def test_thousands_of_pipelined_requests_need_no_recursion():
    async with place() as here:
        reader, writer = await here.connect()
        writer.write(b"x\n" * 5000)
        assert len(await asyncio.wait_for(reader.readexactly(18 * 5000), 30)) == 18 * 5000


@on_uvloop
async def test_unexpected_error_closes_only_its_connection():
    async with place() as here:
        other = await here.connect(BETA)
        assert await ask(other, b"one") == b"beta-corp-67890 one\n"
        assert await ask(await here.connect(), b"boom\nnot answered") == b""
        assert await ask(other, b"two") == b"beta-corp-67890 two\n"


@on_uvloop
async def test_incomplete_message_is_closed_despite_single_bytes():
    async with place(ConnectionLimits(message_seconds=0.2, check_seconds=0.02)) as here:
        reader, writer = await here.connect()
        closed = asyncio.create_task(is_closed(reader))
        while not closed.done():  # single bytes must not extend the time limit
            writer.write(b"x")
            await asyncio.sleep(0.03)
        assert await closed


@on_uvloop
async def test_only_an_idle_connection_is_closed():
    async with place(ConnectionLimits(idle_seconds=1.0, check_seconds=0.02)) as here:
        idle, used = await here.connect(), await here.connect(BETA)
        closed = asyncio.create_task(is_closed(idle[0]))
        while not closed.done():
            assert await ask(used, b"still") == b"beta-corp-67890 still\n"
        assert await closed


@on_uvloop
async def test_client_that_waits_for_a_response_is_not_idle():
    async with place(ConnectionLimits(idle_seconds=0.1, message_seconds=0.1, check_seconds=0.02)) as here:
        streams = await here.connect()
        answer = asyncio.create_task(ask(streams, b"wait"))
        await asyncio.sleep(0.4)
        Echo.go.set()
        assert await answer == b"acme-corp-12345 wait\n"


@on_uvloop
async def test_client_that_does_not_read_is_closed():
    async with place(ConnectionLimits(message_seconds=0.3, close_seconds=0.1, check_seconds=0.02)) as here:
        _, writer = await here.connect()
        cast("asyncio.Transport", writer.transport).pause_reading()
        writer.write(b"big\n" * 8)
        await wait_until_async(lambda: here.connections.opened == 1 and len(here.connections) == 0)


@on_uvloop
async def test_tenant_that_does_not_read_its_responses_cannot_fill_the_memory():
    """The kernel's buffers take about 8 MiB of each connection."""
    async with place(ConnectionLimits(message_bytes=30_000_000)) as here:
        lazy = [await here.connect() for _ in range(4)]
        for _, writer in lazy:
            cast("asyncio.Transport", writer.transport).pause_reading()
            writer.write(b"big\n" * 2)
        await wait_until_async(lambda: here.connections.refused == 3)
        assert here.connections.held < 9_000_000
        reader, writer = await here.connect(BETA)
        writer.write(b"big\n" * 2)
        assert len(await reader.readexactly(16 * 1024 * 1024)) == 16 * 1024 * 1024
        for _, writer in lazy:
            cast("asyncio.Transport", writer.transport).resume_reading()
        assert len(await lazy[0][0].readexactly(16 * 1024 * 1024)) == 16 * 1024 * 1024
        await wait_until_async(lambda: here.connections.held == 0)


@on_uvloop
async def test_slow_reader_gets_all_data_and_delays_its_next_requests():
    async with place() as here:
        reader, writer = await here.connect()
        writer.write(b"big\nbig\n")
        await wait_until_async(lambda: here.made[0]._queue != [] and not here.made[0]._room)
        assert len(await reader.readexactly(16 * 1024 * 1024)) == 16 * 1024 * 1024
        assert await ask((reader, writer), b"after") == b"acme-corp-12345 after\n"


@on_uvloop
async def test_change_closes_rejected_connections_of_its_tenant_and_lost_changes_of_all():
    async with place() as here:
        acme, beta = await here.connect(ACME), await here.connect(BETA)
        await ask(acme, b"x")
        await ask(beta, b"x")
        here.callers.refusals |= {ACME: ClientNotAuthorized(), BETA: TenantNotOperational("locked")}
        here.changes.tell(tenant_hash(ACME))
        assert await is_closed(acme[0])
        await wait_until_async(lambda: len(here.connections) == 1)
        here.changes.tell(None)
        assert await is_closed(beta[0])


@on_uvloop
async def test_many_changes_are_checked_together_and_an_outage_closes_nothing():
    async with place() as here:
        streams = await here.connect()
        await ask(streams, b"x")
        here.callers.refusals[ACME] = DatabaseUnavailable()
        before = here.callers.asked
        for _ in range(100):  # one check at a time
            here.changes.tell(tenant_hash(ACME))
        await wait_until_async(lambda: here.callers.asked > before)
        await asyncio.sleep(0.05)
        assert here.callers.asked - before <= 3
        here.callers.refusals.clear()
        assert await ask(streams, b"y") == b"acme-corp-12345 y\n"


@on_uvloop
async def test_connections_of_a_tenant_and_of_the_process_are_limited():
    async with place(ConnectionLimits(connections=3, connections_of_tenant=2, check_seconds=0.02)) as here:
        first, second = await here.connect(), await here.connect()
        await ask(first, b"x")
        await ask(second, b"x")
        assert await is_closed((await here.connect())[0])
        assert await ask(await here.connect(BETA), b"x") == b"beta-corp-67890 x\n"
        assert await is_closed((await here.connect(BETA))[0])
        second[1].close()
        await wait_until_async(lambda: len(here.connections) == 2)
        assert await ask(await here.connect(), b"x") == b"acme-corp-12345 x\n"


@on_uvloop
async def test_drain_answers_pending_requests_and_closes_all_connections():
    async with place() as here:
        busy, idle = await here.connect(), await here.connect(BETA)
        await ask(idle, b"x")
        busy[1].write(b"wait\n")
        await wait_until_async(lambda: here.made[0].identified and here.made[0].busy())
        draining = asyncio.create_task(here.connections.drain(30))
        assert await is_closed(idle[0])
        Echo.go.set()
        assert await busy[0].readline() == b"acme-corp-12345 wait\n"
        await draining
        assert len(here.connections) == 0
    async with place() as here:  # a request that exceeds the time limit is closed
        (await here.connect())[1].write(b"wait\n")
        await wait_until_async(lambda: here.made[0].identified and here.made[0].busy())
        await here.connections.drain(0.05)
        await wait_until_async(lambda: len(here.connections) == 0)


@on_uvloop
async def test_bytes_that_connections_hold_are_limited_in_total_and_fairly():
    """A tenant may hold as many bytes as are free: half for one, a third each for two."""
    async with place(ConnectionLimits(message_bytes=3_000_000)) as here:
        mine, other = await here.connect(), await here.connect(BETA)
        await ask(mine, b"x")
        await ask(other, b"x")
        one, two = here.made
        assert one.hold(1_500_000)
        assert not one.hold(1_500_001)
        assert one.held == here.connections.held == 1_500_000
        assert two.hold(750_000)
        assert not two.hold(750_001)
        assert one.hold(1_000_000)
        assert two.hold(1_000_000)
        assert not one.hold(1_000_001)
        assert one.hold(16_384)  # a small message always
        mine[1].close()
        other[1].close()
        await wait_until_async(lambda: len(here.connections) == 0)
        assert here.connections.held == 0
        assert not here.connections._held


def test_connections_have_no_dict_in_which_python_would_look_up_each_of_their_attributes() -> None:
    served = {one for one in Connection.__subclasses__() if one.__module__ in {https.__name__, kmip.__name__}}
    assert {one.__module__ for one in served} == {https.__name__, kmip.__name__}
    assert [one.__name__ for one in served if one.__dictoffset__] == []
