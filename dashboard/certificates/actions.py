"""Rolling the tenant's certificate authority from the dashboard."""

from core.tenants.roles import Permission
from dashboard.page_context import PageContext, ask, require
from openkcm.contract.audit_events import AuditName


def roll(seat: PageContext) -> None:
    """Have new certificates come from another authority; it issues them when this returns. Raises OpenKcmError."""
    name = AuditName.AUTHORITY_ROLL_REQUESTED
    require(seat, Permission.MANAGE_SERVICES, name, seat.tenant_id)
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        tx.audit.append(seat.event(name, seat.tenant_id, "intended"))
    ask(seat, name, seat.tenant_id, lambda: seat.door.roll_authority(seat.tenant_id))
