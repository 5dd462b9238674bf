"""What one tenant may take, by a clock that stands still until it is moved."""

import pytest

from core.errors.requests import TooManyRequests
from crypto_service.server.limits import TenantLimits
from tests.crypto_service.core.world import Clock


def take(limits: TenantLimits, tenant: str, times: int, cost: int = 1) -> int:
    """Return how many of `times` requests, each ended at once, were let in."""
    entered = 0
    for _ in range(times):
        try:
            limits.enter(tenant, cost)
        except TooManyRequests:
            continue
        limits.leave(tenant)
        entered += 1
    return entered


def test_a_tenant_gets_its_rate_and_a_burst_of_one_second_and_takes_nothing_from_another():
    clock = Clock(100.0)
    limits = TenantLimits(100, 10, clock)
    assert take(limits, "acme", 500) == 100
    clock.now += 0.25
    assert take(limits, "acme", 500) == 25
    clock.now += 60
    assert take(limits, "acme", 10_000) == 100
    assert take(limits, "beta", 100) == 100
    assert limits.refused == 400 + 475 + 9_900


def test_places_are_taken_until_they_are_given_back_and_a_refused_request_costs_nothing():
    limits = TenantLimits(10, 2, Clock(100.0))
    limits.enter("acme")
    limits.enter("acme")
    for _ in range(50):
        with pytest.raises(TooManyRequests):
            limits.enter("acme")
    limits.enter("beta")
    limits.leave("acme")
    assert take(limits, "acme", 50) == 8


def test_a_batch_costs_what_it_holds_and_one_above_the_burst_leaves_a_debt():
    clock = Clock(100.0)
    limits = TenantLimits(100, 10, clock)
    assert take(limits, "acme", 3, cost=40) == 2
    clock.now += 10
    assert take(limits, "acme", 2, cost=300) == 1
    clock.now += 2.5
    assert take(limits, "acme", 100) == 50
