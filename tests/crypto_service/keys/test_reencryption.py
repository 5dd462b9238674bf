"""Objects re-encrypted while clients use them: real keys, a real database, two processes."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import pytest

from core.errors.platform import DatabaseRefused
from core.keys.rotation import KeyState
from core.tenants.lifecycle import State, Transition
from core.tenants.locks import LockReason
from crypto_service.kmip.codec.enums import Operation, ResultReason
from database.platform.scheduled import PlatformQueries
from database.postgres.change_feed import tenant_hash
from database.services.managed_objects import ObjectRow
from tests.crypto_service.core.world import World
from tests.crypto_service.keys.resealing import FAST, Known, Process, Stand, some_objects
from tests.crypto_service.kmip.scene import custom
from tests.crypto_service.running.conftest import world
from tests.database.fixtures import Field

__all__ = ["world"]  # fixtures that pytest finds by name

OBJECTS = 24


@pytest.fixture
def stand(world: World) -> Iterator[Stand]:
    made = Stand(world)
    yield made
    made.close()


@pytest.fixture
async def objects(stand: Stand) -> list[Known]:
    return await some_objects(stand.client(), OBJECTS)


def long_ago(field: Field) -> None:
    """Skip the time in which a process that was notified late may still use the former version."""
    with field.administrator() as administrator:
        administrator.execute("update okcm.service_key set deactivated_at = deactivated_at - interval '1 hour'")


async def until_reencrypted(process: Process, stand: Stand) -> None:
    async with asyncio.timeout(60):
        while stand.versions() != {2}:
            process.resealing._waits.clear()
            await process.resealing.once()


@pytest.mark.parametrize("former", [KeyState.DEACTIVATED, KeyState.COMPROMISED])
async def test_object_appears_unchanged_before_during_and_after_reencryption(
    stand: Stand, objects: list[Known], former: KeyState
) -> None:
    clients = stand.client(), stand.client(stand.two)
    before = {one.object_id: await one.seen_by(clients[0]) for one in objects}
    assert {one.decrypted for one in before.values()} == {f"text {number}".encode() for number in range(OBJECTS)}
    rows = {row.object_id: row for row in stand.rows()}
    stand.rotate(2)
    if former is KeyState.COMPROMISED:
        stand.home.compromised("orders", 1)
        stand.tell()
    done, reads, mixed = False, 0, 0

    async def hammer(number: int) -> None:
        nonlocal reads, mixed
        while not done:
            for one in objects[number::4]:
                assert await one.seen_by(clients[number % 2]) == before[one.object_id]
                reads += 1
                mixed += stand.versions() == {1, 2}

    readers = [asyncio.create_task(hammer(number)) for number in range(4)]
    stand.clock.now += 60  # a change of an object would show in its Last Change Date
    resealing = replace(FAST, batch=2, pause=0.05)
    await until_reencrypted(stand.process(resealing), stand)
    done = True
    await asyncio.gather(*readers)
    assert mixed > 0
    assert reads > OBJECTS
    stand.tell()
    for client in clients:
        assert {one.object_id: await one.seen_by(client) for one in objects} == before
    for row in stand.rows():
        was = rows[row.object_id]
        assert row == was._replace(key_version=2, material=row.material, revision=was.revision + 1)
        assert row.material != was.material


async def test_concurrent_reencryption_and_changes_lose_nothing(stand: Stand, objects: list[Known]) -> None:
    clients = stand.client(), stand.client(stand.two)
    materials = {one.object_id: (await clients[0].get(one.object_id)).material for one in objects}
    stand.rotate(2)

    async def change(number: int, one: Known) -> None:
        client = clients[number % 2]
        if number % 3 == 0:
            assert (await client.revoke(one.object_id, 1)).reason is None
        for turn in range(5):
            changed = await client.about(Operation.MODIFY_ATTRIBUTE, one.object_id, custom("x-number", f"turn {turn}"))
            assert changed.reason is None

    pace = replace(FAST, batch=4)
    processes = stand.process(pace), stand.process(pace)
    changing = [change(number, one) for number, one in enumerate(objects)]
    await asyncio.gather(*changing, *(until_reencrypted(process, stand) for process in processes))
    assert stand.versions() == {2}
    assert sum(process.resealing.totals.resealed for process in processes) == OBJECTS
    stand.tell()
    for number, one in enumerate(objects):
        shown = (await clients[0].about(Operation.GET_ATTRIBUTES, one.object_id)).attributes
        assert shown["x-number"] == "turn 4"
        assert shown["State"] == (3 if number % 3 == 0 else 2)
        if number % 3:
            assert (await clients[0].get(one.object_id)).material == materials[one.object_id]


async def test_run_reencrypts_automatically_and_stops_when_done(stand: Stand, objects: list[Known]) -> None:
    running = asyncio.create_task(stand.one.resealing.run())
    try:
        stand.rotate(2)
        async with asyncio.timeout(30):
            while stand.versions() != {2}:  # noqa: ASYNC110 - the state is in the database
                await asyncio.sleep(0.02)
        assert stand.home.version("orders", 1).emptied_at is None
        long_ago(stand.world.field)
        async with asyncio.timeout(30):
            while stand.home.version("orders", 1).emptied_at is None:  # noqa: ASYNC110 - the same
                await asyncio.sleep(0.02)
    finally:
        running.cancel()
    assert PlatformQueries(stand.world.crypto).stale_services(("", ""), 10) == []
    assert stand.one.resealing.totals.resealed == len(objects)


@pytest.mark.usefixtures("objects")
@pytest.mark.parametrize("way", ["locked", "offboarding"])
async def test_objects_of_a_locked_or_offboarding_tenant_are_not_changed(stand: Stand, way: str) -> None:
    stand.rotate(2)
    rows = stand.rows()
    with stand.world.worker.tenant_tx(stand.home.tenant_id) as tx:
        if way == "locked":
            tx.tenants.hold(LockReason.MANUAL)
        else:
            tx.tenants.move(Transition.LEAVE)
    before = stand.world.key_server_requests()
    await stand.one.resealing.once()
    # Also when the lock follows the query.
    await stand.one.resealing._tenant(asyncio.Semaphore(1), stand.home.tenant_id, ["orders"])
    assert stand.rows() == rows
    assert stand.world.key_server_requests() == before
    with stand.world.worker.tenant_tx(stand.home.tenant_id) as tx:
        if way == "locked":
            tx.tenants.release(LockReason.MANUAL)
        else:
            tx.tenants.move(Transition.RESTORE, State.SUSPENDED)
    await stand.one.resealing.once()
    assert stand.versions() == {2}


@pytest.mark.usefixtures("objects")
async def test_lock_between_unwrap_and_store_stores_nothing(stand: Stand) -> None:
    stand.rotate(2)
    rows, keyring = stand.rows(), stand.one.keyring

    class Slow:
        async def key(self, *asked: object) -> object:
            key = await keyring.key(*asked)  # type: ignore[arg-type]  # passed on
            with suppress(Exception), stand.world.worker.tenant_tx(stand.home.tenant_id) as tx:
                tx.tenants.hold(LockReason.MANUAL)
            return key

    slow = stand.process()
    slow.resealing._keyring = Slow()  # type: ignore[assignment]  # all that is called
    await slow.resealing.once()
    assert stand.rows() == rows


@pytest.mark.usefixtures("objects")
async def test_failed_tenant_is_retried_with_backoff_and_after_a_change(stand: Stand) -> None:
    stand.rotate(2)
    stand.world.tenant_keys.disable(stand.home.tenant_id)
    resealing = stand.one.resealing
    hashed = tenant_hash(stand.home.tenant_id)
    waits = []
    for failures in (1, 2, 3):
        await resealing.once()
        await resealing.once()  # within the wait: no attempt
        assert resealing.totals.failed == failures
        waits.append(resealing._waits[hashed].seconds)
        resealing._waits[hashed].until = 0.0
    assert waits == [0.05, 0.1, 0.2]
    stand.world.tenant_keys.ensure(stand.home.tenant_id)
    resealing._waits[hashed].until = float("inf")
    stand.tell()
    await resealing.once()
    assert stand.versions() == {2}
    assert hashed not in resealing._waits


def move(stand: Stand, row: ObjectRow, into: str, service: str) -> None:
    """Copy the ciphertext of a row into another object's row, as an attacker with write access could."""
    with stand.world.field.administrator() as administrator:
        administrator.execute(
            "update okcm.managed_object set material = %s where object_id = %s and service = %s",
            [row.material, into, service],
        )


