"""The connection both fronts start from: real TLS and real sockets, on asyncio's loop and on uvloop's."""

import asyncio
import socket
import ssl
import time
from typing import cast

import pytest

from crypto.connections import Bounds
from tenancy.errors import CallerRefused, DatabaseUnavailable, TenantClosed
from tests.crypto.echo import ACME, BETA, Echo, PoliteEcho, ask, client_context, is_closed, on_both_loops, place, until
from tests.crypto.https import authority


@on_both_loops
async def test_a_client_is_served_as_whom_its_certificate_says():
    async with place() as here:
        assert await ask(await here.connect(ACME), b"hello") == b"acme-corp-12345 hello\n"
        assert await ask(await here.connect(BETA), b"hello") == b"beta-corp-67890 hello\n"
        assert {echo.caller.address for echo in here.made} == {"127.0.0.1"}


@on_both_loops
async def test_a_client_with_nagles_algorithm_is_not_kept_waiting_for_an_acknowledgement():
    async with place() as here:

        def ask_once() -> float:
            with socket.create_connection(("127.0.0.1", here.port), timeout=5) as plain:
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
                with client_context(ACME).wrap_socket(plain, server_hostname="127.0.0.1") as client:
                    began = time.perf_counter()
                    client.sendall(b"hello\n")
                    assert client.recv(100) == b"acme-corp-12345 hello\n"
                    return time.perf_counter() - began

        took = [await asyncio.to_thread(ask_once) for _ in range(8)]
        assert min(took) < 0.03  # the kernel's delay is 40 ms, every time


@on_both_loops
async def test_without_a_certificate_there_is_no_connection():
    async with place() as here:
        bare = ssl.create_default_context(cadata=authority.root().pem)
        reader, writer = await asyncio.open_connection("127.0.0.1", here.port, ssl=bare)
        writer.write(b"hello\n")
        with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):  # TLS 1.3 tells a client when it reads
            await reader.readexactly(1)
        writer.close()
        assert here.callers.asked == 0


@on_both_loops
async def test_what_comes_before_the_caller_is_known_is_kept_for_later():
    async with place() as here:
        here.callers.open.clear()
        here.callers.waits = True
        streams = await here.connect()
        streams[1].write(b"early\n")
        await until(lambda: bool(here.made[0]._early))
        assert here.made[0].identified is False
        here.callers.open.set()
        assert await streams[0].readline() == b"acme-corp-12345 early\n"


@on_both_loops
async def test_a_flood_before_the_caller_is_known_is_held_back():
    async with place() as here:
        here.callers.open.clear()
        here.callers.waits = True
        streams = await here.connect()
        streams[1].write(b"x" * 4_000_000)
        await until(lambda: len(here.made[0]._early) >= 65_536)
        before = len(here.made[0]._early)
        await asyncio.sleep(0.1)
        assert len(here.made[0]._early) == before < 1_000_000
        here.callers.open.set()


@on_both_loops
async def test_a_refused_client_gets_nothing_and_is_closed():
    async with place() as here:
        here.callers.refusals[ACME] = CallerRefused()
        reader, _ = await here.connect()
        assert await is_closed(reader)
        assert here.connections.refused == 1


@on_both_loops
async def test_a_front_may_answer_a_refusal_to_what_the_client_sent():
    async with place(front=PoliteEcho) as here:
        here.callers.refusals[ACME] = TenantClosed("locked")
        reader, writer = await here.connect()
        writer.write(b"give me my key\n")
        assert await asyncio.wait_for(reader.read(), 5) == b"tenant_closed give me my key\n"


@on_both_loops
async def test_a_refusal_that_has_to_wait_is_said_once_whatever_comes_meanwhile():
    async with place(front=PoliteEcho) as here:
        here.callers.refusals[ACME] = TenantClosed("locked")
        reader, writer = await here.connect()
        writer.write(b"wait\n")
        await until(lambda: here.made[0].busy)
        writer.write(b"and more\n")
        await until(lambda: bytes(here.made[0]._early) == b"wait\nand more\n")
        Echo.go.set()
        assert await asyncio.wait_for(reader.read(), 5) == b"tenant_closed wait\n"
        assert here.connections.refused == 1


