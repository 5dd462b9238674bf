"""`openkcmctl tenant offboard` and `openkcmctl tenant restore`: offboard a tenant, restore it within the grace period.

Both call the tenant's workflow and read the result from its row. Before an offboarding the command shows what it stops
and destroys and until when it can be undone, and asks for the tenant's id again.
"""

import time
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.audited import audited
from cli.confirmation import ConfirmTenant, refuse_unconfirmed
from cli.connections import Ask, Tenant, operator_database
from cli.documents import describe_offboarding
from cli.tenants.status import services_to_stop
from config.settings import load_settings
from core.errors.tenants import DestructionStarted, TenantOffboarded, TenantUnknown
from core.messages.tenants import OffboardRequest
from core.names import offboard_workflow, tenant_workflow
from core.tenants.lifecycle import State, Transition, transition
from core.tenants.offboarding import parse_grace
from database.connection.database import Database
from database.connection.transaction import TenantTransaction
from database.tenants import TenantRow
from openkcm.cli import output
from openkcm.contract.audit_events import AuditName
from openkcm.contract.names import parse_tenant_id
from openkcm.errors import CallerError, OpenKcmError

_PAUSE_SECONDS = 0.5


class GraceUnclear(CallerError):
    code = "conflicting_grace_options"
    message = "--now and --grace are mutually exclusive"
    hint = "specify one of them"


class NotDestroyedInTime(OpenKcmError):
    code = "not_destroyed_in_time"
    message = "the tenant's keys are not destroyed yet"

    def __init__(self, tenant_id: str) -> None:
        super().__init__(hint=f"the destruction continues; see openkcmctl tenant show {tenant_id}")


class OffboardCommands:
    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def offboard(  # noqa: PLR0913 - one parameter an option
        self,
        tenant: Tenant,
        *,
        grace: Annotated[
            str | None, typer.Option(help="Grace period such as 30d or 12h; default: setting offboard_grace_days.")
        ] = None,
        now: Annotated[bool, typer.Option("--now", help="Destroy all keys at once, without a grace period.")] = False,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would happen and change nothing.")] = False,
        confirm: ConfirmTenant = None,
        wait: Annotated[bool, typer.Option("--wait", help="With --now: wait until all keys are destroyed.")] = False,
        timeout: Annotated[float, typer.Option(help="Longest wait, seconds.", min=0.0)] = 240.0,
        as_json: output.AsJson = False,
    ) -> None:
        """Offboard a tenant: stop its services now and destroy its keys after a grace period."""
        tenant_id, settings = parse_tenant_id(tenant), load_settings()
        if now and grace is not None:
            raise GraceUnclear
        if wait and not now:
            raise typer.BadParameter("only --now destroys at once", param_hint="--wait")
        requested = None if grace is None else parse_grace(grace)
        default = timedelta(days=settings.offboard_grace_days)
        with operator_database(settings) as database:
            if dry_run:
                _show_plan(database, tenant_id, timedelta() if now else requested or default, as_json=as_json)
                return
            _refuse_gone(_read(database, tenant_id)[0])
            when = "at once" if now else f"in {grace or f'{settings.offboard_grace_days:g}d'}"
            refuse_unconfirmed(
                tenant_id,
                confirm,
                f"every service of {tenant_id} stops now, and its keys are destroyed {when}, irreversibly",
                "offboard it",
            )
            request = OffboardRequest(grace_seconds=None if requested is None else requested.total_seconds(), now=now)
            with audited(database, tenant_id, AuditName.OFFBOARD_REQUESTED, grace=when):
                self._ask(settings, lambda gateway: gateway.offboard(tenant_id, request))
            if wait:
                with output.waiting("waiting until all keys are destroyed"):
                    _wait_until_offboarded(database, tenant_id, timeout)
            document = _document(database, tenant_id, offboard_workflow(tenant_id))
        output.answer(document, as_json=as_json, show=lambda console: console.print(Text(_summary(document))))

    def restore(self, tenant: Tenant, *, as_json: output.AsJson = False) -> None:
        """Restore a tenant within its grace period, with its former state and locks."""
        tenant_id, settings = parse_tenant_id(tenant), load_settings()
        with operator_database(settings) as database:
            row, leaving = _read(database, tenant_id)
            _refuse_gone(row)
            if leaving is not None and leaving["destroying_at"] is not None:
                raise DestructionStarted
            with audited(database, tenant_id, AuditName.RESTORE_REQUESTED):
                self._ask(settings, lambda gateway: gateway.restore(tenant_id))
            document = _document(database, tenant_id, tenant_workflow(tenant_id))
        summary = f"{tenant_id} is {document['state']} again; connect services again whose certificate has expired"
        output.answer(document, as_json=as_json, show=lambda console: console.print(Text(summary)))


