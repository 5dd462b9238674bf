"""Opening service keys: real database, real Transit, the rights of the crypto service."""

import asyncio
import gc
from dataclasses import replace
from typing import Any

import pytest

from crypto.blocking import FairThreads
from crypto.interfaces import Caller, ServiceKey
from crypto.keyring import CachedKeyring
from database.interfaces import mark
from keystores.interfaces import RootKey
from tenancy.binding import Context, Purpose
from tenancy.errors import DatabaseUnavailable, KeyUnavailable, ObjectNotFound, TooManyRequests
from tenancy.ids import l2_key
from tenancy.lifecycle import State
from tenancy.root_key_errors import RootKeyDisabled
from tenancy.rotation import KeyState
from tests.crypto.core.world import REGION, Changes, Clock, Home, Looking, Shelf, World, at_once, unheeded


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


@pytest.fixture
def looking() -> Looking:
    return Looking()


@pytest.fixture
def keyring(world: World, looking: Looking, changes: Changes, clock: Clock) -> CachedKeyring:
    return a_keyring(world, looking, changes, clock)


def a_keyring(world: World, blocking: Any, changes: Changes, clock: Clock, root: RootKey | None = None):
    return CachedKeyring(
        world.crypto,
        world.own_keys,
        Shelf(root or world.own_root),
        blocking,
        changes,
        cache_seconds=60,
        opened=unheeded,
        monotonic=clock,
    )


@pytest.fixture
def home(world: World) -> Home:
    home = world.tenant()
    home.connect("orders")
    return home


def caller_of(home: Home, service: str = "orders", **changed: Any) -> Caller:
    caller = Caller(home.tenant_id, service, home.l2_key, REGION, "1a", State.ACTIVE)
    return replace(caller, **changed)


async def test_a_key_opens_with_one_call_for_each_layer(keyring: CachedKeyring, home: Home, world: World) -> None:
    await keyring.key(caller_of(home))  # the first call of all also logs the process in
    home.connect("billing")
    before, calls = len(world.key_server_requests()), world.key_server_calls()
    key = await keyring.key(caller_of(home, "billing"))
    # The server writes the login inside the second call as a line of its own.
    assert world.key_server_requests()[before:] == [
        f"transit/decrypt/root-{REGION}",
        "auth/jwt/login",
        f"transit/decrypt/{home.l2_key}",
    ]
    assert world.key_server_calls() - calls == 2
    assert (key.version, len(key.material)) == (1, 32)


async def test_a_key_is_the_same_each_time_and_each_service_has_its_own(
    keyring: CachedKeyring, home: Home, changes: Changes
) -> None:
    home.connect("billing")
    orders = await keyring.key(caller_of(home))
    changes.tell(None)
    assert await keyring.key(caller_of(home)) == orders
    assert (await keyring.key(caller_of(home, "billing"))).material != orders.material


async def test_an_open_key_is_found_without_waiting_and_without_any_server(
    keyring: CachedKeyring, home: Home, world: World, looking: Looking
) -> None:
    key = await keyring.key(caller_of(home))
    with world.field.server.offline(world.field.name):
        assert at_once(keyring.key(caller_of(home))) == key
        assert at_once(keyring.key(caller_of(home), 1)) == key
    assert looking.count == 1


async def test_many_who_want_a_key_wait_for_one_opening(keyring: CachedKeyring, home: Home, looking: Looking) -> None:
    keys = await asyncio.gather(*(keyring.key(caller_of(home)) for _ in range(50)))
    assert len({key.material for key in keys}) == 1
    assert looking.count == 1


async def test_who_gives_up_waiting_does_not_stop_the_opening_for_others(
    keyring: CachedKeyring, home: Home, looking: Looking
) -> None:
    first = asyncio.ensure_future(keyring.key(caller_of(home)))
    await asyncio.sleep(0)
    second = asyncio.ensure_future(keyring.key(caller_of(home)))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).version == 1
    assert looking.count == 1


async def test_the_newest_version_is_taken_and_older_ones_still_open(
    keyring: CachedKeyring, home: Home, changes: Changes
) -> None:
    first = await keyring.key(caller_of(home))
    home.new_key("orders", 2)
    changes.tell(mark(home.tenant_id))
    second = await keyring.key(caller_of(home))
    assert (first.version, second.version) == (1, 2)
    assert at_once(keyring.key(caller_of(home), 2)) == second
    assert await keyring.key(caller_of(home), 1) == first


