"""`openkcmctl tenant suspend|resume|lock|unlock`: requests, resulting states, and protection against mistakes."""

from datetime import UTC, datetime

import pytest

from openkcm.errors import OpenKcmError
from tests.cli.root_key_stand import lock_by_root_key
from tests.dashboard.scene import ACME

SEEN = datetime(2026, 1, 15, 10, 30, tzinfo=UTC)


def test_unlock_restores_the_former_state(operator_cli) -> None:
    operator_cli.run("tenant", "suspend", ACME)

    assert operator_cli.run("tenant", "lock", ACME, "--confirm", ACME) == {
        "tenant_id": ACME,
        "state": "locked",
        "locks": ["manual"],
    }
    assert operator_cli.run("tenant", "unlock", ACME)["state"] == "suspended"


def test_locks_are_shown_and_listed(operator_cli) -> None:
    assert operator_cli.run("tenant", "show", ACME)["locks"] == []
    operator_cli.run("tenant", "lock", ACME, "--confirm", ACME)

    assert operator_cli.run("tenant", "show", ACME)["locks"] == ["manual"]
    assert [tenant["locks"] for tenant in operator_cli.run("tenant", "list")["tenants"]] == [["manual"]]
    for words in (("show", ACME), ("list",)):
        assert "locked (manual)" in operator_cli.invoke("tenant", *words).stdout


def test_a_dry_run_lists_what_would_stop_and_changes_nothing(operator_cli) -> None:
    with operator_cli.field.open("crypto").tenant_tx(ACME) as tx:
        tx.services.seen(["orders"], SEEN)
    before = operator_cli.everything_stored()

    document = operator_cli.run("tenant", "lock", ACME, "--dry-run")

    [stops] = document["would_stop"]
    assert (document["tenant_id"], document["state"]) == (ACME, "active")
    assert (stops["service_id"], stops["kind"], stops["state"]) == ("orders", "mongodb", "connected")
    assert datetime.fromisoformat(stops["last_seen_at"]) == SEEN
    assert (operator_cli.everything_stored(), operator_cli.gateway.asked) == (before, [])
    shown = operator_cli.invoke("tenant", "lock", ACME, "--dry-run").stdout
    assert "2026-01-15 10:30:00" in shown
    assert "nothing was changed" in shown


def test_a_dry_run_omits_services_that_are_stopped_already(operator_cli) -> None:
    with operator_cli.worker.tenant_tx(ACME) as tx:
        tx.services.disconnect("orders")
    assert operator_cli.run("tenant", "lock", ACME, "--dry-run")["would_stop"] == []
    operator_cli.run("tenant", "lock", ACME, "--confirm", ACME)
    assert operator_cli.run("tenant", "lock", ACME, "--dry-run")["would_stop"] == []


def test_an_illegal_transition_is_rejected_with_the_workflows_error(operator_cli) -> None:
    operator_cli.run("tenant", "lock", ACME, "--confirm", ACME)
    with pytest.raises(OpenKcmError) as refused:
        operator_cli.run("tenant", "suspend", ACME)
    assert refused.value.code == "invalid_transition"
    assert operator_cli.run("tenant", "show", ACME)["state"] == "locked"


def test_unlock_with_a_failed_root_key_reports_the_remaining_lock_and_its_reason(operator_cli) -> None:
    lock_by_root_key(operator_cli)
    operator_cli.run("tenant", "lock", ACME, "--confirm", ACME)

    document = operator_cli.run("tenant", "unlock", ACME, status=1)

    assert (document["tenant_id"], document["state"], document["locks"]) == (ACME, "locked", ["root-key"])
    error = document["error"]
    assert error["code"] == "still_locked"
    assert "root_key_disabled: enable it at its provider" in error["hint"]
    shown = operator_cli.invoke("tenant", "unlock", ACME)
    assert (shown.exit_code, shown.stdout) == (1, "")
    assert "automatically" in " ".join(shown.stderr.split())
