"""The grace period on real servers: its restrictions, its notifications and both of its ends."""

from datetime import timedelta

import pytest

from core import names as ids
from core.errors.tenants import DestructionStarted, GracePeriodActive, InvalidTransition, OffboardingAlreadyScheduled
from core.messages.tenants import LeaveInput, LeaveReason, StatusChange
from core.names import CANARY_TENANT_ID
from core.notifications import NotificationKind
from core.tenants.lifecycle import State, Transition
from core.tenants.locks import LockReason
from openkcm.errors import IllegalTenantId

DAY = 24 * 3600.0


def test_offboarding_notifies_the_end_of_the_grace_period_and_destroys_nothing_before(leaving) -> None:
    begun = leaving.leave()
    assert (begun.state, begun.notification) == (State.LEAVING, NotificationKind.LEAVING)
    assert begun.until - begun.since == timedelta(days=30)
    assert (leaving.leaving.since, leaving.leaving.until) == (begun.since, begun.until)
    assert leaving.announced()[-2:] == ["offboarding-started", "offboarding-started"]
    assert f"{begun.until:%Y-%m-%d %H:%M} UTC" in leaving.read(lambda tx: tx.outbox.all()[-1][0].body)
    tenant_id = leaving.tenant_id
    assert leaving.keys_there() == {ids.l2_key(tenant_id), ids.ca_key(tenant_id), ids.payload_key(tenant_id)}
    # During the grace period no other status change is allowed and nothing is destroyed.
    for move in StatusChange:
        with pytest.raises(InvalidTransition):
            leaving.move(move)
    with pytest.raises(GracePeriodActive):
        leaving.run("start-destruction")
    leaving.restore()
    assert not leaving.run("start-destruction").begun
    assert leaving.tenant_row.state is State.ACTIVE


def test_repeated_request_joins_and_another_end_is_rejected(leaving) -> None:
    first = leaving.leave(grace_seconds=DAY)
    for request in ({}, {"grace_seconds": DAY}):
        again = leaving.leave(**request)
        assert (again.since, again.until, again.notification) == (first.since, first.until, None)
    for request in ({"grace_seconds": 2 * DAY}, {"now": True}):
        with pytest.raises(OffboardingAlreadyScheduled):
            leaving.leave(**request)
    assert leaving.leaving.until == first.until
    assert leaving.audited("tenant.offboarding_started") == [(leaving.tenant_id, "success")]
    leaving.tenant.assert_audited_once()


def test_restored_tenant_has_its_former_state_and_is_notified(leaving) -> None:
    leaving.read(lambda tx: (tx.tenants.move(Transition.SUSPEND), tx.tenants.hold(LockReason.MANUAL)))
    leaving.leave()
    for notification in (NotificationKind.RESTORED, None):
        restored = leaving.restore()
        assert (restored.state, restored.notification) == (State.LOCKED, notification)
    assert leaving.tenant_row.locks == (LockReason.MANUAL,)
    leaving.move(StatusChange.UNLOCK)
    assert leaving.tenant_row.state is State.SUSPENDED
    assert leaving.audited("tenant.restored") == [(leaving.tenant_id, "success")]


def test_reminder_is_stored_for_each_channel_and_not_after_a_restore(leaving) -> None:
    leaving.leave()
    leaving.run("remind-of-offboarding")
    leaving.run("remind-of-offboarding")
    assert leaving.announced().count("offboarding-reminder") == 2
    leaving.restore()
    leaving.number = 2
    leaving.run("remind-of-offboarding")
    assert leaving.announced().count("offboarding-reminder") == 2


def test_restore_is_rejected_once_destruction_has_begun(leaving) -> None:
    leaving.leave(now=True)
    leaving.through("start-destruction")
    with pytest.raises(DestructionStarted):
        leaving.restore()
    assert leaving.leave(now=True).state is State.LEAVING
    assert leaving.leave(reason=LeaveReason.MARKETPLACE).notification is None


def test_canary_tenant_cannot_be_offboarded(canary) -> None:
    step = LeaveInput(tenant_id=CANARY_TENANT_ID, operation_id="leave-1", now=True)
    with pytest.raises(IllegalTenantId):
        canary.run_with("start-offboarding", step)
    assert canary.tenant_row.state is State.ACTIVE
