"""Service keys under a root key that is taken away, is out of reach, or is the customer's own."""

from dataclasses import dataclass

import pytest

from core.errors.keys import RootKeyDenied, RootKeyDisabled, RootKeyUnreachable
from core.keys.encryption_context import EncryptionContext
from crypto_service.keys.key_cache import ServiceKeyCache
from crypto_service.server.executor import FairExecutor
from kms.interfaces import RootKey
from openkcm.errors import OpenKcmError
from tests.concurrency import wait_until_async
from tests.crypto_service.core.world import Changes, Clock, Home, Looking, Shelf, World, a_keyring, at_once
from tests.crypto_service.keys.test_key_cache import clock, home
from tests.database.builders import a_place, a_root_key

__all__ = ["clock", "home"]  # fixtures that pytest finds here by their names


@dataclass
class Fickle:
    """A root key that can be taken away, over one that works."""

    root: RootKey
    fails: OpenKcmError | None = None
    asked: int = 0

    def unwrap(self, context: EncryptionContext, wrapped: bytes) -> bytes:
        self.asked += 1
        if self.fails is not None:
            raise self.fails
        return self.root.unwrap(context, wrapped)


@pytest.fixture
def fickle(world: World) -> Fickle:
    return Fickle(world.own_root)


@pytest.fixture
def aging(world: World, changes: Changes, clock: Clock, fickle: Fickle) -> ServiceKeyCache:
    return a_keyring(world, FairExecutor(4), changes, clock, fickle)


async def test_a_key_in_use_is_opened_again_at_half_its_time_and_nobody_waits(
    aging: ServiceKeyCache, home: Home, clock: Clock, fickle: Fickle
) -> None:
    key = await aging.key(home.caller())
    clock.now += 29
    assert at_once(aging.key(home.caller())) == key
    clock.now += 2
    assert at_once(aging.key(home.caller())) == key
    kept = aging._tenants[home.tenant_id].kept
    await wait_until_async(lambda: fickle.asked == 2 and all(one.until == clock.now + 60 for one in kept.values()))
    clock.now += 59
    assert at_once(aging.key(home.caller())) == key


async def test_a_root_key_that_was_taken_away_is_noticed_without_any_other_process(
    aging: ServiceKeyCache, home: Home, clock: Clock, fickle: Fickle
) -> None:
    home.connect("billing")
    for service in ("orders", "billing"):
        await aging.key(home.caller(service))
    fickle.fails = RootKeyDisabled()
    clock.now += 31
    at_once(aging.key(home.caller()))
    await wait_until_async(lambda: fickle.asked == 3 and not aging._tenants[home.tenant_id].kept)
    for service in ("orders", "billing"):  # under the same root key, so that one goes too
        with pytest.raises(RootKeyDisabled):
            await aging.key(home.caller(service))


async def test_a_root_key_out_of_reach_leaves_what_is_open_for_the_rest_of_its_time(
    aging: ServiceKeyCache, home: Home, clock: Clock, fickle: Fickle
) -> None:
    key = await aging.key(home.caller())
    fickle.fails = RootKeyUnreachable()
    clock.now += 31
    assert at_once(aging.key(home.caller())) == key
    await wait_until_async(lambda: fickle.asked == 2)
    clock.now += 28
    assert at_once(aging.key(home.caller())) == key
    clock.now += 2
    with pytest.raises(RootKeyUnreachable):
        await aging.key(home.caller())


async def test_a_key_under_a_customers_root_key_is_opened_by_that_one_alone(
    world: World, home: Home, changes: Changes, clock: Clock
) -> None:
    """No other root key is ever asked in its place, not even when its credentials are gone."""
    root_key_id = a_root_key(world.field, home.tenant_id)
    asked: list[object] = []

    class Theirs(Shelf):
        def held(self, *of: object) -> RootKey:
            asked.append(of)
            raise RootKeyDisabled

        def platform(self, _region: str) -> RootKey:
            raise AssertionError("the platform's key was asked")

    keyring = a_keyring(world, Looking(), changes, clock)
    keyring._shelf = Theirs(world.own_root)
    with pytest.raises(RootKeyDisabled):
        await keyring.key(home.caller())
    assert asked == [(home.tenant_id, root_key_id, a_place(), "credentials")]
    with world.field.administrator() as administrator:
        administrator.execute("update okcm.root_key set state = 'retired', credentials = null")
    clock.now += 1
    with pytest.raises(RootKeyDenied):
        await keyring.key(home.caller())