def _read(database: Database, tenant_id: str) -> tuple[TenantRow, dict[str, Any] | None]:
    with database.tenant_tx(tenant_id) as tx:
        row, leaving = tx.tenants.get(), tx.leaving.get()
    if row is None:
        raise TenantUnknown
    return row, describe_offboarding(leaving)


def _wait_until_offboarded(database: Database, tenant_id: str, seconds: float) -> None:
    end = time.monotonic() + seconds
    while _read(database, tenant_id)[0].state is not State.OFFBOARDED:
        if time.monotonic() + _PAUSE_SECONDS > end:
            raise NotDestroyedInTime(tenant_id)
        time.sleep(_PAUSE_SECONDS)


def _refuse_gone(row: TenantRow) -> None:
    if row.state is State.OFFBOARDED:
        raise TenantOffboarded


def _document(database: Database, tenant_id: str, operation: str) -> dict[str, Any]:
    row, leaving = _read(database, tenant_id)
    return {
        "tenant_id": tenant_id,
        "state": row.state,
        "operation": operation,
        "locks": list(row.locks),
        "leaving": leaving,
    }


def _summary(document: dict[str, Any]) -> str:
    tenant_id, leaving = document["tenant_id"], document["leaving"]
    if document["state"] == State.OFFBOARDED:
        return f"{tenant_id} is offboarded, its keys are destroyed; see openkcmctl audit erasure-certificate"
    if leaving is None or not leaving["restorable"]:
        return f"{tenant_id} is being offboarded: its keys are being destroyed and it cannot be restored"
    until = leaving["until"][:16].replace("T", " ")
    return f"{tenant_id} is being offboarded: openkcmctl tenant restore {tenant_id} works until {until} UTC"


def _show_plan(database: Database, tenant_id: str, grace: timedelta, *, as_json: bool) -> None:
    with database.tenant_tx(tenant_id) as tx:
        row = tx.tenants.get()
        if row is None:
            raise TenantUnknown
        _refuse_gone(row)
        leaving = describe_offboarding(tx.leaving.get())
        if row.state is not State.LEAVING:
            transition(row.state, Transition.LEAVE)
        document = {
            "tenant_id": tenant_id,
            "state": row.state,
            "would_stop": [] if row.state is State.LEAVING else services_to_stop(tx, row),
            "would_destroy": _keys_to_destroy(tx),
            "restorable_until": _restorable_until(leaving, grace),
        }
    output.answer(document, as_json=as_json, show=lambda console: _draw_plan(console, document))


def _restorable_until(leaving: dict[str, Any] | None, grace: timedelta) -> str | None:
    """Return the end of the grace period; None without one."""
    if leaving is not None:
        until: str | None = leaving["until"]
        return until if leaving["restorable"] else None
    return (datetime.now(UTC) + grace).isoformat() if grace else None


def _keys_to_destroy(tx: TenantTransaction) -> list[dict[str, str]]:
    versions = tx.services.keys()
    keys = [{"kind": key.kind, "name": key.name} for key in tx.keys.all()]
    return keys + [{"kind": "service key", "name": f"{key.service} {key.version}"} for key in versions]


def _draw_plan(console: Console, document: dict[str, Any]) -> None:
    table = Table("kind", "name", "effect")
    for service in document["would_stop"]:
        table.add_row("service", Text(service["service_id"]), "stops at once")
    until = document["restorable_until"]
    when = "at once" if until is None else f"after {until[:16].replace('T', ' ')} UTC"
    for key in document["would_destroy"]:
        table.add_row(Text(key["kind"]), Text(key["name"]), f"destroyed irreversibly {when}")
    console.print(table)
    console.print(Text(f"{document['tenant_id']} is {document['state']} and nothing was changed"))
