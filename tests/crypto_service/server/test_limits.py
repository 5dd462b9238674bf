"""The limits of one tenant, with a clock that the test sets."""

import pytest

from core.errors.requests import TooManyRequests
from crypto_service.server.limits import TenantLimits
from tests.crypto_service.core.world import Clock
from tests.crypto_service.reference_cycles import fewer_objects_in_cycles_than


def take(limits: TenantLimits, tenant: str, times: int, cost: int = 1) -> int:
    """Return how many of `times` requests, each ended immediately, were admitted."""
    entered = 0
    for _ in range(times):
        try:
            limits.enter(tenant, cost)
        except TooManyRequests:
            continue
        limits.leave(tenant)
        entered += 1
    return entered


def test_tenant_gets_its_rate_and_burst_independent_of_others():
    clock = Clock(100.0)
    limits = TenantLimits(100, 10, clock)
    assert take(limits, "acme", 500) == 100
    clock.now += 0.25
    assert take(limits, "acme", 500) == 25
    clock.now += 60
    assert take(limits, "acme", 10_000) == 100
    assert take(limits, "beta", 100) == 100
    assert limits.refused == 400 + 475 + 9_900


def test_concurrent_requests_are_limited_and_a_rejected_one_costs_nothing():
    limits = TenantLimits(10, 2, Clock(100.0))
    limits.enter("acme")
    limits.enter("acme")
    for _ in range(50):
        with pytest.raises(TooManyRequests):
            limits.enter("acme")
    limits.enter("beta")
    limits.leave("acme")
    assert take(limits, "acme", 50) == 8


def test_batch_costs_its_items_and_one_above_the_burst_leaves_a_negative_balance():
    clock = Clock(100.0)
    limits = TenantLimits(100, 10, clock)
    assert take(limits, "acme", 3, cost=40) == 2
    clock.now += 10
    assert take(limits, "acme", 2, cost=300) == 1
    clock.now += 2.5
    assert take(limits, "acme", 100) == 50


def test_work_is_charged_beyond_the_request_and_may_leave_a_negative_balance():
    clock = Clock(100.0)
    limits = TenantLimits(100, 10, clock)
    limits.enter("acme")
    limits.charge("acme", 40, 0)
    limits.charge("acme", 900, 0)
    with pytest.raises(TooManyRequests):
        limits.charge("acme", 1, 0)
    clock.now += 8.4
    with pytest.raises(TooManyRequests):
        limits.charge("acme", 1, 0)
    clock.now += 0.5
    with pytest.raises(TooManyRequests):
        limits.charge("acme", 900, 0)
    limits.charge("acme", 20, 0)
    assert limits.refused == 3


@pytest.mark.parametrize("rate", [5, 50, 500, 20_000])
@pytest.mark.parametrize(("entry", "items"), [(1, 999), (33, 999), (384, 0)], ids=["https", "large https", "kmip"])
def test_largest_batch_is_admitted_at_each_rate_after_the_stated_time(rate: int, entry: int, items: int):
    """A repetition may be rejected twice: when it enters, and when the number of its items is known."""
    clock = Clock(100.0)
    limits = TenantLimits(rate, 10, clock)
    admitted = refused = 0
    while admitted < 20:
        try:
            limits.enter("acme", entry)
        except TooManyRequests as busy:
            refused += 1
            clock.now += busy.retry_after
            continue
        try:
            limits.charge("acme", items, entry)
            admitted += 1
            refused = 0
        except TooManyRequests as busy:
            refused += 1
            clock.now += busy.retry_after
        finally:
            limits.leave("acme")
        assert refused <= 2
    assert (entry + items) * (admitted - 1) <= rate * (clock.now - 100.0 + 1)


@pytest.mark.parametrize("rate", [5, 50, 500])
def test_work_of_a_batch_is_admitted_although_its_items_have_emptied_the_bucket(rate: int):
    clock = Clock(100.0)
    limits = TenantLimits(rate, 10, clock)
    limits.enter("acme", 128)
    limits.charge("acme", 40, 128)
    with pytest.raises(TooManyRequests) as busy:
        limits.enter("acme", 10 * rate)
    assert busy.value.retry_after * rate >= 168
    clock.now += busy.value.retry_after
    limits.enter("acme", 10 * rate)


def test_rejections_leave_no_reference_cycles():
    limits = TenantLimits(1, 1, Clock(100.0))
    assert take(limits, "acme", 1) == 1
    with fewer_objects_in_cycles_than(100):
        assert take(limits, "acme", 100) == 0
