"""`openkcmctl tenant suspend|resume|lock|unlock`: what is asked, what is read back, and what is never done by mistake."""

from datetime import UTC, datetime

import pytest

from openkcm.errors import OpenKcmError
from tests.cli.root_key_stand import hold_by_root_key
from tests.dashboard.scene import ACME

SEEN = datetime(2026, 1, 15, 10, 30, tzinfo=UTC)


def test_locking_and_unlocking_lead_back_to_where_the_tenant_was(desk) -> None:
    desk.run("tenant", "suspend", ACME)

    assert desk.run("tenant", "lock", ACME, "--confirm", ACME) == {
        "tenant_id": ACME,
        "state": "locked",
        "locks": ["switch"],
    }
    assert desk.run("tenant", "unlock", ACME)["state"] == "suspended"


def test_locks_are_shown_and_listed(desk) -> None:
    assert desk.run("tenant", "show", ACME)["locks"] == []
    desk.run("tenant", "lock", ACME, "--confirm", ACME)

    assert desk.run("tenant", "show", ACME)["locks"] == ["switch"]
    assert [tenant["locks"] for tenant in desk.run("tenant", "list")["tenants"]] == [["switch"]]
    for words in (("show", ACME), ("list",)):
        assert "locked by switch" in desk.invoke("tenant", *words).stdout


def test_a_dry_run_lists_what_would_stop_and_changes_nothing(desk) -> None:
    with desk.field.open("crypto").tenant_tx(ACME) as tx:
        tx.services.seen(["orders"], SEEN)
    before = desk.everything_stored()

    document = desk.run("tenant", "lock", ACME, "--dry-run")

    [stops] = document["would_stop"]
    assert (document["tenant_id"], document["state"]) == (ACME, "active")
    assert (stops["service_id"], stops["kind"], stops["state"]) == ("orders", "mongodb", "connected")
    assert datetime.fromisoformat(stops["last_seen_at"]) == SEEN
    assert (desk.everything_stored(), desk.gateway.asked) == (before, [])
    shown = desk.invoke("tenant", "lock", ACME, "--dry-run").stdout
    assert "2026-01-15 10:30:00" in shown
    assert "nothing was changed" in shown


def test_a_dry_run_leaves_out_what_does_not_work_anyway(desk) -> None:
    with desk.worker.tenant_tx(ACME) as tx:
        tx.services.disconnect("orders")
    assert desk.run("tenant", "lock", ACME, "--dry-run")["would_stop"] == []
    desk.run("tenant", "lock", ACME, "--confirm", ACME)
    assert desk.run("tenant", "lock", ACME, "--dry-run")["would_stop"] == []


def test_an_illegal_move_is_refused_with_the_workflows_own_words(desk) -> None:
    desk.run("tenant", "lock", ACME, "--confirm", ACME)
    with pytest.raises(OpenKcmError) as refused:
        desk.run("tenant", "suspend", ACME)
    assert refused.value.code == "illegal_move"
    assert desk.run("tenant", "show", ACME)["state"] == "locked"


def test_unlocking_while_the_root_key_fails_says_that_it_stays_locked_and_why(desk) -> None:
    hold_by_root_key(desk)
    desk.run("tenant", "lock", ACME, "--confirm", ACME)

    document = desk.run("tenant", "unlock", ACME, status=1)

    assert (document["tenant_id"], document["state"], document["locks"]) == (ACME, "locked", ["root-key"])
    error = document["error"]
    assert error["code"] == "still_locked"
    assert "root_key_disabled: enable it where it is held" in error["hint"]
    shown = desk.invoke("tenant", "unlock", ACME)
    assert (shown.exit_code, shown.stdout) == (1, "")
    assert "by itself" in shown.stderr