async def test_a_key_is_kept_for_the_cache_time_and_no_longer(
    keyring: CachedKeyring, home: Home, clock: Clock, looking: Looking
) -> None:
    await keyring.key(caller_of(home))
    clock.now += 59.9
    at_once(keyring.key(caller_of(home)))
    clock.now += 0.1
    await keyring.key(caller_of(home))
    assert looking.count == 2


async def test_word_of_a_change_drops_the_keys_of_that_tenant_alone(
    keyring: CachedKeyring, home: Home, world: World, changes: Changes
) -> None:
    other = world.tenant()
    other.connect("orders")
    await keyring.key(caller_of(home))
    await keyring.key(caller_of(other))
    changes.tell(mark(home.tenant_id))
    with world.field.server.offline(world.field.name):
        at_once(keyring.key(caller_of(other)))
        with pytest.raises(DatabaseUnavailable):
            await keyring.key(caller_of(home))


async def test_a_dropped_key_is_overwritten_in_memory(keyring: CachedKeyring, home: Home, changes: Changes) -> None:
    key = await keyring.key(caller_of(home))
    (kept,) = {id(kept): kept for kept in keyring._tenants[home.tenant_id].kept.values()}.values()
    assert kept.material == key.material
    changes.tell(mark(home.tenant_id))
    assert kept.material == bytes(32)
    assert len(key.material) == 32  # who was just using it keeps what it was handed
    assert key.material != bytes(32)


async def test_a_key_nobody_asks_for_again_is_overwritten_when_its_time_is_over(
    world: World, home: Home, changes: Changes
) -> None:
    keyring = CachedKeyring(
        world.crypto, world.own_keys, Shelf(world.own_root), Looking(), changes, cache_seconds=1.0, opened=unheeded
    )
    await keyring.key(caller_of(home))
    tenant = keyring._tenants[home.tenant_id]
    (kept,) = {id(kept): kept for kept in tenant.kept.values()}.values()
    loop = asyncio.get_running_loop()
    over = loop.create_future()
    loop.call_later(1.05, over.set_result, None)
    await over
    assert (kept.material, tenant.kept) == (bytes(32), {})


async def test_a_key_opened_before_a_change_is_not_found_after_it(
    world: World, home: Home, changes: Changes, clock: Clock
) -> None:
    async def change() -> None:
        await asyncio.to_thread(home.new_key, "orders", 2)
        changes.tell(mark(home.tenant_id))

    looking = Looking(after_first=change)
    keyring = a_keyring(world, looking, changes, clock)
    assert (await keyring.key(caller_of(home))).version == 1  # asked for before the change, and answered so
    assert (await keyring.key(caller_of(home))).version == 2
    assert looking.count == 2


async def test_who_asks_after_a_change_does_not_join_an_opening_from_before_it(
    world: World, home: Home, changes: Changes, clock: Clock
) -> None:
    late: list[asyncio.Task[ServiceKey]] = []

    async def change() -> None:
        await asyncio.to_thread(home.new_key, "orders", 2)
        changes.tell(mark(home.tenant_id))
        late.append(asyncio.ensure_future(keyring.key(caller_of(home))))
        await asyncio.sleep(0)

    keyring = a_keyring(world, Looking(after_first=change), changes, clock)
    early = await keyring.key(caller_of(home))
    assert (early.version, (await late[0]).version) == (1, 2)
    assert at_once(keyring.key(caller_of(home))).version == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"service": "billing"},
        {"tenant_id": "somebody-else"},
        {"l2_key": l2_key("somebody-else")},
    ],
)
async def test_what_is_not_the_callers_is_not_there(
    keyring: CachedKeyring, home: Home, changed: dict[str, str]
) -> None:
    await keyring.key(caller_of(home))
    with pytest.raises(ObjectNotFound):
        await keyring.key(caller_of(home, **changed))


async def test_a_version_that_was_never_made_is_not_there(keyring: CachedKeyring, home: Home) -> None:
    for version in (0, 2, 2**32 - 1, -1):
        with pytest.raises(ObjectNotFound):
            await keyring.key(caller_of(home), version)


