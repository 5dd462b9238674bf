"""`openkcm tenant suspend|resume|lock|unlock`: what is asked, what is read back, and what is never done by mistake."""

import os
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from cli.__main__ import main
from tenancy.errors import OpenKcmError, TenantUnknown
from tests.cli.root_key_stand import ACME, desk, hold_by_root_key, secrets_folder

# Fixtures that pytest finds here by their names.
__all__ = ["desk", "secrets_folder"]

SEEN = datetime(2026, 1, 15, 10, 30, tzinfo=UTC)


def test_suspending_and_resuming_answer_with_the_state_on_record(desk) -> None:
    assert desk.run("tenant", "suspend", ACME) == {"tenant_id": ACME, "state": "suspended", "locks": []}
    assert desk.run("tenant", "show", ACME)["state"] == "suspended"
    assert desk.run("tenant", "resume", ACME)["state"] == "active"


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


def test_locking_unconfirmed_without_a_terminal_is_wrong_usage_and_asks_nobody(desk) -> None:
    for words in ((), ("--confirm", "acme-corp-12346"), ("--confirm", "")):
        result = desk.invoke("tenant", "lock", ACME, *words, typed=f"{ACME}\n")
        assert result.exit_code == 2
        assert "--confirm" in result.stderr
    assert desk.gateway.asked == []
    assert desk.run("tenant", "show", ACME)["state"] == "active"


@pytest.mark.usefixtures("desk")
def test_wrong_usage_is_one_document_for_a_script(capsys) -> None:
    assert main(["tenant", "lock", ACME, "--json"]) == 2
    assert '"usage"' in capsys.readouterr().out


@pytest.mark.usefixtures("desk")
def test_a_person_types_the_tenants_id_and_nothing_else_locks(free_port) -> None:
    environment = dict(os.environ) | {"OPENKCM_TEMPORAL_PORT": str(free_port)}
    wrong, right = (at_a_terminal(answer, environment) for answer in ("acme", ACME))

    assert (wrong[0], right[0]) == (1, 1)
    assert "not_confirmed" in wrong[1]
    # Nobody listens where Temporal should be: the confirmed one got as far as that.
    assert "temporal_unavailable" in right[1]


def at_a_terminal(answer: str, environment: dict[str, str]) -> tuple[int, str]:
    """Return exit status and everything shown by the lock command whose question is answered on a terminal."""
    outer, inner = os.openpty()
    words = [sys.executable, "-m", "cli", "tenant", "lock", ACME]
    with subprocess.Popen(
        words, stdin=inner, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, start_new_session=True
    ) as running:
        os.write(outer, f"{answer}\n".encode())
        assert running.stdout is not None
        shown = running.stdout.read().decode()
    os.close(outer)
    os.close(inner)
    return running.returncode, shown


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


@pytest.mark.parametrize("confirmed", [("--dry-run",), ("--confirm", "nobody-here")])
def test_a_stranger_is_refused(desk, confirmed) -> None:
    with pytest.raises(TenantUnknown):
        desk.run("tenant", "lock", "nobody-here", *confirmed)
    with pytest.raises(TenantUnknown):
        desk.run("tenant", "suspend", "nobody-here")
    assert desk.gateway.asked == []


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