async def test_moved_ciphertext_is_neither_decrypted_nor_reencrypted(stand: Stand, objects: list[Known]) -> None:
    stand.home.connect("billing")
    other_services_objects = await some_objects(stand.client(service="billing"), 3)
    other_tenant = stand.world.tenant()
    other_tenant.connect("orders")
    other_tenants_objects = await some_objects(stand.client(home=other_tenant), 1)
    mine = {row.object_id: row for row in stand.rows()}
    move(stand, mine[objects[0].object_id], other_services_objects[0].object_id, "billing")  # another service's
    move(stand, mine[objects[1].object_id], objects[2].object_id, "orders")  # another object's
    (other_row,) = stand.rows(home=other_tenant)
    move(stand, other_row, other_services_objects[1].object_id, "billing")  # another tenant's
    damaged = {other_services_objects[0].object_id, other_services_objects[1].object_id, objects[2].object_id}
    stand.rotate(2)
    stand.rotate(2, "billing")
    before = {row.object_id: row for row in (*stand.rows(), *stand.rows("billing"))}
    await stand.one.resealing.once()
    after = {row.object_id: row for row in (*stand.rows(), *stand.rows("billing"))}
    assert {object_id for object_id, row in after.items() if row.key_version == 1} == damaged
    assert all(after[object_id] == before[object_id] for object_id in damaged)
    assert stand.one.resealing.totals.damaged == len(damaged)
    await stand.one.resealing.once()
    assert stand.one.resealing.totals.failed == 1  # only damaged objects remain: retried later
    long_ago(stand.world.field)
    await stand.one.resealing.once()
    assert stand.home.version("orders", 1).emptied_at is None
    for one in other_services_objects[:2]:
        assert (await stand.client(service="billing").get(one.object_id)).reason is ResultReason.CRYPTOGRAPHIC_FAILURE
    assert (await stand.client(home=other_tenant).get(other_tenants_objects[0].object_id)).reason is None


