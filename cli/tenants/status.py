"""`openkcmctl tenant suspend|resume|lock|unlock`: how a tenant stands, asked of its workflow and read back from its row.

Locking stops every service of the tenant at once. It therefore shows beforehand what it would stop, and wants the
tenant's id once more.
"""

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.audited import audited
from cli.confirmation import ConfirmTenant, refuse_unconfirmed
from cli.connections import Ask, Tenant, operator_database
from cli.root_keys.output import healed_by
from config.settings import load_settings
from core.errors.tenants import TenantUnknown
from core.messages.tenants import StatusChange
from core.services import ServiceState
from core.tenants.lifecycle import MEANING, State, Transition, transition
from core.tenants.locks import LockReason
from database.connection.database import Database
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
_LOCKED_AGAIN = "somebody locked it again; openkcmctl tenant unlock undoes that as well"


class StatusCommands:
    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def suspend(self, tenant: Tenant, *, as_json: output.AsJson = False) -> None:
        """Let a tenant's services decrypt and no longer encrypt; `resume` undoes it."""
        self._answer(self._moved(tenant, StatusChange.SUSPEND), as_json=as_json)

    def resume(self, tenant: Tenant, *, as_json: output.AsJson = False) -> None:
        """Let a suspended tenant's services encrypt again."""
        self._answer(self._moved(tenant, StatusChange.RESUME), as_json=as_json)

    def lock(
        self,
        tenant: Tenant,
        *,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would stop and change nothing.")] = False,
        confirm: ConfirmTenant = None,
        as_json: output.AsJson = False,
    ) -> None:
        """Pull the kill switch: nothing of a tenant works until `unlock`. Nothing is destroyed."""
        tenant_id = parse_tenant_id(tenant)
        if dry_run:
            _show_stops(tenant_id, as_json=as_json)
            return
        refuse_unconfirmed(tenant_id, confirm, f"every service of {tenant_id} stops at once", "lock it")
        self._answer(self._moved(tenant_id, StatusChange.LOCK), as_json=as_json)

    def unlock(
        self,
        tenant: Tenant,
        *,
        breach: Annotated[
            bool,
            typer.Option("--isolation-breach", help="Release the lock of a breach."),
        ] = False,
        confirm: Annotated[str | None, typer.Option(help="With --isolation-breach: the tenant's id once more.")] = None,
        as_json: output.AsJson = False,
    ) -> None:
        """Take the kill switch back; a tenant whose root key fails stays locked until the key works again.

        A breach lock is released by `--isolation-breach` alone, after an isolation check without a finding.
        """
        if breach:
            tenant_id = parse_tenant_id(tenant)
            refuse_unconfirmed(tenant_id, confirm, _unseen(tenant_id), "unlock it", dry_run=False)
        document = self._moved(tenant, StatusChange.CLEAR_BREACH if breach else StatusChange.UNLOCK)
        if document["state"] != State.LOCKED:
            self._answer(document, as_json=as_json)
            return
        with operator_database(load_settings()) as database, database.tenant_tx(document["tenant_id"]) as tx:
            hint = _unlocked_by(tx, document["locks"])
        output.answer_refused(
            document,
            "still_locked",
            f"the tenant is still locked by: {', '.join(document['locks'])}",
            hint,
            as_json=as_json,
        )

    def _moved(self, tenant: str, move: StatusChange) -> dict[str, Any]:
        """Have the tenant's workflow make a move and return how the tenant stands then."""
        tenant_id, settings = parse_tenant_id(tenant), load_settings()
        with operator_database(settings) as database:
            with audited(database, tenant_id, _REQUESTED[move]):
                self._ask(settings, lambda gateway: gateway.change_standing(tenant_id, move))
            row = _known(database, tenant_id)
        return {"tenant_id": tenant_id, "state": row.state, "locks": list(row.locks)}

    @staticmethod
    def _answer(document: dict[str, Any], *, as_json: bool) -> None:
        told = f"{document['tenant_id']} is {document['state']}: {MEANING[document['state']]}"
        output.answer(document, as_json=as_json, show=lambda console: console.print(Text(told)))


def _known(database: Database, tenant_id: str) -> TenantRow:
    with database.tenant_tx(tenant_id) as tx:
        row = tx.tenants.get()
    if row is None:
        raise TenantUnknown
    return row


def _unseen(tenant_id: str) -> str:
    """Return what whoever releases the lock of a breach has to judge by: what the newest examination says."""
    with operator_database(load_settings()) as database, database.tenant_tx(tenant_id) as tx:
        newest = tx.boundaries.examination()
    if newest is None:
        return f"no examination of {tenant_id} is on record"
    return (
        f"the newest examination of {tenant_id}, at {newest.examined_at:%Y-%m-%d %H:%M} UTC: {newest.held} attacks"
        f" refused, {newest.breached} succeeded, {newest.not_checked} could not be made; every service works again"
    )


def _show_stops(tenant_id: str, *, as_json: bool) -> None:
    with operator_database(load_settings()) as database, database.tenant_tx(tenant_id) as tx:
        row = tx.tenants.get()
        if row is None:
            raise TenantUnknown
        if row.state is not State.LOCKED:
            transition(row.state, Transition.LOCK)
        document = {"tenant_id": tenant_id, "state": row.state, "would_stop": stops(tx, row)}
    output.answer(document, as_json=as_json, show=lambda console: _draw_stops(console, document))


def stops(tx: TenantTransaction, row: TenantRow) -> list[dict[str, Any]]:
    """Return what works now and would not if the tenant were locked; of a locked one that is nothing."""
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
    stops = document["would_stop"]
    if not stops:
        console.print(Text(f"{document['tenant_id']} is {document['state']}: no service of it would stop"))
        return
    table = Table("would stop", "kind", "state", "last seen")
    for service in stops:
        seen = (service["last_seen_at"] or "never")[:19].replace("T", " ")
        table.add_row(*(Text(cell) for cell in (service["service_id"], service["kind"], service["state"], seen)))
    console.print(table)
    console.print(Text(f"{document['tenant_id']} is {document['state']} and nothing was changed"))


def _unlocked_by(tx: TenantTransaction, locks: list[str]) -> str:
    """Return what has to happen before a tenant opens that somebody has just unlocked."""
    if LockReason.BREACH in locks:
        return (
            "the platform locked it because an attack across its boundary succeeded: follow"
            f" docs/runbook.md#a-boundary-was-breached, run openkcmctl isolation check {tx.tenant_id}, then"
            f" openkcmctl tenant unlock {tx.tenant_id} --isolation-breach"
        )
    if LockReason.ROOT_KEY not in locks:
        return _LOCKED_AGAIN
    key = tx.root_keys.current()
    cause = "" if key is None else f"the root key answers with {key.health}: {healed_by(key.health)}. "
    return f"{cause}It opens by itself as soon as the root key works again; openkcmctl root-key show {tx.tenant_id} says more"
