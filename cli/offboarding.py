"""`openkcmctl tenant offboard` and `openkcmctl tenant restore`: a tenant leaves, and comes back while it can.

Both are asked of the tenant's workflow and read back from its row. What offboarding stops and destroys, and until when
it can be undone, is shown beforehand, and the tenant's id is wanted once more.
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
from cli.tenants.status import stops
from config.settings import load_settings
from core.errors.tenants import DestructionStarted, TenantOffboarded, TenantUnknown
from core.messages.tenants import OffboardRequest
from core.names import offboard_workflow, tenant_workflow
from core.tenants.lifecycle import State, Transition, transition
from core.tenants.offboarding import parse_grace
from database.connection.database import Database
from database.connection.transaction import TenantTransaction
from database.offboarding import OffboardingRow
from database.tenants import TenantRow
from openkcm.cli import output
from openkcm.contract.audit_events import AuditName
from openkcm.contract.names import parse_tenant_id
from openkcm.errors import CallerError, OpenKcmError

_PAUSE_SECONDS = 0.5


class GraceUnclear(CallerError):
    code = "grace_unclear"
    message = "--now is without any grace, so --grace says something else"
    hint = "give one of them"


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
            str | None, typer.Option(help="For how long it can be restored, such as 30d or 12h; default: a setting.")
        ] = None,
        now: Annotated[bool, typer.Option("--now", help="Destroy everything at once, without any grace.")] = False,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would happen and change nothing.")] = False,
        confirm: ConfirmTenant = None,
        wait: Annotated[bool, typer.Option("--wait", help="With --now: wait until everything is destroyed.")] = False,
        timeout: Annotated[float, typer.Option(help="Longest wait, seconds.", min=0.0)] = 240.0,
        as_json: output.AsJson = False,
    ) -> None:
        """Let a tenant leave: nothing works from now on, and after a grace its keys are destroyed for good."""
        tenant_id, settings = parse_tenant_id(tenant), load_settings()
        if now and grace is not None:
            raise GraceUnclear
        if wait and not now:
            raise typer.BadParameter("only --now destroys at once", param_hint="--wait")
        asked = None if grace is None else parse_grace(grace)
        usual = timedelta(days=settings.offboard_grace_days)
        with operator_database(settings) as database:
            if dry_run:
                _show_plan(database, tenant_id, timedelta() if now else asked or usual, as_json=as_json)
                return
            _refuse_gone(_read(database, tenant_id)[0])
            length = "at once" if now else f"in {grace or f'{settings.offboard_grace_days:g}d'}"
            refuse_unconfirmed(
                tenant_id,
                confirm,
                f"every service of {tenant_id} stops now, and {length} its keys are destroyed for good",
                "let it leave",
            )
            request = OffboardRequest(grace_seconds=None if asked is None else asked.total_seconds(), now=now)
            with audited(database, tenant_id, AuditName.OFFBOARD_REQUESTED, grace=length):
                self._ask(settings, lambda gateway: gateway.offboard(tenant_id, request))
            if wait:
                with output.waiting("waiting until everything is destroyed"):
                    _wait_until_offboarded(database, tenant_id, timeout)
            document = _document(database, tenant_id, offboard_workflow(tenant_id))
        output.answer(document, as_json=as_json, show=lambda console: console.print(Text(_told(document))))

    def restore(self, tenant: Tenant, *, as_json: output.AsJson = False) -> None:
        """Bring a tenant back that is leaving; it stands as it did before, with the locks it had."""
        tenant_id, settings = parse_tenant_id(tenant), load_settings()
        with operator_database(settings) as database:
            row, leaving = _read(database, tenant_id)
            _refuse_gone(row)
            if leaving is not None and leaving["destroying_at"] is not None:
                raise DestructionStarted
            with audited(database, tenant_id, AuditName.RESTORE_REQUESTED):
                self._ask(settings, lambda gateway: gateway.restore(tenant_id))
            document = _document(database, tenant_id, tenant_workflow(tenant_id))
        told = (
            f"{tenant_id} is {document['state']} again; services whose certificate has expired must be connected anew"
        )
        output.answer(document, as_json=as_json, show=lambda console: console.print(Text(told)))


def _read(database: Database, tenant_id: str) -> tuple[TenantRow, dict[str, Any] | None]:
    with database.tenant_tx(tenant_id) as tx:
        row, leaving = tx.tenants.get(), tx.leaving.get()
    if row is None:
        raise TenantUnknown
    return row, of_leaving(leaving)


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


def _told(document: dict[str, Any]) -> str:
    tenant_id, leaving = document["tenant_id"], document["leaving"]
    if document["state"] == State.OFFBOARDED:
        return f"{tenant_id} is offboarded and its keys are destroyed; its certificate: openkcmctl audit erasure-certificate"
    if leaving is None or not leaving["restorable"]:
        return f"{tenant_id} has left: its keys are being destroyed and nothing can be restored"
    until = leaving["until"][:16].replace("T", " ")
    return f"{tenant_id} is leaving: openkcmctl tenant restore {tenant_id} brings it back until {until} UTC, and nothing after that"


def _show_plan(database: Database, tenant_id: str, grace: timedelta, *, as_json: bool) -> None:
    with database.tenant_tx(tenant_id) as tx:
        row = tx.tenants.get()
        if row is None:
            raise TenantUnknown
        _refuse_gone(row)
        leaving = of_leaving(tx.leaving.get())
        if row.state is not State.LEAVING:
            transition(row.state, Transition.LEAVE)
        document = {
            "tenant_id": tenant_id,
            "state": row.state,
            "would_stop": [] if row.state is State.LEAVING else stops(tx, row),
            "would_destroy": _doomed(tx),
            "restorable_until": (datetime.now(UTC) + grace).isoformat() if leaving is None else leaving["until"],
        }
    output.answer(document, as_json=as_json, show=lambda console: _draw_plan(console, document))


def _doomed(tx: TenantTransaction) -> list[dict[str, str]]:
    versions = tx.services.keys()
    keys = [{"kind": key.kind, "name": key.name} for key in tx.keys.all()]
    return keys + [{"kind": "service key", "name": f"{key.service} {key.version}"} for key in versions]


def _draw_plan(console: Console, document: dict[str, Any]) -> None:
    table = Table("what", "name", "what becomes of it")
    for service in document["would_stop"]:
        table.add_row("service", Text(service["service_id"]), "stops at once")
    until = document["restorable_until"][:16].replace("T", " ")
    for key in document["would_destroy"]:
        table.add_row(Text(key["kind"]), Text(key["name"]), f"destroyed for good after {until} UTC")
    console.print(table)
    console.print(Text(f"{document['tenant_id']} is {document['state']} and nothing was changed"))


def of_leaving(row: OffboardingRow | None) -> dict[str, Any] | None:
    """Return how far a tenant's leaving is, as JSON's types; None while it stays."""
    if row is None or row.since is None:
        return None
    times = {"since": row.since, "until": row.until, "destroying_at": row.destroying_at, "ended_at": row.offboarded_at}
    restorable = row.destroying_at is None and row.state is State.LEAVING
    return {name: at and at.isoformat() for name, at in times.items()} | {"restorable": restorable}
