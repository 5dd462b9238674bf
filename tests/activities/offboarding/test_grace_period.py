"""The grace period on real servers: its restrictions, its notifications and both of its ends."""

from datetime import UTC, datetime, timedelta

import pytest

from core import names as ids
from core.errors.tenants import (
    DestructionStarted,
    EventSuperseded,
    GracePeriodActive,
    InvalidTransition,
    OffboardingAlreadyScheduled,
    OperationRepeated,
    RestorePending,
)
from core.messages.tenants import LeaveInput, LeaveReason, StatusChange
from core.names import CANARY_TENANT_ID
from core.notifications import NotificationKind
from core.tenants.lifecycle import State, Transition
from core.tenants.locks import LockReason
from core.tenants.provisioning import EventKind, Step
from openkcm.errors import IllegalTenantId
from tests.activities.offboarding.leaving import Leaving
from tests.database.fixtures import Field

DAY = 24 * 3600.0
ENABLED, DISABLED, DISCOVERED = EventKind.SERVICE_ENABLED, EventKind.SERVICE_DISABLED, EventKind.SERVICE_DISCOVERED


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


def test_active_tenant_is_not_restored(leaving) -> None:
    recorded = leaving.records()
    with pytest.raises(InvalidTransition):
        leaving.restore()
    assert leaving.records() == recorded


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


def test_late_attempts_neither_offboard_a_restored_tenant_nor_restore_an_offboarding_one(leaving) -> None:
    leaving.leave()
    leaving.restore()
    recorded = leaving.records()
    with pytest.raises(OperationRepeated):
        leaving.leave()
    assert (leaving.tenant_row.state, leaving.records()) == (State.ACTIVE, recorded)
    leaving.number = 2
    leaving.leave()
    leaving.number = 1
    with pytest.raises(OperationRepeated):
        leaving.restore()
    assert leaving.tenant_row.state is State.LEAVING


def test_late_attempt_of_an_earlier_offboarding_does_not_join_a_later_one(leaving) -> None:
    """The caller of the late attempt would take the end of the later offboarding for the end of the earlier one."""
    leaving.leave()
    leaving.restore()
    leaving.number = 2
    begun = leaving.leave(grace_seconds=DAY)
    recorded = leaving.records()
    leaving.number = 1
    with pytest.raises(OperationRepeated):
        leaving.leave()
    assert (leaving.leaving.until, leaving.records()) == (begun.until, recorded)
    leaving.number = 2
    assert leaving.leave(grace_seconds=DAY).until == begun.until


def test_late_attempt_of_a_joined_request_does_not_offboard_a_restored_tenant(leaving) -> None:
    leaving.leave()
    leaving.number = 2
    for _ in range(2):
        leaving.leave(reason=LeaveReason.CUSTOMER)
    assert leaving.audited("tenant.offboarding_started") == [(leaving.tenant_id, "success")]
    [joined] = leaving.records("tenant.offboarding_joined")
    assert (joined["details"]["asked_by"], joined["details"]["until"]) == (
        "customer",
        leaving.leaving.until.isoformat(),
    )
    leaving.restore()
    with pytest.raises(OperationRepeated):
        leaving.leave(reason=LeaveReason.CUSTOMER)
    assert leaving.tenant_row.state is State.ACTIVE
    leaving.number = 3
    leaving.leave()
    leaving.number = 2
    with pytest.raises(OperationRepeated):
        leaving.leave(reason=LeaveReason.CUSTOMER)
    leaving.tenant.assert_audited_once()


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


# ── marketplace ──────────────────────────────────────────────────────────────────────────────────────────────────────


def minutes(number: int) -> datetime:
    """Return a time of the last hour."""
    return datetime.now(UTC) - timedelta(hours=1) + timedelta(minutes=number)


@pytest.fixture
def leaving(leaving: Leaving, field: Field) -> Leaving:
    """Return a tenant that the marketplace enabled a day ago."""
    with field.administrator() as administrator:
        administrator.execute("update okcm.marketplace_event set occurred_at = occurred_at - interval '1 day'")
    return leaving


@pytest.mark.parametrize("events", [[(DISABLED, 1), (ENABLED, 2)], [(ENABLED, 2), (DISABLED, 1)]])
def test_disable_that_a_later_enable_revokes_does_not_offboard(leaving, events) -> None:
    """The events arrive in order and out of order; the time at the marketplace decides."""
    for kind, number in events:
        leaving.accept(kind, minutes(number))
    with pytest.raises(EventSuperseded):
        leaving.leave(reason=LeaveReason.MARKETPLACE)
    with pytest.raises(EventSuperseded):
        leaving.leave(reason=LeaveReason.MARKETPLACE, now=True)
    assert leaving.tenant_row.state is State.ACTIVE
    assert leaving.records("tenant.offboarding") == []


