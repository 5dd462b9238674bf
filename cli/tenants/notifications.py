"""`openkcmctl notification`: list notifications that their receivers did not accept, and send dead letters again."""

from datetime import timedelta
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.audited import audited
from cli.connections import Tenant, operator_database, parse_any_tenant_id
from config.settings import load_settings
from database.notifications import UndeliveredNotification
from database.platform.scheduled import PlatformQueries
from openkcm.cli import output
from openkcm.contract.audit_events import AuditName

_MAX_LISTED = 1000

Days = Annotated[int, typer.Option("--days", min=1, max=3650, help="Age of the oldest dead letter, days.")]


def register(app: typer.Typer) -> None:
    notifications = typer.Typer(help="List and retry undelivered notifications.", no_args_is_help=True)
    notifications.command("list")(list_undelivered)
    notifications.command("retry")(retry)
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