@on_both_loops
async def test_a_client_that_is_refused_and_says_nothing_is_closed_in_time():
    async with place(Bounds(identify_seconds=0.1, look_seconds=0.02), PoliteEcho) as here:
        here.callers.refusals[ACME] = CallerRefused()
        reader, _ = await here.connect()
        assert await is_closed(reader)


@on_both_loops
async def test_identification_that_takes_too_long_ends_the_connection():
    async with place(Bounds(identify_seconds=0.1, look_seconds=0.02)) as here:
        here.callers.open.clear()
        here.callers.waits = True
        reader, _ = await here.connect()
        assert await is_closed(reader)
        here.callers.open.set()


@on_both_loops
async def test_answers_come_in_the_order_of_the_requests_even_when_one_waits():
    async with place() as here:
        reader, writer = await here.connect()
        writer.write(b"first\nwait\nlast\n")
        assert await reader.readline() == b"acme-corp-12345 first\n"
        writer.write(b"more\n")
        await until(lambda: here.made[0].busy)
        Echo.go.set()
        assert [await reader.readline() for _ in range(3)] == [
            b"acme-corp-12345 wait\n",
            b"acme-corp-12345 last\n",
            b"acme-corp-12345 more\n",
        ]


@on_both_loops
async def test_a_request_keeps_a_context_of_its_own_when_it_waits():
    async with place() as here:
        reader, writer = await here.connect()
        writer.write(b"named wait\nnamed last\n")
        await until(lambda: bool(here.made) and here.made[0].identified and here.made[0].busy)
        Echo.go.set()
        assert await reader.readline() == b"acme-corp-12345 named wait\n"
        assert await reader.readline() == b"acme-corp-12345 named last\n"


@on_both_loops
async def test_thousands_of_requests_at_once_are_answered_without_deep_recursion():
    async with place() as here:
        reader, writer = await here.connect()
        writer.write(b"x\n" * 5000)
        assert len(await asyncio.wait_for(reader.readexactly(18 * 5000), 10)) == 18 * 5000


@on_both_loops
async def test_an_unforeseen_error_closes_the_connection_and_only_that():
    async with place() as here:
        other = await here.connect(BETA)
        assert await ask(other, b"one") == b"beta-corp-67890 one\n"
        assert await ask(await here.connect(), b"boom") == b""
        assert await ask(other, b"two") == b"beta-corp-67890 two\n"


@on_both_loops
async def test_a_message_that_does_not_end_in_time_ends_the_connection_however_it_trickles():
    async with place(Bounds(message_seconds=0.2, look_seconds=0.02)) as here:
        reader, writer = await here.connect()
        closed = asyncio.create_task(is_closed(reader))
        while not closed.done():  # a byte now and then must not buy time
            writer.write(b"x")
            await asyncio.sleep(0.03)
        assert await closed


@on_both_loops
async def test_an_idle_connection_is_closed_and_a_used_one_is_not():
    async with place(Bounds(idle_seconds=0.3, look_seconds=0.02)) as here:
        idle, used = await here.connect(), await here.connect(BETA)
        closed = asyncio.create_task(is_closed(idle[0]))
        for _ in range(8):
            await asyncio.sleep(0.08)
            assert await ask(used, b"still") == b"beta-corp-67890 still\n"
        assert await closed


@on_both_loops
async def test_a_client_that_waits_for_us_is_not_called_idle():
    async with place(Bounds(idle_seconds=0.1, message_seconds=0.1, look_seconds=0.02)) as here:
        streams = await here.connect()
        answer = asyncio.create_task(ask(streams, b"wait"))
        await asyncio.sleep(0.4)
        Echo.go.set()
        assert await answer == b"acme-corp-12345 wait\n"


@on_both_loops
async def test_a_client_that_does_not_read_is_given_up():
    async with place(Bounds(message_seconds=0.3, close_seconds=0.1, look_seconds=0.02)) as here:
        _, writer = await here.connect()
        cast("asyncio.Transport", writer.transport).pause_reading()
        writer.write(b"big\n" * 8)
        await until(lambda: here.connections.opened == 1 and len(here.connections) == 0)


