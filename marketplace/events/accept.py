"""The one transaction that makes 202 a promise, and what the marketplace may see afterwards."""

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
    """Store an event with its audit record and, when it enables a new tenant, the tenant's row; all or nothing.

    A second delivery, however many at once, finds the first by (tenant, event id) and adds nothing.

    Args:
        database: of the role `marketplace`.
        event: checked.
        source: address the request came from, for the audit stream.

    Raises:
        TenantOffboarded, TenantConflict, TenantUnknown, ServiceConflict: nothing was stored.
        DatabaseUnavailable: nothing was stored, or everything was and only the answer was lost; sending the event
            again with the same id is right in both cases.
    """
    with database.tenant_tx(event.tenant_id) as tx:
        row = tx.tenants.request(event) if event.kind is EventKind.SERVICE_ENABLED else tx.tenants.get()
        if row is None:
            raise TenantUnknown
        leaving = tx.leaving.get()
        _refuse_what_cannot_be(row, event, destroying=leaving is not None and leaving.destroying_at is not None)
        fresh = _store_discovery(tx, event) if event.kind is EventKind.SERVICE_DISCOVERED else tx.inbox.accept(event)
        if fresh:
            _record(tx, event, source)
        return Accepted(row.state, duplicate=not fresh)


def discovered(database: Database, tenant_id: str, event_id: str) -> str | None:
    """Return the service that a stored event discovered; None when it was erased with its tenant."""
    with database.tenant_tx(tenant_id) as tx:
        return tx.inbox.discovered(event_id)


def look_up(database: Database, tenant_id: str) -> tuple[TenantRow, list[StepRow]]:
    """Return a tenant's row and the steps of its newest operation; raises TenantUnknown."""
    with database.tenant_tx(tenant_id) as tx:
        row = tx.tenants.get()
        if row is None:
            raise TenantUnknown
        return row, list(tx.steps.latest())


def mark_started(database: Database, tenant_id: str, event_id: str) -> None:
    """Note that the tenant's workflow has the event."""
    with database.tenant_tx(tenant_id) as tx:
        tx.inbox.mark_started(event_id)


def _store_discovery(tx: TenantTransaction, event: MarketplaceEvent) -> bool:
    """Store an event about a service; what was discovered or connected before stays what it is."""
    if event.service is None or event.service_kind is None:
        raise MalformedEvent
    known = tx.enrolments.known_kind(event.service)
    if known is not None and known is not event.service_kind:
        raise ServiceConflict
    fresh = tx.inbox.accept_discovery(event)
    if fresh:
        tx.enrolments.discover(event.service, event.service_kind)
    return fresh


def _refuse_what_cannot_be(row: TenantRow, event: MarketplaceEvent, *, destroying: bool) -> None:
    # Once its keys are being destroyed it has as good as left: there is nothing to come back to.
    if row.state is State.OFFBOARDED or destroying:
        raise TenantOffboarded
    if row.region != event.region:
        raise TenantConflict


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
