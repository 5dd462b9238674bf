"""`openkcmctl tenant suspend|resume|lock|unlock`: change the state of a tenant by its workflow.

A lock stops every service of the tenant at once. The command therefore shows the affected services with --dry-run, and
asks for the tenant's id again.
"""

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.audited import audited
from cli.confirmation import ConfirmTenant, refuse_unconfirmed
from cli.connections import Ask, Tenant, operator_database, require_tenant
from cli.root_keys.output import remedy
from config.settings import load_settings
from core.errors.tenants import TenantUnknown
from core.messages.tenants import StatusChange
from core.services import ServiceState
from core.tenants.lifecycle import MEANING, State, Transition, transition
from core.tenants.locks import LockReason
from database.connection.transaction import TenantTransaction
from database.tenants import TenantRow
from openkcm.cli import output
from openkcm.contract.audit_events import AuditName
from openkcm.contract.names import parse_tenant_id

_REQUESTED = {
    StatusChange.SUSPEND: AuditName.SUSPEND_REQUESTED,
    StatusChange.RESUME: AuditName.RESUME_REQUESTED,
    StatusChange.LOCK: AuditName.LOCK_REQUESTED,
    StatusChange.UNLOCK: AuditName.UNLOCK_REQUESTED,
    StatusChange.CLEAR_BREACH: AuditName.BREACH_CLEAR_REQUESTED,
}
_LOCKED_AGAIN = "an administrator locked it again; run openkcmctl tenant unlock again"


class StatusCommands:
    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def suspend(self, tenant: Tenant, *, as_json: output.AsJson = False) -> None:
        """Suspend a tenant: its services decrypt but no longer encrypt until `resume`."""
        self._answer(self._change_status(tenant, StatusChange.SUSPEND), as_json=as_json)

    def resume(self, tenant: Tenant, *, as_json: output.AsJson = False) -> None:
        """Resume a suspended tenant: its services encrypt again."""
        self._answer(self._change_status(tenant, StatusChange.RESUME), as_json=as_json)

    def lock(
        self,
        tenant: Tenant,
        *,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would stop and change nothing.")] = False,
        confirm: ConfirmTenant = None,
        as_json: output.AsJson = False,
    ) -> None:
        """Lock a tenant: all its operations are rejected until `unlock`; no key is destroyed."""
        tenant_id = parse_tenant_id(tenant)
        if dry_run:
            _show_stops(tenant_id, as_json=as_json)
            return
        refuse_unconfirmed(tenant_id, confirm, f"every service of {tenant_id} stops at once", "lock it")
        self._answer(self._change_status(tenant_id, StatusChange.LOCK), as_json=as_json)

    def unlock(
        self,
        tenant: Tenant,
        *,
        breach: Annotated[
            bool,
            typer.Option("--isolation-breach", help="Remove the lock of a breach; needs a later check without one."),
        ] = False,
        confirm: Annotated[
            str | None, typer.Option(help="With --isolation-breach: the tenant's id, in place of typing it.")
        ] = None,
        as_json: output.AsJson = False,
    ) -> None:
        """Unlock a tenant; it stays locked while its root key fails.

        Only `--isolation-breach` removes the lock of a breach, after openkcmctl isolation check has found no breach.
        """
        if breach:
            tenant_id = parse_tenant_id(tenant)
            refuse_unconfirmed(tenant_id, confirm, _last_assessment(tenant_id), "unlock it", dry_run=False)
        document = self._change_status(tenant, StatusChange.CLEAR_BREACH if breach else StatusChange.UNLOCK)
        if document["state"] != State.LOCKED:
            self._answer(document, as_json=as_json)
            return
        with operator_database(load_settings()) as database, database.tenant_tx(document["tenant_id"]) as tx:
            hint = _unlocked_by(tx, document["locks"])
        output.answer_refused(
            document,
            "still_locked",
            f"the tenant is still locked ({', '.join(document['locks'])})",
            hint,
            as_json=as_json,
        )

    def _change_status(self, tenant: str, change: StatusChange) -> dict[str, Any]:
        """Request a transition from the tenant's workflow and return the new state."""
        tenant_id, settings = parse_tenant_id(tenant), load_settings()
        with operator_database(settings) as database:
            with audited(database, tenant_id, _REQUESTED[change]):
                self._ask(settings, lambda gateway: gateway.change_standing(tenant_id, change))
            row = require_tenant(database, tenant_id)
        return {"tenant_id": tenant_id, "state": row.state, "locks": list(row.locks)}

    @staticmethod
    def _answer(document: dict[str, Any], *, as_json: bool) -> None:
        summary = f"{document['tenant_id']} is {document['state']}: {MEANING[document['state']]}"
        output.answer(document, as_json=as_json, show=lambda console: console.print(Text(summary)))


