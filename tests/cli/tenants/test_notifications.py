"""`openkcmctl notification list` shows dead letters and failing notifications of all tenants."""

import json
from contextlib import suppress
from datetime import timedelta

import pytest

from core.errors.platform import DatabaseRefused
from core.errors.tenants import TenantUnknown
from core.notifications import Channel
from core.notifications.targets import TargetKind
from tests.dashboard.scene import ACME
from tests.database.builders import a_target, an_announcement

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


def test_targets_and_deliveries_are_shown_without_persons_and_tokens(operator_cli, field) -> None:
    target_id, *target = a_target(ACME, address="https://hooks.example/T000/token-of-the-customer")
    mail_id, *mail = a_target(ACME, "Ada", kind=TargetKind.EMAIL, address="ada.lovelace@example.com", sealed=None)
    with field.open("dashboard").tenant_tx(ACME) as tx:
        tx.targets.add(target_id, *target)
        tx.targets.add(mail_id, *mail)
    with operator_cli.worker.tenant_tx(ACME) as tx:
        tx.outbox.add(an_announcement(ACME, "first", channel=Channel.TARGET_WEBHOOK, target_id=target_id))
        attempt = tx.outbox.claim(Channel.TARGET_WEBHOOK, LEASE, target_id)
        assert attempt is not None
        tx.outbox.record_failure("first", "the receiver responded with 503", LEASE, timedelta(days=1))
    shown = operator_cli.run("notification", "list-targets", ACME)["targets"]
    assert [(one["label"], one["kind"], one["address"], one["paused"]) for one in shown][-2:] == [
        ("Security team", "webhook", "https://hooks.example", False),
        ("Ada", "email", "…@example.com", False),
    ]
    [delivery] = operator_cli.run("notification", "list-deliveries", ACME)["deliveries"]
    assert (delivery["message_id"], delivery["state"], delivery["attempts"]) == ("first", "waiting", 1)
    assert delivery["problem"] == "the receiver responded with 503"
    for command in ("list-targets", "list-deliveries"):
        printed = operator_cli.invoke("notification", command, ACME).stdout
        assert not [word for word in ("token-of", "lovelace", "sealed") if word in printed]
        with pytest.raises(TenantUnknown):
            operator_cli.run("notification", command, "unknown-corp")
