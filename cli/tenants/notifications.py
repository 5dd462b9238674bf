"""`openkcmctl notification`: list undelivered notifications, targets and deliveries, and send dead letters again."""

from datetime import timedelta
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.audited import audited
from cli.connections import Tenant, operator_database, parse_any_tenant_id
from config.settings import load_settings
from core.errors.tenants import TenantUnknown
from core.notifications.targets import TargetKind, selected
from database.notifications import Delivery, UndeliveredNotification
from database.platform.scheduled import PlatformQueries
from openkcm.cli import output
from openkcm.contract.audit_events import AuditName

_MAX_LISTED = 1000
_MAX_DELIVERIES = 50

Days = Annotated[int, typer.Option("--days", min=1, max=3650, help="Age of the oldest dead letter, days.")]


def register(app: typer.Typer) -> None:
    notifications = typer.Typer(no_args_is_help=True)
    notifications.command("list")(list_undelivered)
    notifications.command("retry")(retry)
    notifications.command("list-targets")(list_targets)
    notifications.command("list-deliveries")(list_deliveries)
    app.add_typer(notifications, name="notification")


def list_undelivered(*, days: Days = 30, as_json: output.AsJson = False) -> None:
    """List dead letters and notifications that are still attempted, at most 1,000."""
    with operator_database(load_settings()) as database:
        found = PlatformQueries(database).undelivered_notifications(timedelta(days=days), _MAX_LISTED)
    rows = [_describe(one) for one in found]

    def draw(console: Console) -> None:
        table = Table("tenant", "channel", "kind", "stored", "attempts", "state", "problem", "message id")
        for row in rows:
            state = "dead letter" if row["expired_at"] else f"next attempt {row['next_try']}"
            cells = [row["tenant_id"], row["channel"], row["kind"], row["added_at"], row["attempts"], state]
            table.add_row(*(Text(str(cell)) for cell in (*cells, row["problem"], row["message_id"])))
        console.print(table)

    output.answer({"notifications": rows}, as_json=as_json, show=draw)


def list_targets(tenant: Tenant, *, as_json: output.AsJson = False) -> None:
    """List the receivers that a tenant chose, without persons, paths and queries of their addresses."""
    tenant_id = parse_any_tenant_id(tenant)
    with operator_database(load_settings()) as database, database.tenant_tx(tenant_id) as tx:
        if tx.tenants.get() is None:
            raise TenantUnknown
        targets = tx.targets.all()
    rows: list[dict[str, Any]] = [
        {
            "target_id": one.target_id,
            "label": one.label,
            "kind": one.kind,
            "address": one.shown_address,
            "events": sorted(selected(one.muted)),
            "paused": one.paused,
            "secret_number": one.secret_number if one.kind is TargetKind.WEBHOOK else None,
            "former_until": one.former_until and one.former_until.isoformat(timespec="seconds"),
        }
        for one in targets
    ]

    def draw(console: Console) -> None:
        table = Table("target", "label", "kind", "address", "state", "events")
        for row, one in zip(rows, targets, strict=True):
            state = "paused" if one.paused else "active"
            cells = (one.target_id, one.label, one.kind, one.shown_address, state, ", ".join(row["events"]))
            table.add_row(*(Text(str(cell)) for cell in cells))
        console.print(table)

    output.answer({"tenant_id": tenant_id, "targets": rows}, as_json=as_json, show=draw)


def list_deliveries(tenant: Tenant, *, as_json: output.AsJson = False) -> None:
    """List the newest 50 deliveries to the receivers that a tenant chose, with their results."""
    tenant_id = parse_any_tenant_id(tenant)
    with operator_database(load_settings()) as database, database.tenant_tx(tenant_id) as tx:
        if tx.tenants.get() is None:
            raise TenantUnknown
        deliveries = tx.outbox.deliveries(_MAX_DELIVERIES, to_targets=True)
    rows = [_describe_delivery(one) for one in deliveries]

    def draw(console: Console) -> None:
        table = Table("stored", "kind", "target", "attempts", "state", "response", "problem", "message id")
        for row in rows:
            cells = (row["added_at"], row["kind"], row["target_id"], row["attempts"], row["state"])
            more = (row["response"] or "", row["problem"] or "", row["message_id"])
            table.add_row(*(Text(str(cell)) for cell in (*cells, *more)))
        console.print(table)

    output.answer({"tenant_id": tenant_id, "deliveries": rows}, as_json=as_json, show=draw)


def retry(tenant: Tenant, *, as_json: output.AsJson = False) -> None:
    """Send the dead letters of a tenant again, one attempt each, within two minutes."""
    tenant_id = parse_any_tenant_id(tenant)
    with (
        operator_database(load_settings()) as database,
        audited(database, tenant_id, AuditName.ANNOUNCE_RETRY_REQUESTED),
        database.tenant_tx(tenant_id) as tx,
    ):
        retried = tx.outbox.retry_expired()
    output.answer(
        {"tenant_id": tenant_id, "retried": retried},
        as_json=as_json,
        show=lambda console: console.print(f"{retried} notifications of {tenant_id} are sent again"),
    )


def _describe(one: UndeliveredNotification) -> dict[str, Any]:
    """Return a notification as JSON types; `next_try` is null for a dead letter."""
    return {
        "tenant_id": one.tenant_id,
        "message_id": one.message_id,
        "channel": one.channel,
        "kind": one.kind,
        "added_at": one.added_at.isoformat(timespec="seconds"),
        "attempts": one.attempts,
        "problem": one.problem,
        "next_try": None if one.expired_at else one.next_try.isoformat(timespec="seconds"),
        "expired_at": one.expired_at and one.expired_at.isoformat(timespec="seconds"),
    }


def _describe_delivery(one: Delivery) -> dict[str, Any]:
    """Return a delivery as JSON types; `state` is `sent`, `waiting` or `dead-letter`."""
    waiting = one.sent_at is None and one.expired_at is None
    return {
        "message_id": one.message_id,
        "target_id": one.target_id,
        "kind": one.kind,
        "added_at": one.added_at.isoformat(timespec="seconds"),
        "attempts": one.attempts,
        "state": "sent" if one.sent_at else "waiting" if waiting else "dead-letter",
        "response": one.response,
        "problem": None if one.sent_at else one.problem,
        "next_try": one.next_try.isoformat(timespec="seconds") if waiting else None,
    }
