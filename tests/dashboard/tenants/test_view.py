"""Available changes of a tenant's state, and the services that a lock stops."""

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
    return TENANT._replace(state=State.LOCKED, locks=reasons)


@pytest.mark.parametrize(
    ("tenant", "moves"),
    [
        (TENANT, (SUSPEND, LOCK)),
        (TENANT._replace(state=State.SUSPENDED), (RESUME, LOCK)),
        (locked(LockReason.MANUAL), (UNLOCK,)),
        (locked(LockReason.ROOT_KEY, LockReason.MANUAL), (UNLOCK,)),
        (locked(LockReason.ROOT_KEY), (LOCK,)),
        *((TENANT._replace(state=state), ()) for state in (State.REQUESTED, State.FAILED, State.LEAVING)),
    ],
)
def test_only_effective_changes_are_offered(tenant: TenantRow, moves: tuple[StatusChange, ...]) -> None:
    assert stopping.moves(tenant) == moves


def test_suspend_and_lock_are_distinguished() -> None:
    said = stopping.explained(TENANT)
    assert "allows decryption only" in said
    assert "rejects all requests" in said
    assert "an administrator and the root key" in stopping.explained(locked(LockReason.MANUAL, LockReason.ROOT_KEY))
    assert "an unknown reason" in stopping.explained(locked())
    assert "Not available" in stopping.explained(TENANT._replace(state=State.LEAVING))


def test_a_lock_stops_each_connected_service_listed_by_last_use() -> None:
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


def test_an_unlocked_tenant_shows_that_its_root_key_still_locks_it() -> None:
    assert "unlocks automatically when its root key works" in stopping.why_locked_still(locked(LockReason.ROOT_KEY))
    assert stopping.why_locked_still(TENANT) == ""


def test_a_tenant_locked_for_a_breach_cannot_be_unlocked_by_its_administrators() -> None:
    assert stopping.moves(locked(LockReason.BREACH)) == (LOCK,)
    assert stopping.moves(locked(LockReason.BREACH, LockReason.MANUAL)) == (UNLOCK,)
    for others in ((), (LockReason.MANUAL,), (LockReason.ROOT_KEY,), (LockReason.ROOT_KEY, LockReason.MANUAL)):
        tenant = locked(LockReason.BREACH, *others)
        assert "platform's operators remove the last one" in stopping.explained(tenant)
        assert "an isolation check failed" in stopping.why_locked_still(tenant)
        status = standing(State.LOCKED, tenant.locks)
        assert "a tenant isolation check failed" in status.meaning
        assert "all isolation checks have passed again" in status.advice
        assert ("at the top of any page" in status.advice) is (LockReason.MANUAL in others)
