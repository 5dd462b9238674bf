"""`openkcmctl tenant offboard` and `openkcmctl tenant restore`: what is asked, what is read back, and what is never done by mistake."""

from datetime import UTC, datetime, timedelta

import pytest

from core.errors.tenants import DestructionStarted, TenantOffboarded
from core.messages.tenants import LeaveReason, OffboardRequest
from openkcm.errors import InvalidName, OpenKcmError
from tests.dashboard.scene import ACME

YES = ("--confirm", ACME)


def test_offboarding_answers_with_the_state_and_until_when_it_can_be_undone(desk) -> None:
    document = desk.run("tenant", "offboard", ACME, "--grace", "12h", *YES)
    assert (document["tenant_id"], document["state"]) == (ACME, "leaving")
    assert document["operation"] == f"tenant/{ACME}/offboard"
    leaving = document["leaving"]
    since, until = (datetime.fromisoformat(leaving[at]) for at in ("since", "until"))
    assert (until - since, leaving["restorable"], leaving["destroying_at"]) == (timedelta(hours=12), True, None)
    assert desk.gateway.left[0].grace_seconds == 12 * 3600
    assert (desk.gateway.left[0].now, desk.gateway.left[0].reason) == (False, LeaveReason.OPERATOR)
    assert desk.run("tenant", "show", ACME)["leaving"] == leaving
    assert "it can be restored until" in desk.invoke("tenant", "show", ACME).stdout


def test_without_a_grace_of_its_own_it_takes_the_usual_one_and_now_takes_none(desk) -> None:
    desk.run("tenant", "offboard", ACME, *YES)
    assert desk.gateway.left[0].grace_seconds is None
    desk.run("tenant", "restore", ACME)
    desk.run("tenant", "offboard", ACME, "--now", *YES)
    assert desk.gateway.left[1].now


def test_restoring_answers_with_where_the_tenant_is_again(desk) -> None:
    desk.run("tenant", "suspend", ACME)
    desk.run("tenant", "offboard", ACME, *YES)
    document = desk.run("tenant", "restore", ACME)
    assert (document["state"], document["leaving"], document["operation"]) == ("suspended", None, f"tenant/{ACME}")
    assert desk.run("tenant", "show", ACME)["leaving"] is None


def test_a_dry_run_lists_what_stops_and_what_is_destroyed_and_changes_nothing(desk) -> None:
    before = datetime.now(UTC)
    document = desk.run("tenant", "offboard", ACME, "--grace", "2d", "--dry-run")
    assert [service["service_id"] for service in document["would_stop"]] == ["orders"]
    assert {one["kind"] for one in document["would_destroy"]} == {"L2", "CA", "service key"}
    until = datetime.fromisoformat(document["restorable_until"])
    assert before + timedelta(days=2) <= until <= datetime.now(UTC) + timedelta(days=2)
    assert desk.gateway.asked == []
    assert desk.run("tenant", "show", ACME)["state"] == "active"
    shown = desk.invoke("tenant", "offboard", ACME, "--dry-run").stdout
    assert "destroyed for good" in shown
    assert "nothing was changed" in shown


@pytest.mark.parametrize("grace", ["", "0d", "400d", "soon"])
def test_a_grace_that_is_none_is_refused(desk, grace) -> None:
    with pytest.raises(InvalidName):
        desk.run("tenant", "offboard", ACME, "--grace", grace, *YES)
    assert desk.gateway.asked == []


def test_a_grace_and_none_at_once_is_refused(desk) -> None:
    with pytest.raises(OpenKcmError) as refused:
        desk.run("tenant", "offboard", ACME, "--grace", "1d", "--now", *YES)
    assert refused.value.code == "grace_unclear"


def test_behind_the_point_of_no_return_a_restore_is_refused_before_anybody_is_asked(desk) -> None:
    desk.run("tenant", "offboard", ACME, "--now", *YES)
    with desk.worker.tenant_tx(ACME) as tx:
        assert tx.leaving.begin_destruction(datetime.now(UTC) + timedelta(seconds=1))
    with pytest.raises(DestructionStarted):
        desk.run("tenant", "restore", ACME)
    assert desk.gateway.asked == [f"offboard {ACME} operator"]
    assert "nothing can be restored" in desk.invoke("tenant", "show", ACME).stdout


def test_one_that_has_left_does_neither(desk) -> None:
    desk.run("tenant", "offboard", ACME, "--now", *YES)
    with desk.worker.tenant_tx(ACME) as tx:
        tx.leaving.begin_destruction(datetime.now(UTC) + timedelta(seconds=1))
        tx.leaving.end()
    for words in (
        ("tenant", "offboard", ACME, *YES),
        ("tenant", "offboard", ACME, "--dry-run"),
        ("tenant", "restore", ACME),
    ):
        with pytest.raises(TenantOffboarded):
            desk.run(*words)
    assert "everything was destroyed" in desk.invoke("tenant", "show", ACME).stdout


def test_waiting_ends_when_everything_is_destroyed_or_its_time_is_over(desk) -> None:
    words = ("tenant", "offboard", ACME, "--now", "--wait", *YES)
    with pytest.raises(OpenKcmError) as late:
        desk.run(*words, "--timeout", "0")
    assert late.value.code == "not_destroyed_in_time"
    desk.run("tenant", "restore", ACME)
    offboard = desk.gateway.offboard

    def offboard_and_destroy(tenant_id: str, request: OffboardRequest) -> None:
        offboard(tenant_id, request)
        with desk.worker.tenant_tx(tenant_id) as tx:
            tx.leaving.begin_destruction(datetime.now(UTC) + timedelta(seconds=1))
            tx.leaving.end()

    desk.gateway.offboard = offboard_and_destroy
    assert desk.run(*words)["state"] == "offboarded"
    assert desk.invoke("tenant", "offboard", ACME, "--wait", *YES).exit_code == 2


def test_the_platforms_own_tenant_cannot_be_named(desk) -> None:
    with pytest.raises(OpenKcmError) as refused:
        desk.run("tenant", "offboard", "openkcm-canary", "--confirm", "openkcm-canary")
    assert refused.value.code == "illegal_tenant_id"
