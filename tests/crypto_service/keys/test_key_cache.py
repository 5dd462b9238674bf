"""Unwrapping of service keys: real database, real Transit, the permissions of the crypto service."""

import asyncio
from typing import Any

import pytest

from core.errors.keys import KeyUnavailable, RootKeyDisabled
from core.errors.platform import DatabaseUnavailable
from core.errors.requests import TooManyRequests
from core.errors.services import ObjectNotFound
from core.keys.encryption_context import EncryptionContext, Purpose
from core.keys.rotation import KeyState
from core.names import l2_key
from crypto_service.interfaces import ServiceKey
from crypto_service.keys.key_cache import ServiceKeyCache
from crypto_service.server.executor import FairExecutor
from database.postgres.change_feed import tenant_hash
from tests.concurrency import wait_until_async
from tests.crypto_service.core.world import (
    REGION,
    Changes,
    Clock,
    CountingExecutor,
    Home,
    Shelf,
    World,
    a_keyring,
    at_once,
    ignore_unwrap,
)


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


@pytest.fixture
def executor() -> CountingExecutor:
    return CountingExecutor()


@pytest.fixture
def keyring(world: World, executor: CountingExecutor, changes: Changes, clock: Clock) -> ServiceKeyCache:
    return a_keyring(world, executor, changes, clock)


@pytest.fixture
def home(world: World) -> Home:
    home = world.tenant()
    home.connect("orders")
    return home


async def test_unwrap_calls_each_layer_once(keyring: ServiceKeyCache, home: Home, world: World):
    await keyring.key(home.caller())  # the first call also includes the login of the process
    home.connect("billing")
    before, calls = len(world.key_server_requests()), world.key_server_calls()
    key = await keyring.key(home.caller("billing"))
    # The server logs the login inside the second call as a separate line.
    assert world.key_server_requests()[before:] == [
        f"transit/decrypt/root-{REGION}",
        "auth/jwt/login",
        f"transit/decrypt/{home.l2_key}",
    ]
    assert world.key_server_calls() - calls == 2
    assert (key.version, len(key.material)) == (1, 32)


async def test_cached_key_is_returned_without_any_server(
    keyring: ServiceKeyCache, home: Home, world: World, executor: CountingExecutor, changes: Changes
):
    key = await keyring.key(home.caller())
    with world.field.server.offline(world.field.name):
        assert at_once(keyring.key(home.caller())) == key
        assert at_once(keyring.key(home.caller(), 1)) == key
    assert executor.count == 1
    changes.tell(None)
    assert await keyring.key(home.caller()) == key
    home.connect("billing")
    assert (await keyring.key(home.caller("billing"))).material != key.material


async def test_concurrent_callers_share_one_unwrap_despite_a_cancellation(
    keyring: ServiceKeyCache, home: Home, executor: CountingExecutor
):
    first, *others = (asyncio.ensure_future(keyring.key(home.caller())) for _ in range(50))
    await asyncio.sleep(0)
    first.cancel()
    assert len({key.material for key in await asyncio.gather(*others)}) == 1
    assert executor.count == 1


async def test_key_is_cached_for_the_cache_time_only(
    keyring: ServiceKeyCache, home: Home, clock: Clock, executor: CountingExecutor
):
    await keyring.key(home.caller())
    clock.now += 59.9
    at_once(keyring.key(home.caller()))
    clock.now += 0.1
    await keyring.key(home.caller())
    assert executor.count == 2


async def test_notification_drops_only_the_keys_of_its_tenant(
    keyring: ServiceKeyCache, home: Home, world: World, changes: Changes
):
    other = world.tenant()
    other.connect("orders")
    await keyring.key(home.caller())
    await keyring.key(other.caller())
    changes.tell(tenant_hash(home.tenant_id))
    with world.field.server.offline(world.field.name):
        at_once(keyring.key(other.caller()))
        with pytest.raises(DatabaseUnavailable):
            await keyring.key(home.caller())


async def test_dropped_key_is_overwritten_and_never_in_a_representation(
    keyring: ServiceKeyCache, home: Home, changes: Changes
):
    key = await keyring.key(home.caller())
    shown = repr(key) + repr(keyring.__dict__) + str(keyring._tenants)
    assert repr(key.material)[2:-1] not in shown
    assert key.material.hex() not in shown
    (kept,) = {id(kept): kept for kept in keyring._tenants[home.tenant_id].entries.values()}.values()
    assert kept.material == key.material
    changes.tell(tenant_hash(home.tenant_id))
    assert kept.material == bytes(32)
    assert len(key.material) == 32  # a caller that is using the key keeps its copy
    assert key.material != bytes(32)
    await keyring.key(home.caller())
    keyring.close()
    assert keyring._tenants == {}


async def test_unused_key_is_overwritten_after_the_cache_time(world: World, home: Home, changes: Changes):
    shelf = Shelf(world.own_root)
    keyring = ServiceKeyCache(
        world.crypto, world.own_keys, shelf, CountingExecutor(), changes, cache_seconds=0.5, opened=ignore_unwrap
    )
    await keyring.key(home.caller())
    tenant = keyring._tenants[home.tenant_id]
    (kept,) = {id(kept): kept for kept in tenant.entries.values()}.values()
    await wait_until_async(lambda: (kept.material, tenant.entries) == (bytes(32), {}))


