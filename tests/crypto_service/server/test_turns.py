"""Turns of tenants on the event loop: work of one that always has more delays another one by little."""

import asyncio
from collections.abc import Generator

import pytest

from crypto_service.server.turns import ALONE_SECONDS, SLICE_SECONDS, UNIDENTIFIED, Turns
from tests.concurrency import wait_until_async
from tests.crypto_service.echo import ACME, BETA, ask, on_uvloop, place

pytestmark = pytest.mark.integration


@on_uvloop
async def test_tenant_with_much_work_delays_another_by_a_slice():
    """Counted in answers, not in time: while one waits for an answer, the other gets few."""
    async with place() as here:
        busy = [await here.connect(ACME) for _ in range(8)]
        calm = await here.connect(BETA)
        for streams in (*busy, calm):
            await ask(streams, b"x")
        answers = 0

        async def read(reader: asyncio.StreamReader) -> None:
            nonlocal answers
            while await reader.readline():
                answers += 1

        readers = [asyncio.create_task(read(reader)) for reader, _ in busy]
        for _, writer in busy:
            writer.write(b"busy\n" * 500)
        await wait_until_async(lambda: answers >= 100)
        most = 0
        for _ in range(20):
            before = answers
            await ask(calm, b"x")
            most = max(most, answers - before)
        assert answers < 8 * 500
        # A few iterations of the loop for both ends of the connection, each with two or three answers.
        assert most < 40
        for reader in readers:
            reader.cancel()


@on_uvloop
async def test_connections_of_a_tenant_take_turns():
    async with place() as here:
        first, second = await here.connect(), await here.connect()
        await ask(first, b"x")
        await ask(second, b"x")
        first[1].write(b"busy\n" * 400)
        assert await first[0].readline() == b"acme-corp-12345 busy\n"
        assert await ask(second, b"x") == b"acme-corp-12345 x\n"
        assert here.made[0].busy()


@on_uvloop
async def test_all_work_is_done_in_order():
    async with place() as here:
        reader, writer = await here.connect()
        writer.write(b"".join(b"busy\n%d\n" % number for number in range(300)))
        lines = [await asyncio.wait_for(reader.readline(), 30) for _ in range(600)]
        assert lines[1::2] == [b"acme-corp-12345 %d\n" % number for number in range(300)]


@on_uvloop
async def test_time_is_given_again_in_each_iteration():
    turns = Turns()
    assert turns.has_time("acme")
    turns.use("acme", 2 * SLICE_SECONDS)
    assert not turns.has_time("acme")
    assert turns.has_time("beta")
    await turns.pause("acme")
    await asyncio.sleep(0)
    assert turns.has_time("acme")


@on_uvloop
async def test_small_uses_of_several_iterations_are_counted_together():
    turns = Turns()
    for _ in range(2):
        turns.use("acme", 0.4 * SLICE_SECONDS)
        await asyncio.sleep(0)
    assert turns.has_time("acme")
    turns.use("beta", 0.3 * SLICE_SECONDS)
    await asyncio.sleep(0)
    turns.use("acme", 0.9 * SLICE_SECONDS)  # those before are no longer counted
    assert turns.has_time("acme")
    turns.use("acme", 0.1 * SLICE_SECONDS)
    assert not turns.has_time("acme")
    await asyncio.sleep(0)
    assert turns.has_time("acme")


@on_uvloop
async def test_tenant_alone_has_a_larger_slice_until_another_has_work(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("crypto_service.server.turns._SHARED_SECONDS", 0.0)
    turns = Turns()
    turns.use(UNIDENTIFIED, SLICE_SECONDS)  # connections of the same tenant
    turns.use("acme", SLICE_SECONDS)
    await asyncio.sleep(0)
    turns.use("acme", 0.9 * ALONE_SECONDS)
    assert turns.has_time("acme")
    turns.use("acme", 0.1 * ALONE_SECONDS)
    assert not turns.has_time("acme")
    assert turns.has_time("beta")
    turns.use("beta", SLICE_SECONDS / 10)
    await asyncio.sleep(0)
    turns.use("acme", SLICE_SECONDS)
    assert not turns.has_time("acme")


@on_uvloop
async def test_slice_remains_small_for_a_while_after_several_tenants_had_work(monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patched:
        patched.setattr("crypto_service.server.turns._SHARED_SECONDS", 0.0)
        turns = Turns()
    turns.use("beta", SLICE_SECONDS / 10)
    for _ in range(3):
        turns.use("acme", SLICE_SECONDS)
        assert not turns.has_time("acme")
        await asyncio.sleep(0)


@on_uvloop
async def test_one_part_of_long_requests_is_done_in_an_iteration():
    """Its time is not known before; many requests at once must not do a part of each in the same iteration."""
    turns, done = Turns(), list[int]()

    def steps(number: int) -> Generator[None, None, int]:
        for _ in range(3):
            done.append(number)
            yield
        return number

    turns.use("acme", SLICE_SECONDS)
    requests = [asyncio.create_task(turns.complete("acme", steps(number))) for number in range(4)]
    await asyncio.sleep(0)
    while not all(request.done() for request in requests):
        before = len(done)
        await asyncio.sleep(0)
        assert len(done) - before <= 1
    assert [request.result() for request in requests] == list(range(4))
    assert len(done) == 12


@on_uvloop
async def test_waiting_work_is_called_in_order_and_no_more_than_a_slice_at_once():
    turns, called = Turns(), list[int]()

    def work(number: int) -> None:
        called.append(number)
        turns.use("acme", SLICE_SECONDS / 2)

    for number in range(6):
        turns.call_next("acme", lambda number=number: work(number))
    steps = []
    while len(called) < 6:
        await asyncio.sleep(0)
        steps.append(len(called))
    assert called == list(range(6))
    assert 2 in steps
    assert 4 in steps
    await asyncio.sleep(0)
    assert turns.has_time("acme")


@on_uvloop
async def test_tenant_without_waiting_work_has_time_during_the_pause_of_others():
    turns, called = Turns(), list[str]()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("crypto_service.server.turns._PAUSE_SECONDS", 0.1)
        patched.setattr(Turns, "_is_busy", lambda *_: True)
        turns.call_next("acme", lambda: called.append("acme"))
        await asyncio.sleep(0)
        for _ in range(5):
            turns.use("beta", 2 * SLICE_SECONDS)
            await asyncio.sleep(0)
            assert turns.has_time("beta")
            assert not called
    await wait_until_async(lambda: called == ["acme"])


@on_uvloop
async def test_cancelled_pause_leaves_no_one_waiting():
    turns = Turns()
    turns.use("acme", 2 * SLICE_SECONDS)
    waiting = turns.pause("acme")
    waiting.send(None)
    waiting.close()
    await turns.pause("acme")
    await asyncio.sleep(0)
    assert turns.has_time("acme")