@on_both_loops
async def test_a_slow_reader_gets_everything_and_holds_back_what_comes_next():
    async with place() as here:
        reader, writer = await here.connect()
        writer.write(b"big\nbig\n")
        await until(lambda: here.made[0]._queue != [] and not here.made[0]._writable)
        assert len(await reader.readexactly(16 * 1024 * 1024)) == 16 * 1024 * 1024
        assert await ask((reader, writer), b"after") == b"acme-corp-12345 after\n"


@on_both_loops
async def test_a_change_closes_the_live_connections_of_that_tenant_at_once():
    async with place() as here:
        acme, beta = await here.connect(ACME), await here.connect(BETA)
        await ask(acme, b"x")
        await ask(beta, b"x")
        here.callers.refusals[ACME] = CallerRefused()
        here.changes.tell(ACME)
        assert await is_closed(acme[0])
        assert await ask(beta, b"y") == b"beta-corp-67890 y\n"


@on_both_loops
async def test_when_changes_were_missed_everybody_is_looked_at_again():
    async with place() as here:
        acme, beta = await here.connect(ACME), await here.connect(BETA)
        await ask(acme, b"x")
        await ask(beta, b"x")
        here.callers.refusals |= {ACME: TenantClosed("locked"), BETA: CallerRefused()}
        here.changes.tell(None)
        assert await is_closed(acme[0])
        assert await is_closed(beta[0])


@on_both_loops
async def test_a_database_that_is_down_during_the_second_look_closes_nothing():
    async with place() as here:
        streams = await here.connect()
        await ask(streams, b"x")
        here.callers.refusals[ACME] = DatabaseUnavailable()
        here.changes.tell(ACME)
        await asyncio.sleep(0.05)
        here.callers.refusals.clear()
        assert await ask(streams, b"y") == b"acme-corp-12345 y\n"


@on_both_loops
async def test_many_changes_of_one_tenant_are_one_look_at_a_time():
    async with place() as here:
        await ask(await here.connect(), b"x")
        before = here.callers.asked
        for _ in range(100):
            here.changes.tell(ACME)
        await asyncio.sleep(0.05)
        assert here.callers.asked - before <= 3


@on_both_loops
async def test_a_tenant_gets_so_many_connections_and_others_get_theirs():
    async with place(Bounds(connections_of_tenant=2, look_seconds=0.02)) as here:
        first, second = await here.connect(), await here.connect()
        await ask(first, b"x")
        await ask(second, b"x")
        third = await here.connect()
        assert await is_closed(third[0])
        assert await ask(await here.connect(BETA), b"x") == b"beta-corp-67890 x\n"
        second[1].close()
        await until(lambda: len(here.connections) == 2)
        assert await ask(await here.connect(), b"x") == b"acme-corp-12345 x\n"


@on_both_loops
async def test_beyond_the_bound_of_the_process_nobody_gets_in():
    async with place(Bounds(connections=1, look_seconds=0.02)) as here:
        first = await here.connect()
        await ask(first, b"x")
        second = await here.connect(BETA)
        assert await is_closed(second[0])
        assert await ask(first, b"y") == b"acme-corp-12345 y\n"


@on_both_loops
async def test_draining_answers_what_it_owes_and_closes_the_rest():
    async with place() as here:
        busy, idle = await here.connect(), await here.connect(BETA)
        await ask(idle, b"x")
        busy[1].write(b"wait\n")
        await until(lambda: here.made[0].identified and here.made[0].busy)
        draining = asyncio.create_task(here.connections.drain(5))
        assert await is_closed(idle[0])
        Echo.go.set()
        assert await busy[0].readline() == b"acme-corp-12345 wait\n"
        await draining
        assert len(here.connections) == 0


@on_both_loops
async def test_after_the_drain_time_nothing_is_left_open():
    async with place() as here:
        streams = await here.connect()
        streams[1].write(b"wait\n")
        await until(lambda: here.made[0].identified and here.made[0].busy)
        await here.connections.drain(0.05)
        await until(lambda: len(here.connections) == 0)