def test_nothing_is_destroyed_after_an_enable_that_no_workflow_has_received_yet(leaving) -> None:
    """Temporal was down at the end of the grace period."""
    leaving.accept(DISABLED, minutes(1))
    leaving.leave(now=True)
    leaving.accept(ENABLED, minutes(2))
    with pytest.raises(RestorePending):
        leaving.run("start-destruction")
    leaving.restore(LeaveReason.MARKETPLACE)
    assert not leaving.run("start-destruction").begun
    leaving.number = 2
    leaving.leave(now=True)  # an operator decides against the enable, which is older
    assert leaving.run("start-destruction").begun


@pytest.mark.parametrize(("first", "last"), [(DISABLED, ENABLED), (ENABLED, DISABLED)])
def test_event_with_a_time_in_the_future_does_not_outrank_later_events(leaving, first, last) -> None:
    leaving.accept(first, datetime(2099, 1, 1, tzinfo=UTC))
    leaving.accept(last, datetime.now(UTC))
    assert leaving.read(lambda tx: tx.leaving.last_word()) is last


def test_discovered_service_does_not_revoke_a_disable(leaving) -> None:
    leaving.accept(DISABLED, minutes(1))
    leaving.accept(DISCOVERED, minutes(2))
    assert leaving.leave(reason=LeaveReason.MARKETPLACE).state is State.LEAVING


def test_claimed_event_of_the_marketplace_without_a_record_does_not_offboard(leaving) -> None:
    with pytest.raises(EventSuperseded):
        leaving.leave(reason=LeaveReason.MARKETPLACE)
    assert leaving.tenant_row.state is State.ACTIVE


def test_enable_that_a_later_disable_revokes_does_not_restore(leaving) -> None:
    leaving.accept(DISABLED, minutes(2))
    leaving.accept(ENABLED, minutes(1))
    leaving.leave(reason=LeaveReason.MARKETPLACE)
    with pytest.raises(EventSuperseded):
        leaving.restore(LeaveReason.MARKETPLACE)
    assert leaving.tenant_row.state is State.LEAVING
    leaving.accept(ENABLED, minutes(3))
    assert leaving.restore(LeaveReason.MARKETPLACE).state is State.ACTIVE


def test_restore_by_an_operator_revokes_the_disable_before_it(leaving) -> None:
    leaving.accept(DISABLED, minutes(1))
    leaving.leave(reason=LeaveReason.MARKETPLACE)
    leaving.restore()
    leaving.number = 2
    with pytest.raises(EventSuperseded):
        leaving.leave(reason=LeaveReason.MARKETPLACE)
    leaving.accept(DISABLED, minutes(2))
    assert leaving.leave(reason=LeaveReason.MARKETPLACE).state is State.LEAVING


# ── other states ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_failed_tenant_is_restored_as_failed_or_destroyed(tenant, vault_admin) -> None:
    for step in (Step.OPEN_RECORDS, Step.CREATE_KEYS, Step.CREATE_AUTHORITY):
        tenant.run(step)
    for rollback in ("disable-tenant-key", "disable-ca"):
        tenant.run(rollback)
    tenant.run("record-failure", code="vault_refused", reason="check-isolation")
    leaving = Leaving.of(tenant, vault_admin)
    leaving.leave()
    assert leaving.restore().state is State.FAILED
    assert leaving.restore().state is State.FAILED
    leaving.number = 2
    leaving.leave(now=True)
    leaving.through()
    assert leaving.keys_there() == set()
    assert leaving.tenant_row.state is State.OFFBOARDED
    kinds = {one["kind"] for one in leaving.statement()["destroyed"]}
    assert kinds == {"L2 tenant key", "payload key", "certificate authority key"}


def test_tenant_whose_first_step_failed_is_offboarded_without_a_key(tenant, vault_admin) -> None:
    tenant.run(Step.OPEN_RECORDS)
    tenant.run("record-failure", code="vault_refused", reason="create-keys")
    leaving = Leaving.of(tenant, vault_admin)
    leaving.leave(now=True)
    leaving.through()
    assert leaving.tenant_row.state is State.OFFBOARDED
    assert leaving.statement()["destroyed"] == []


def test_canary_tenant_cannot_be_offboarded(canary) -> None:
    step = LeaveInput(tenant_id=CANARY_TENANT_ID, operation_id="leave-1", now=True)
    with pytest.raises(IllegalTenantId):
        canary.run_with("start-offboarding", step)
    assert canary.tenant_row.state is State.ACTIVE
