"""`openkcmctl tenant offboard` and `restore`: requests, resulting states, and protection against mistakes."""

from datetime import UTC, datetime, timedelta

import pytest

from core.errors.tenants import DestructionStarted, TenantOffboarded
from core.messages.tenants import LeaveReason, OffboardRequest
from openkcm.errors import InvalidName, OpenKcmError
from tests.dashboard.scene import ACME

YES = ("--confirm", ACME)


def test_offboard_returns_the_state_and_the_end_of_the_grace_period(operator_cli) -> None:
    document = operator_cli.run("tenant", "offboard", ACME, "--grace", "12h", *YES)
    assert (document["tenant_id"], document["state"]) == (ACME, "offboarding")
    assert document["operation"] == f"tenant/{ACME}/offboard"
    leaving = document["leaving"]
    since, until = (datetime.fromisoformat(leaving[at]) for at in ("since", "until"))
    assert (until - since, leaving["restorable"], leaving["destroying_at"]) == (timedelta(hours=12), True, None)
    assert operator_cli.gateway.left[0].grace_seconds == 12 * 3600
    assert (operator_cli.gateway.left[0].now, operator_cli.gateway.left[0].reason) == (False, LeaveReason.OPERATOR)
    assert operator_cli.run("tenant", "show", ACME)["leaving"] == leaving
    assert "it can be restored until" in operator_cli.invoke("tenant", "show", ACME).stdout


def test_offboard_without_grace_uses_the_default_and_now_has_no_grace_period(operator_cli) -> None:
    operator_cli.run("tenant", "offboard", ACME, *YES)
    assert operator_cli.gateway.left[0].grace_seconds is None
    operator_cli.run("tenant", "restore", ACME)
    plan = operator_cli.run("tenant", "offboard", ACME, "--now", "--dry-run")
    assert plan["restorable_until"] is None
    assert "destroyed irreversibly at once" in operator_cli.invoke(
        "tenant", "offboard", ACME, "--now", "--dry-run"
    ).stdout.replace("\n", " ")
    document = operator_cli.run("tenant", "offboard", ACME, "--now", *YES)
    assert operator_cli.gateway.left[1].now
    assert not document["leaving"]["restorable"]


def test_restore_returns_the_restored_state(operator_cli) -> None:
    operator_cli.run("tenant", "suspend", ACME)
    operator_cli.run("tenant", "offboard", ACME, *YES)
    document = operator_cli.run("tenant", "restore", ACME)
    assert (document["state"], document["leaving"], document["operation"]) == ("suspended", None, f"tenant/{ACME}")
    assert operator_cli.run("tenant", "show", ACME)["leaving"] is None


def test_a_dry_run_lists_affected_services_and_keys_and_changes_nothing(operator_cli) -> None:
    before = datetime.now(UTC)
    document = operator_cli.run("tenant", "offboard", ACME, "--grace", "2d", "--dry-run")
    assert [service["service_id"] for service in document["would_stop"]] == ["orders"]
    assert {one["kind"] for one in document["would_destroy"]} == {"L2", "CA", "service key"}
    until = datetime.fromisoformat(document["restorable_until"])
    assert before + timedelta(days=2) <= until <= datetime.now(UTC) + timedelta(days=2)
    assert operator_cli.gateway.asked == []
    assert operator_cli.run("tenant", "show", ACME)["state"] == "active"
    shown = operator_cli.invoke("tenant", "offboard", ACME, "--dry-run").stdout
    assert "destroyed irreversibly" in shown
    assert "nothing was changed" in shown


@pytest.mark.parametrize("grace", ["", "0d", "400d", "soon"])
def test_a_malformed_grace_period_is_rejected(operator_cli, grace) -> None:
    with pytest.raises(InvalidName):
        operator_cli.run("tenant", "offboard", ACME, "--grace", grace, *YES)
    assert operator_cli.gateway.asked == []


def test_grace_and_now_are_mutually_exclusive(operator_cli) -> None:
    with pytest.raises(OpenKcmError) as refused:
        operator_cli.run("tenant", "offboard", ACME, "--grace", "1d", "--now", *YES)
    assert refused.value.code == "conflicting_grace_options"


def test_restore_after_the_start_of_the_destruction_is_rejected_without_a_request(operator_cli) -> None:
    operator_cli.run("tenant", "offboard", ACME, "--now", *YES)
    with operator_cli.worker.tenant_tx(ACME) as tx:
        assert tx.leaving.begin_destruction(datetime.now(UTC) + timedelta(seconds=1))
    with pytest.raises(DestructionStarted):
        operator_cli.run("tenant", "restore", ACME)
    assert operator_cli.gateway.asked == [f"offboard {ACME} operator"]
    assert "it cannot be restored" in operator_cli.invoke("tenant", "show", ACME).stdout


def test_an_offboarded_tenant_can_neither_be_offboarded_nor_restored(operator_cli) -> None:
    operator_cli.run("tenant", "offboard", ACME, "--now", *YES)
    with operator_cli.worker.tenant_tx(ACME) as tx:
        tx.leaving.begin_destruction(datetime.now(UTC) + timedelta(seconds=1))
        tx.leaving.end()
    for words in (
        ("tenant", "offboard", ACME, *YES),
        ("tenant", "offboard", ACME, "--dry-run"),
        ("tenant", "restore", ACME),
    ):
        with pytest.raises(TenantOffboarded):
            operator_cli.run(*words)
    assert "all keys were destroyed" in operator_cli.invoke("tenant", "show", ACME).stdout


def test_wait_ends_when_all_keys_are_destroyed_or_the_timeout_is_over(operator_cli) -> None:
    words = ("tenant", "offboard", ACME, "--now", "--wait", *YES)
    with pytest.raises(OpenKcmError) as late:
        operator_cli.run(*words, "--timeout", "0")
    assert late.value.code == "not_destroyed_in_time"
    operator_cli.run("tenant", "restore", ACME)
    offboard = operator_cli.gateway.offboard

    def offboard_and_destroy(tenant_id: str, request: OffboardRequest) -> None:
        offboard(tenant_id, request)
        with operator_cli.worker.tenant_tx(tenant_id) as tx:
            tx.leaving.begin_destruction(datetime.now(UTC) + timedelta(seconds=1))
            tx.leaving.end()

    operator_cli.gateway.offboard = offboard_and_destroy
    assert operator_cli.run(*words)["state"] == "offboarded"
    assert operator_cli.invoke("tenant", "offboard", ACME, "--wait", *YES).exit_code == 2


def test_the_platforms_tenants_cannot_be_offboarded(operator_cli) -> None:
    with pytest.raises(OpenKcmError) as refused:
        operator_cli.run("tenant", "offboard", "openkcm-canary", "--confirm", "openkcm-canary")
    assert refused.value.code == "illegal_tenant_id"
