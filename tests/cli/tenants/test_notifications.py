"""`openkcmctl notification list` shows dead letters and failing notifications of all tenants."""

import json
from contextlib import suppress
from datetime import timedelta

import pytest

from core.errors.platform import DatabaseRefused
from core.errors.tenants import TenantUnknown
from core.notifications import Channel
from tests.dashboard.scene import ACME
from tests.database.builders import an_announcement

LEASE = timedelta(seconds=30)


def fail(operator_cli, message_id: str, expires_after: timedelta) -> None:
    """Let an attempt of the tenant's oldest message on the callback fail."""
    with operator_cli.worker.tenant_tx(ACME) as tx:
        tx.outbox.add(an_announcement(ACME, message_id))
        attempt = tx.outbox.claim(Channel.CALLBACK, LEASE)
        assert attempt is not None
        problem = "the callback responded with 503"
        tx.outbox.record_failure(attempt.notification.message_id, problem, LEASE, expires_after)


def test_dead_letters_are_listed_before_notifications_that_are_still_attempted(operator_cli) -> None:
    with operator_cli.worker.tenant_tx(ACME) as tx:
        tx.outbox.mark_sent("message-1")
    assert operator_cli.run("notification", "list") == {"notifications": []}
    fail(operator_cli, "first", timedelta(0))
    fail(operator_cli, "second", timedelta(days=1))
    dead, failing = operator_cli.run("notification", "list")["notifications"]
    assert (dead["message_id"], dead["attempts"], dead["next_try"]) == ("first", 1, None)
    assert dead["expired_at"] is not None
    assert (failing["message_id"], failing["expired_at"]) == ("second", None)
    assert failing["problem"] == "the callback responded with 503"
    shown = operator_cli.invoke("notification", "list").stdout
    assert "dead letter" in shown
    assert ACME in shown


def test_retry_makes_only_dead_letters_due_again_and_is_recorded(operator_cli) -> None:
    with operator_cli.worker.tenant_tx(ACME) as tx:
        tx.outbox.mark_sent("message-1")
    fail(operator_cli, "first", timedelta(0))
    fail(operator_cli, "second", timedelta(days=1))
    assert operator_cli.run("notification", "retry", ACME) == {"tenant_id": ACME, "retried": 1}
    assert operator_cli.run("notification", "retry", ACME)["retried"] == 0
    with operator_cli.worker.tenant_tx(ACME) as tx:
        attempt = tx.outbox.claim(Channel.CALLBACK, LEASE)
        names = [json.loads(one.record)["name"] for one in tx.audit.records()]
    assert attempt is not None
    assert (attempt.notification.message_id, attempt.number) == ("first", 2)
    assert names.count("tenant.notification_retry_requested") == 4
    with pytest.raises(TenantUnknown):
        operator_cli.run("notification", "retry", "unknown-corp")


@pytest.mark.parametrize(
    "statement",
    [
        "update okcm.outbox set expired_at = now()",
        "update okcm.outbox set next_try = now() + interval '1 year'",
        "update okcm.outbox set next_try = now() + interval '1 year', expired_at = now()",
    ],
)
def test_operator_cannot_suppress_a_notification(operator_cli, field, statement) -> None:
    fail(operator_cli, "first", timedelta(0))
    fail(operator_cli, "second", timedelta(days=1))
    with field.administrator() as administrator:
        query = "select message_id, expired_at, next_try from okcm.outbox where expired_at is null order by 1"
        before = administrator.execute(query).fetchall()
        with suppress(DatabaseRefused), field.open("operator").raw_tx(ACME) as connection:
            connection.execute(statement)
        assert administrator.execute(query).fetchall() == before
    assert len(before) == 2


def test_old_dead_letters_are_listed_on_request(operator_cli, field) -> None:
    with operator_cli.worker.tenant_tx(ACME) as tx:
        tx.outbox.mark_sent("message-1")
    fail(operator_cli, "first", timedelta(0))
    with field.administrator() as administrator:
        administrator.execute("update okcm.outbox set expired_at = now() - interval '40 days' where sent_at is null")
    assert operator_cli.run("notification", "list") == {"notifications": []}
    assert len(operator_cli.run("notification", "list", "--days", "60")["notifications"]) == 1
