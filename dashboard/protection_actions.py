"""What somebody does to a service's protected fields: asked again whether they may; the database puts it on record."""

from core.tenants.roles import Permission
from dashboard.acting import require
from dashboard.seat import Seat
from database import commands as protecting
from database.commands import Change
from openkcm.contract.audit_events import AuditName
from openkcm.contract.protected_fields import ProtectedField


def protect(seat: Seat, service: str, field: ProtectedField) -> Change:
    """Put a field on the list, or change how it is protected.

    Raises:
        TenantClosed, ServiceUnknown, ProtectionFull, SessionEnded, ActionRefused: nothing was changed.
    """
    require(seat, Permission.MANAGE_SERVICES, AuditName.PROTECTION_CHANGE_REQUESTED, service)
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        return protecting.protect(tx, service, field, seat.person.subject)


def unprotect(seat: Seat, service: str, field: ProtectedField) -> Change:
    """Take a field off the list; raises as `protect`, and FieldNotProtected."""
    require(seat, Permission.MANAGE_SERVICES, AuditName.PROTECTION_CHANGE_REQUESTED, service)
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        return protecting.unprotect(tx, service, field, seat.person.subject)
