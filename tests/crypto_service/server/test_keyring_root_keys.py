"""Service keys with a root key that is disabled, unreachable, or held by the customer."""

from dataclasses import dataclass

import pytest

from core.errors.keys import RootKeyDenied, RootKeyDisabled, RootKeyUnreachable
from core.keys.encryption_context import EncryptionContext
from crypto_service.keys.key_cache import ServiceKeyCache
from crypto_service.server.executor import FairExecutor
from kms.interfaces import RootKey
from openkcm.errors import OpenKcmError
from tests.concurrency import wait_until_async
from tests.crypto_service.core.world import Changes, Clock, CountingExecutor, Home, Shelf, World, a_keyring, at_once
from tests.crypto_service.keys.test_key_cache import clock, home
from tests.database.builders import a_place, a_root_key

__all__ = ["clock", "home"]  # fixtures that pytest finds by name


@dataclass
class ControlledRootKey:
    """A working root key that can be made to fail."""

    root: RootKey
    fails: OpenKcmError | None = None
    asked: int = 0

    def unwrap(self, context: EncryptionContext, wrapped: bytes) -> bytes:
        self.asked += 1
        if self.fails is not None:
            raise self.fails
        return self.root.unwrap(context, wrapped)


@pytest.fixture
def root_key(world: World) -> ControlledRootKey:
    return ControlledRootKey(world.own_root)


@pytest.fixture
def key_cache(world: World, changes: Changes, clock: Clock, root_key: ControlledRootKey) -> ServiceKeyCache:
    return a_keyring(world, FairExecutor(4), changes, clock, root_key)


async def test_key_in_use_is_unwrapped_again_in_the_background(
    key_cache: ServiceKeyCache, home: Home, clock: Clock, root_key: ControlledRootKey
) -> None:
    key = await key_cache.key(home.caller())
    clock.now += 29
    assert at_once(key_cache.key(home.caller())) == key
    clock.now += 2
    assert at_once(key_cache.key(home.caller())) == key
    kept = key_cache._tenants[home.tenant_id].entries
    await wait_until_async(lambda: root_key.asked == 2 and all(one.until == clock.now + 60 for one in kept.values()))
    clock.now += 59
    assert at_once(key_cache.key(home.caller())) == key


async def test_disabled_root_key_is_detected_without_any_other_process(
    key_cache: ServiceKeyCache, home: Home, clock: Clock, root_key: ControlledRootKey
) -> None:
    home.connect("billing")
    for service in ("orders", "billing"):
        await key_cache.key(home.caller(service))
    root_key.fails = RootKeyDisabled()
    clock.now += 31
    at_once(key_cache.key(home.caller()))
    await wait_until_async(lambda: root_key.asked == 3 and not key_cache._tenants[home.tenant_id].entries)
    for service in ("orders", "billing"):  # wrapped by the same root key, so both are dropped
        with pytest.raises(RootKeyDisabled):
            await key_cache.key(home.caller(service))


async def test_unreachable_root_key_leaves_cached_keys_until_they_expire(
    key_cache: ServiceKeyCache, home: Home, clock: Clock, root_key: ControlledRootKey
) -> None:
    key = await key_cache.key(home.caller())
    root_key.fails = RootKeyUnreachable()
    clock.now += 31
    assert at_once(key_cache.key(home.caller())) == key
    await wait_until_async(lambda: root_key.asked == 2)
    clock.now += 28
    assert at_once(key_cache.key(home.caller())) == key
    clock.now += 2
    with pytest.raises(RootKeyUnreachable):
        await key_cache.key(home.caller())


async def test_key_of_a_customers_root_key_is_unwrapped_only_by_it(
    world: World, home: Home, changes: Changes, clock: Clock
) -> None:
    """No other root key is used in its place, not even after its credentials were deleted."""
    root_key_id = a_root_key(world.field, home.tenant_id)
    asked: list[object] = []

    class Theirs(Shelf):
        def held(self, *of: object) -> RootKey:
            asked.append(of)
            raise RootKeyDisabled

        def platform(self, _region: str) -> RootKey:
            raise AssertionError("the platform's key was requested")

    keyring = a_keyring(world, CountingExecutor(), changes, clock)
    keyring._root_keys = Theirs(world.own_root)
    with pytest.raises(RootKeyDisabled):
        await keyring.key(home.caller())
    assert asked == [(home.tenant_id, root_key_id, a_place(), "credentials")]
    with world.field.administrator() as administrator:
        administrator.execute("update okcm.root_key set state = 'retired', credentials = null")
    clock.now += 1
    with pytest.raises(RootKeyDenied):
        await keyring.key(home.caller())