async def test_emptied_version_accepts_no_objects(stand: Stand, objects: list[Known]) -> None:
    late = stand.rows()[0]
    stand.rotate(2)
    await until_reencrypted(stand.one, stand)
    long_ago(stand.world.field)
    await stand.one.resealing.once()
    assert stand.home.version("orders", 1).emptied_at is not None
    crypto = stand.world.crypto
    with pytest.raises(DatabaseRefused, match="23514"), crypto.tenant_tx(stand.home.tenant_id) as tx:
        tx.objects.add([late._replace(object_id="late", names=())])
    current = next(row for row in stand.rows() if row.object_id == late.object_id)
    with pytest.raises(DatabaseRefused, match="23514"), crypto.tenant_tx(stand.home.tenant_id) as tx:
        tx.objects.change(late._replace(revision=current.revision))
    with crypto.tenant_tx(stand.home.tenant_id) as tx:
        assert not tx.objects.change(late)  # a change based on the older revision conflicts
    assert len(stand.rows()) == len(objects)


@pytest.mark.usefixtures("objects")
async def test_late_store_prevents_that_its_version_is_marked_as_emptied(stand: Stand) -> None:
    late = stand.rows()[0]._replace(object_id="late", names=())
    stand.rotate(2)
    await until_reencrypted(stand.one, stand)
    long_ago(stand.world.field)
    crypto, stored, noting = stand.world.crypto, asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def store() -> None:
        with crypto.tenant_tx(stand.home.tenant_id) as tx:
            tx.objects.add([late])
            loop.call_soon_threadsafe(stored.set)
            asyncio.run_coroutine_threadsafe(noting.wait(), loop).result(10)

    storing = asyncio.create_task(asyncio.to_thread(store))
    await stored.wait()
    note = asyncio.create_task(asyncio.to_thread(stand.one.resealing._note_emptied, stand.home.tenant_id, "orders"))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(note), 0.3)  # waits for the transaction that stores
    noting.set()
    await asyncio.gather(storing, note)
    assert stand.home.version("orders", 1).emptied_at is None


async def test_object_read_earlier_decrypts_after_its_former_version_was_destroyed(
    stand: Stand, objects: list[Known]
) -> None:
    client, one = stand.client(stand.two), objects[0]
    before = await one.seen_by(client)
    remembered = await stand.two.objects.get(client.caller, one.object_id)
    stand.rotate(2)
    await until_reencrypted(stand.one, stand)
    assert remembered.row.key_version == 1
    stand.home.destroyed("orders", 1)
    stand.two.keyring.forget(None)  # before the store is notified
    assert await stand.two.objects.open(client.caller, remembered)
    assert await one.seen_by(client) == before


async def test_object_under_a_destroyed_version_reports_the_reason(stand: Stand, objects: list[Known]) -> None:
    stand.rotate(2)
    stand.home.destroyed("orders", 1)
    stand.tell()
    client, one = stand.client(), objects[0]
    for answer in (await client.get(one.object_id), await client.encrypt(one.object_id, b"text")):
        assert answer.reason is ResultReason.CRYPTOGRAPHIC_FAILURE
        assert "retired" in answer.message
    assert (await client.about(Operation.GET_ATTRIBUTES, one.object_id)).attributes["x-number"] == "0"
    assert stand.journal.entries[-2].refused == "key_version_retired"