async def test_unwrap_in_progress_during_a_change_returns_the_new_key(
    world: World, home: Home, changes: Changes, clock: Clock
):
    late: list[asyncio.Task[ServiceKey]] = []

    async def change() -> None:
        await asyncio.to_thread(home.new_key, "orders", 2)
        changes.tell(tenant_hash(home.tenant_id))
        late.append(asyncio.ensure_future(keyring.key(home.caller())))
        await asyncio.sleep(0)

    keyring = a_keyring(world, CountingExecutor(after_first=change), changes, clock)
    early = await keyring.key(home.caller())
    assert (early.version, (await late[0]).version) == (2, 2)
    assert at_once(keyring.key(home.caller())).version == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"service": "billing"},
        {"tenant_id": "other-tenant"},
        {"l2_key": l2_key("other-tenant")},
    ],
)
async def test_key_of_another_caller_or_unknown_version_is_not_found(
    keyring: ServiceKeyCache, home: Home, changed: dict[str, str]
):
    await keyring.key(home.caller())
    with pytest.raises(ObjectNotFound):
        await keyring.key(home.caller(**changed))
    for version in (0, 2, 2**32 - 1, -1):
        with pytest.raises(ObjectNotFound):
            await keyring.key(home.caller(), version)


async def test_moved_or_wrongly_sized_wrapped_key_is_rejected(keyring: ServiceKeyCache, home: Home, world: World):
    other = world.tenant()
    other.connect("orders")
    with world.worker.tenant_tx(other.tenant_id) as tx:
        theirs = tx.services.key("orders")
    assert theirs is not None
    home.new_key("orders", 2, theirs.wrapped)  # another tenant's
    home.new_key("orders", 3, home.wrapped_key("billing", 3))  # another service's
    home.new_key("orders", 4, home.wrapped_key("orders", 1))  # another version's
    home.new_key("orders", 5, b"\xff not even text")
    context = EncryptionContext(home.tenant_id, home.l2_key, "orders", Purpose.SERVICE_KEY, "6")
    inner = world.tenant_keys.encrypt(context, b"too short")
    home.new_key("orders", 6, world.root.wrap(context, inner.encode()))
    for version in (2, 3, 4, 5, 6):
        with pytest.raises(KeyUnavailable):
            await keyring.key(home.caller(), version)
    assert (await keyring.key(home.caller(), 1)).version == 1


async def test_key_under_another_l2_is_not_found(world: World, home: Home, keyring: ServiceKeyCache):
    finance = f"L2-{home.tenant_id}-finance"
    with world.worker.tenant_tx(home.tenant_id) as tx:
        tx.keys.record(finance, "L2", 1)
        row = tx.services.key("orders")
        assert row is not None
        tx.services.record_key(row._replace(version=2, l2_key=finance, state=KeyState.DEACTIVATED))
    for l2 in (home.l2_key, finance):
        with pytest.raises(ObjectNotFound):
            await keyring.key(home.caller(l2_key=l2), 2)


@pytest.mark.parametrize("over", ["a moment", "a change"])
async def test_failure_is_cached_briefly_or_until_a_change(
    keyring: ServiceKeyCache, home: Home, changes: Changes, *, executor: CountingExecutor, clock: Clock, over: str
):
    keys = home.world.tenant_keys
    keys.disable(home.tenant_id)
    for _ in range(3):
        with pytest.raises(KeyUnavailable):
            await keyring.key(home.caller())
    assert executor.count == 1
    keys.ensure(home.tenant_id)
    if over == "a moment":
        clock.now += 1
    else:
        changes.tell(tenant_hash(home.tenant_id))
    assert (await keyring.key(home.caller())).version == 1


async def test_disabled_root_key_prevents_new_unwraps(world: World, home: Home, changes: Changes, clock: Clock):
    class Gone:
        """A customer's root key after it was disabled."""

        def unwrap(self, _context: EncryptionContext, _wrapped: bytes) -> bytes:
            raise RootKeyDisabled

    before = len(world.key_server_requests())
    keyring = a_keyring(world, CountingExecutor(), changes, clock, Gone())  # type: ignore[arg-type]  # all that is called
    with pytest.raises(RootKeyDisabled):
        await keyring.key(home.caller())
    assert world.key_server_requests()[before:] == []  # the inner layer is not requested


async def test_too_many_requests_is_not_cached(world: World, home: Home, changes: Changes, clock: Clock):
    class Full:
        async def run(self, _tenant_id: str, _work: Any) -> Any:
            raise TooManyRequests

    keyring = a_keyring(world, Full(), changes, clock)
    with pytest.raises(TooManyRequests):
        await keyring.key(home.caller())
    threads = FairExecutor()
    keyring._blocking = threads
    assert (await keyring.key(home.caller())).version == 1
    threads.close()