def _last_assessment(tenant_id: str) -> str:
    """Return a summary of the newest isolation assessment, for the decision to remove the lock of a breach."""
    with operator_database(load_settings()) as database, database.tenant_tx(tenant_id) as tx:
        newest = tx.boundaries.examination()
    if newest is None:
        return f"{tenant_id} has no recorded isolation assessment"
    return (
        f"newest isolation assessment of {tenant_id}, {newest.examined_at:%Y-%m-%d %H:%M} UTC: {newest.held} attacks"
        f" rejected, {newest.breached} succeeded, {newest.not_checked} not checked; every service works again"
    )


def _show_stops(tenant_id: str, *, as_json: bool) -> None:
    with operator_database(load_settings()) as database, database.tenant_tx(tenant_id) as tx:
        row = tx.tenants.get()
        if row is None:
            raise TenantUnknown
        if row.state is not State.LOCKED:
            transition(row.state, Transition.LOCK)
        document = {"tenant_id": tenant_id, "state": row.state, "would_stop": services_to_stop(tx, row)}
    output.answer(document, as_json=as_json, show=lambda console: _draw_stops(console, document))


def services_to_stop(tx: TenantTransaction, row: TenantRow) -> list[dict[str, Any]]:
    """Return the services that a lock would stop; empty for a locked tenant."""
    if row.state is State.LOCKED:
        return []
    return [
        {
            "service_id": service.service,
            "kind": service.kind,
            "state": service.state,
            "last_seen_at": service.last_seen_at and service.last_seen_at.isoformat(),
        }
        for service in tx.services.all()
        if service.state is not ServiceState.DISCONNECTED
    ]


def _draw_stops(console: Console, document: dict[str, Any]) -> None:
    services = document["would_stop"]
    if not services:
        console.print(Text(f"{document['tenant_id']} is {document['state']}: no service would stop"))
        return
    table = Table("would stop", "kind", "state", "last seen")
    for service in services:
        seen = (service["last_seen_at"] or "never")[:19].replace("T", " ")
        table.add_row(*(Text(cell) for cell in (service["service_id"], service["kind"], service["state"], seen)))
    console.print(table)
    console.print(Text(f"{document['tenant_id']} is {document['state']} and nothing was changed"))


def _unlocked_by(tx: TenantTransaction, locks: list[str]) -> str:
    """Return the remedy for a tenant that is still locked after `unlock`."""
    if LockReason.BREACH in locks:
        return (
            "the platform locked it because an isolation check found a breach: follow"
            f" docs/runbook.md#isolation-breach, run openkcmctl isolation check {tx.tenant_id}, then"
            f" openkcmctl tenant unlock {tx.tenant_id} --isolation-breach"
        )
    if LockReason.ROOT_KEY not in locks:
        return _LOCKED_AGAIN
    key = tx.root_keys.current()
    cause = "" if key is None else f"the root key fails with {key.health}: {remedy(key.health)}; "
    return (
        f"{cause}the lock is removed automatically as soon as the root key works again; see openkcmctl root-key show"
        f" {tx.tenant_id}"
    )