async def test_a_wrapped_key_that_was_moved_opens_nowhere_else(
    keyring: CachedKeyring, home: Home, world: World
) -> None:
    other = world.tenant()
    other.connect("orders")
    with world.worker.tenant_tx(other.tenant_id) as tx:
        theirs = tx.services.key("orders")
    assert theirs is not None
    home.new_key("orders", 2, theirs.wrapped)  # another tenant's
    home.new_key("orders", 3, home.wrapped_key("billing", 3))  # another service's
    home.new_key("orders", 4, home.wrapped_key("orders", 1))  # another version's
    home.new_key("orders", 5, b"\xff not even text")
    for version in (2, 3, 4, 5):
        with pytest.raises(KeyUnavailable):
            await keyring.key(caller_of(home), version)
    assert (await keyring.key(caller_of(home), 1)).version == 1


async def test_a_key_under_another_l2_than_the_tenants_own_is_not_opened(
    world: World, home: Home, keyring: CachedKeyring
) -> None:
    finance = f"L2-{home.tenant_id}-finance"
    with world.worker.tenant_tx(home.tenant_id) as tx:
        tx.keys.record(finance, "L2", 1)
        row = tx.services.key("orders")
        assert row is not None
        tx.services.record_key(replace(row, version=2, l2_key=finance, state=KeyState.DEACTIVATED))
    for l2 in (home.l2_key, finance):
        with pytest.raises(ObjectNotFound):
            await keyring.key(caller_of(home, l2_key=l2), 2)


async def test_something_of_another_size_is_no_key(keyring: CachedKeyring, home: Home, world: World) -> None:
    context = Context(home.tenant_id, home.l2_key, "orders", Purpose.SERVICE_KEY, "2")
    inner = world.tenant_keys.encrypt(context, b"too short")
    home.new_key("orders", 2, world.root.wrap(context, inner.encode()))
    with pytest.raises(KeyUnavailable):
        await keyring.key(caller_of(home), 2)


async def test_a_failure_is_the_answer_for_a_moment_and_then_it_is_tried_again(
    keyring: CachedKeyring, home: Home, world: World, looking: Looking, clock: Clock
) -> None:
    world.tenant_keys.disable(home.tenant_id)
    for _ in range(3):
        with pytest.raises(KeyUnavailable):
            await keyring.key(caller_of(home))
    assert looking.count == 1
    world.tenant_keys.ensure(home.tenant_id)
    clock.now += 1
    assert (await keyring.key(caller_of(home))).version == 1


async def test_a_failure_is_forgotten_with_the_next_change(
    keyring: CachedKeyring, home: Home, world: World, changes: Changes
) -> None:
    world.tenant_keys.disable(home.tenant_id)
    with pytest.raises(KeyUnavailable):
        await keyring.key(caller_of(home))
    world.tenant_keys.ensure(home.tenant_id)
    changes.tell(mark(home.tenant_id))
    assert (await keyring.key(caller_of(home))).version == 1


async def test_without_the_root_key_nothing_new_opens(world: World, home: Home, changes: Changes, clock: Clock) -> None:
    class Gone:
        """A customer's root key after the kill switch."""

        def unwrap(self, _context: Context, _wrapped: bytes) -> bytes:
            raise RootKeyDisabled

    before = len(world.key_server_requests())
    keyring = a_keyring(world, Looking(), changes, clock, Gone())  # type: ignore[arg-type]  # all the keyring calls
    with pytest.raises(RootKeyDisabled):
        await keyring.key(caller_of(home))
    assert world.key_server_requests()[before:] == []  # the inner layer is not even asked for


async def test_a_tenant_told_to_wait_is_not_held_to_that_answer(
    world: World, home: Home, changes: Changes, clock: Clock
) -> None:
    class Full:
        async def run(self, _tenant_id: str, _work: Any) -> Any:
            raise TooManyRequests

    keyring = a_keyring(world, Full(), changes, clock)
    with pytest.raises(TooManyRequests):
        await keyring.key(caller_of(home))
    threads = FairThreads()
    keyring._blocking = threads
    assert (await keyring.key(caller_of(home))).version == 1
    threads.close()


async def test_no_representation_shows_material(keyring: CachedKeyring, home: Home) -> None:
    key = await keyring.key(caller_of(home))
    shown = repr(key) + repr(keyring.__dict__) + str(keyring._tenants)
    assert repr(key.material)[2:-1] not in shown
    assert key.material.hex() not in shown


async def test_closing_leaves_nothing_behind(keyring: CachedKeyring, home: Home) -> None:
    await keyring.key(caller_of(home))
    keyring.close()
    assert keyring._tenants == {}
    gc.collect()
