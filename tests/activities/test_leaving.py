"""The grace on real servers: what works in it, who is told, how it ends either way."""

from datetime import timedelta

import pytest

from tenancy.errors import IllegalMove, IllegalTenantId
from tenancy.events import AnnouncementKind
from tenancy.ids import CANARY_TENANT_ID
from tenancy.leaving_errors import DestructionBegun, GraceNotOver, LeavingOtherwise
from tenancy.leaving_messages import LeaveInput, LeaveReason
from tenancy.lifecycle import Move, State
from tenancy.locks import LockReason
from tenancy.messages import StandingInput, StandingMove
from tests.activities.leaving import leaving, operator

__all__ = ["leaving", "operator"]  # fixtures that pytest finds here by their names

DAY = 24 * 3600.0


def test_leaving_says_until_when_it_can_be_undone_and_tells_the_customer(leaving) -> None:
    begun = leaving.leave()
    assert (begun.state, begun.told) == (State.LEAVING, AnnouncementKind.LEAVING)
    assert begun.until - begun.since == timedelta(days=30)
    assert (leaving.leaving.since, leaving.leaving.until) == (begun.since, begun.until)
    assert leaving.announced()[-2:] == ["leaving", "leaving"]
    with leaving.tenant.database.tenant_tx(leaving.tenant_id) as tx:
        told = tx.outbox.all()[-1][0]
    assert f"{begun.until:%Y-%m-%d %H:%M} UTC" in told.body
    assert leaving.keys_there() == {f"{kind}{leaving.tenant_id}{end}" for kind, end in KEYS}


KEYS = (("L2-", "-primary"), ("ca-", ""), ("payload-", ""))


def test_the_same_again_joins_and_another_end_is_refused(leaving) -> None:
    first = leaving.leave(grace_seconds=DAY)
    for request in ({}, {"grace_seconds": DAY}):
        again = leaving.leave(**request)
        assert (again.since, again.until, again.told) == (first.since, first.until, None)
    for request in ({"grace_seconds": 2 * DAY}, {"now": True}):
        with pytest.raises(LeavingOtherwise):
            leaving.leave(**request)
    assert leaving.leaving.until == first.until
    assert leaving.audited("tenant.leaving_begun") == [(leaving.tenant_id, "success")]
    leaving.tenant.assert_audited_once()


def test_a_restored_tenant_stands_as_it_did_and_is_told(leaving) -> None:
    with leaving.tenant.database.tenant_tx(leaving.tenant_id) as tx:
        tx.tenants.move(Move.SUSPEND)
        tx.tenants.hold(LockReason.SWITCH)
    leaving.leave()
    for told in (AnnouncementKind.RESTORED, None):
        restored = leaving.restore()
        assert (restored.state, restored.told) == (State.LOCKED, told)
    assert leaving.row.locks == (LockReason.SWITCH,)
    leaving.tenant.run_with(
        "change-standing",
        StandingInput(tenant_id=leaving.tenant_id, operation_id="unlock-1", move=StandingMove.UNLOCK),
    )
    assert leaving.row.state is State.SUSPENDED
    assert leaving.audited("tenant.restored") == [(leaving.tenant_id, "success")]


def test_a_reminder_is_stored_for_each_channel_and_never_for_one_who_is_back(leaving) -> None:
    leaving.leave()
    leaving.run("remind-of-leaving")
    leaving.run("remind-of-leaving")
    assert leaving.announced().count("leaving-reminder") == 2
    leaving.restore()
    leaving.number = 2
    leaving.run("remind-of-leaving")
    assert leaving.announced().count("leaving-reminder") == 2


def test_nothing_is_destroyed_while_the_grace_runs_whoever_asks(leaving) -> None:
    leaving.leave()
    with pytest.raises(GraceNotOver):
        leaving.run("begin-destruction")
    leaving.restore()
    begun = leaving.run("begin-destruction")
    assert not begun.begun
    assert leaving.row.state is State.ACTIVE


def test_behind_the_point_of_no_return_a_restore_is_refused(leaving) -> None:
    leaving.leave(now=True)
    leaving.through("begin-destruction")
    with pytest.raises(DestructionBegun):
        leaving.restore()
    assert leaving.leave(now=True).state is State.LEAVING
    assert leaving.leave(reason=LeaveReason.MARKETPLACE).told is None


def test_while_it_leaves_nothing_of_it_is_moved(leaving) -> None:
    leaving.leave()
    for move in StandingMove:
        with pytest.raises(IllegalMove):
            leaving.tenant.run_with(
                "change-standing", StandingInput(tenant_id=leaving.tenant_id, operation_id=f"{move}-9", move=move)
            )


def test_the_canary_never_leaves(canary) -> None:
    step = LeaveInput(tenant_id=CANARY_TENANT_ID, operation_id="leave-1", now=True)
    with pytest.raises(IllegalTenantId):
        canary.run_with("begin-leaving", step)
    with canary.database.tenant_tx(CANARY_TENANT_ID) as tx:
        row = tx.tenants.get()
    assert row is not None
    assert row.state is State.ACTIVE
