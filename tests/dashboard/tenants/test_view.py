"""What can be asked of a tenant's standing, and what is said to stop before it does."""

from dataclasses import replace

import pytest

from core.messages.tenants import StatusChange
from core.services import ServiceState
from core.tenants.lifecycle import State
from core.tenants.locks import LockReason
from dashboard.components.tenant_status import standing
from dashboard.tenants import view as stopping
from database.tenants import TenantRow
from tests.dashboard.held import HOUR, NOW, TENANT, a_service

SUSPEND, RESUME, LOCK, UNLOCK, _ = StatusChange


def locked(*reasons: LockReason) -> TenantRow:
    return replace(TENANT, state=State.LOCKED, locks=reasons)


@pytest.mark.parametrize(
    ("tenant", "moves"),
    [
        (TENANT, (SUSPEND, LOCK)),
        (replace(TENANT, state=State.SUSPENDED), (RESUME, LOCK)),
        (locked(LockReason.SWITCH), (UNLOCK,)),
        (locked(LockReason.ROOT_KEY, LockReason.SWITCH), (UNLOCK,)),
        (locked(LockReason.ROOT_KEY), (LOCK,)),
        *((replace(TENANT, state=state), ()) for state in (State.REQUESTED, State.FAILED, State.LEAVING)),
    ],
)
def test_only_what_changes_something_is_offered(tenant: TenantRow, moves: tuple[StatusChange, ...]) -> None:
    assert stopping.moves(tenant) == moves


def test_suspending_and_locking_are_told_apart() -> None:
    said = stopping.explained(TENANT)
    assert "decrypt only" in said
    assert "no key opens" in said
    assert "the kill switch and the root key" in stopping.explained(locked(LockReason.SWITCH, LockReason.ROOT_KEY))
    assert "not on record" in stopping.explained(locked())
    assert "nothing to stop" in stopping.explained(replace(TENANT, state=State.LEAVING))


def test_what_stops_is_each_connected_service_the_last_used_first() -> None:
    lines = stopping.stops(
        [
            a_service("a"),
            a_service("b", last_seen_at=NOW - 2 * HOUR),
            a_service("c", last_seen_at=NOW - HOUR),
            a_service("d", ServiceState.DISCONNECTED, last_seen_at=NOW),
        ],
        NOW,
    )
    assert [line.partition(",")[0] for line in lines] == ["**c**", "**b**", "**a**"]
    assert lines[0] == "**c**, MongoDB cluster: last used 25 Nov 2026, 11:00 UTC (1 hour ago)"
    assert lines[2].endswith("not used so far")


def test_many_services_are_counted() -> None:
    lines = stopping.stops([a_service(f"service-{number}") for number in range(25)], NOW)
    assert len(lines) == 21
    assert lines[-1] == "and 5 more services"


def test_an_unlocked_tenant_that_its_root_key_locks_says_so() -> None:
    assert "stays locked until its root key works" in stopping.why_locked_still(locked(LockReason.ROOT_KEY))
    assert stopping.why_locked_still(TENANT) == ""


def test_a_tenant_that_the_platform_locked_for_a_breach_can_be_opened_by_nobody_here() -> None:
    assert stopping.moves(locked(LockReason.BREACH)) == (LOCK,)
    assert stopping.moves(locked(LockReason.BREACH, LockReason.SWITCH)) == (UNLOCK,)
    for others in ((), (LockReason.SWITCH,), (LockReason.ROOT_KEY,), (LockReason.ROOT_KEY, LockReason.SWITCH)):
        tenant = locked(LockReason.BREACH, *others)
        assert "your platform's operators' to release" in stopping.explained(tenant)
        assert "a wall that did not hold" in stopping.why_locked_still(tenant)
        told = standing(State.LOCKED, tenant.locks)
        assert "was not refused, so we locked it" in told.meaning
        assert "a later examination found every wall standing" in told.advice
        assert ("unlocks it on the page Keys" in told.advice) is (LockReason.SWITCH in others)
