"""The transaction that stores an event before the response 202, and the status that the marketplace can read."""

from collections.abc import Sequence
from dataclasses import dataclass

from core.errors.requests import MalformedEvent
from core.errors.services import ServiceConflict
from core.errors.tenants import TenantConflict, TenantOffboarded, TenantUnknown
from core.tenants.lifecycle import State
from core.tenants.provisioning import EventKind, MarketplaceEvent
from database.connection.database import Database
from database.connection.transaction import TenantTransaction
from database.provisioning import StepRow
from database.tenants import TenantRow
from openkcm.contract.audit_events import AuditEvent, AuditName

_AUDIT_NAME = {
    EventKind.SERVICE_ENABLED: AuditName.ENABLE_ACCEPTED,
    EventKind.SERVICE_DISABLED: AuditName.DISABLE_RECORDED,
    EventKind.SERVICE_DISCOVERED: AuditName.SERVICE_DISCOVERED,
}


@dataclass(frozen=True, slots=True)
class Accepted:
    state: State
    duplicate: bool


def accept(database: Database, event: MarketplaceEvent, source: str) -> Accepted:
    """Store an event with its audit record and, if it enables a new tenant, the tenant's row; all or nothing.

    A repeated delivery, even a concurrent one, is identified by (tenant, event id) and adds nothing.

    Args:
        database: with the role `marketplace`.
        event: validated.
        source: address of the sender, for the audit stream.

    Raises:
        TenantOffboarded, TenantConflict, TenantUnknown, ServiceConflict: nothing was stored.
        DatabaseUnavailable: nothing was stored, or everything was stored and only the response was lost. In both cases
            the sender repeats the event with the same id.
    """
    with database.tenant_tx(event.tenant_id) as tx:
        row = tx.tenants.request(event) if event.kind is EventKind.SERVICE_ENABLED else tx.tenants.get()
        if row is None:
            raise TenantUnknown
        if row.region != event.region:
            raise TenantConflict
        fresh = _store_discovery(tx, event) if event.kind is EventKind.SERVICE_DISCOVERED else tx.inbox.accept(event)
        # After the insertion, which waits for a destruction that begins: it may have begun since the row was read.
        if _is_offboarded(tx):
            raise TenantOffboarded
        if fresh:
            _record(tx, event, source)
        return Accepted(row.state, duplicate=not fresh)


def discovered(database: Database, tenant_id: str, event_id: str) -> str | None:
    """Return the service that a stored event discovered; None if it was erased with its tenant."""
    with database.tenant_tx(tenant_id) as tx:
        return tx.inbox.discovered(event_id)


def unstarted_changes(database: Database, tenant_id: str) -> Sequence[tuple[str, EventKind]]:
    """Return (event id, kind) of a tenant's enables and disables that its workflow has not received, in order.

    The events of an offboarded tenant are marked instead: no workflow receives them any more.
    """
    with database.tenant_tx(tenant_id) as tx:
        changes = tx.inbox.unstarted_changes()
        if not _is_offboarded(tx):
            return changes
        for event_id, _ in changes:
            tx.inbox.mark_started(event_id)
        return []


def _is_offboarded(tx: TenantTransaction) -> bool:
    """Return whether the tenant's keys are destroyed, or are being destroyed: it cannot be restored any more."""
    leaving = tx.leaving.get()
    return leaving is None or leaving.state is State.OFFBOARDED or leaving.destroying_at is not None


def look_up(database: Database, tenant_id: str) -> tuple[TenantRow, list[StepRow]]:
    """Return a tenant's row and the steps of its newest operation; raises TenantUnknown."""
    with database.tenant_tx(tenant_id) as tx:
        row = tx.tenants.get()
        if row is None:
            raise TenantUnknown
        return row, list(tx.steps.latest())


def mark_started(database: Database, tenant_id: str, event_id: str) -> None:
    """Record that the tenant's workflow has received the event."""
    with database.tenant_tx(tenant_id) as tx:
        tx.inbox.mark_started(event_id)


def _store_discovery(tx: TenantTransaction, event: MarketplaceEvent) -> bool:
    """Store an event about a service; a service that is discovered or connected already is unchanged."""
    if event.service is None or event.service_kind is None:
        raise MalformedEvent
    known = tx.enrolments.known_kind(event.service)
    if known is not None and known is not event.service_kind:
        raise ServiceConflict
    fresh = tx.inbox.accept_discovery(event)
    if fresh:
        tx.enrolments.discover(event.service, event.service_kind)
    return fresh


def _record(tx: TenantTransaction, event: MarketplaceEvent, source: str) -> None:
    tx.audit.append(
        AuditEvent(
            event_id=f"marketplace/{event.event_id}",
            name=_AUDIT_NAME[event.kind],
            actor_kind="service",
            actor="marketplace",
            subject=event.service or event.tenant_id,
            outcome="success",
            correlation_id=event.event_id,
            source=source,
            details={"region": event.region, "occurred_at": event.timestamp.isoformat()}
            | ({} if event.service_kind is None else {"kind": event.service_kind}),
        )
    )
