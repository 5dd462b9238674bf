"""The cache of managed objects: bounds in bytes, shares of the tenants, and expiry."""

from dataclasses import replace

import pytest

from crypto_service.kmip.objects.cache import ObjectCache
from crypto_service.kmip.objects.managed_object import ManagedObject, new
from database.services.managed_objects import ObjectRow
from tests.crypto_service.core.world import Clock

ROW = ObjectRow(
    object_id="1",
    service="orders",
    l2_key="L2-acme-primary",
    object_type=2,
    state=2,
    names=(),
    attributes=b"",
    key_version=1,
    material=b"",
    revision=1,
)
_OVERHEAD = 2_048


def an_object(number: int, size: int) -> ManagedObject:
    return replace(new(ROW, (), 0), row=ROW._replace(object_id=str(number), material=bytes(size - _OVERHEAD)))


@pytest.fixture
def clock() -> Clock:
    return Clock(100.0)


@pytest.fixture
def cache(clock: Clock) -> ObjectCache:
    return ObjectCache(60.0, 50_000, 120_000, clock)


def held(cache: ObjectCache, tenant: str, numbers: range) -> list[int]:
    return [number for number in numbers if cache.get(tenant, "orders", str(number)) is not None]


def test_tenant_at_its_bound_loses_its_oldest_objects_and_takes_nothing_from_others(cache: ObjectCache):
    cache.store("beta", an_object(1, 40_000))
    for number in range(10):
        cache.store("acme", an_object(number, 20_000))
    assert held(cache, "acme", range(10)) == [8, 9]
    assert held(cache, "beta", range(2)) == [1]
    assert cache.size == 80_000


def test_largest_tenant_pays_when_all_together_are_at_the_bound(cache: ObjectCache):
    cache.store("small", an_object(1, 10_000))
    for number in range(5):
        for tenant in ("acme", "beta", "gamma"):
            cache.store(tenant, an_object(number, 10_000))
    assert cache.size <= 120_000
    assert held(cache, "small", range(2)) == [1]
    for tenant in ("acme", "beta", "gamma"):
        assert len(held(cache, tenant, range(5))) >= 3


def test_expired_and_forgotten_objects_take_no_memory(cache: ObjectCache, clock: Clock):
    cache.store("acme", an_object(1, 20_000))
    clock.now += 30
    cache.store("acme", an_object(2, 20_000))
    cache.store("beta", an_object(1, 20_000))
    clock.now += 30
    assert held(cache, "acme", range(3)) == [2]
    cache.store("beta", an_object(2, 10_000))
    assert cache.size == 50_000
    cache.forget("acme")
    assert (cache.size, held(cache, "beta", range(3))) == (30_000, [1, 2])
    cache.forget("unknown")
    cache.forget(None)
    assert cache.size == 0
    assert not cache._by_age


def test_replaced_object_counts_once_and_one_above_the_bound_is_not_stored(cache: ObjectCache):
    for size in (10_000, 20_000, 15_000):
        cache.store("acme", an_object(1, size))
    assert cache.size == 15_000
    cache.store("acme", an_object(2, 50_001))
    assert held(cache, "acme", range(3)) == []
    assert cache.size == 0


def test_object_of_another_service_or_tenant_is_not_found(cache: ObjectCache):
    cache.store("acme", an_object(1, 10_000))
    assert cache.get("acme", "billing", "1") is None
    assert cache.get("beta", "orders", "1") is None
