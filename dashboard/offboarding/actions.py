"""Leaving OpenKCM and coming back, from the dashboard; it is so when a call returns."""

from core.errors.tenants import TenantUnknown
from core.messages.tenants import LeaveReason, OffboardRequest
from core.tenants.approvals import Action, Approval
from core.tenants.roles import Permission
from dashboard.approvals import actions as approval_actions
from dashboard.page_context import PageContext, ask, require
from database.tenants import TenantRow
from openkcm.contract.audit_events import AuditName


def leave(seat: PageContext) -> TenantRow:
    """Let the tenant leave at the end of the usual grace; return it as it stands then. Raises OpenKcmError.

    Without a grace nobody leaves by this page: one person's click must leave the others time to take it back.
    """
    name, before = AuditName.OFFBOARD_REQUESTED, _allowed(seat, AuditName.OFFBOARD_REQUESTED)
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        tx.audit.append(seat.event(name, seat.tenant_id, "intended", before=before.state))
    request = OffboardRequest(reason=LeaveReason.CUSTOMER)
    ask(seat, name, seat.tenant_id, lambda: seat.door.offboard(seat.tenant_id, request))
    return _tenant(seat)


def ask_to_leave(seat: PageContext) -> Approval:
    """Ask a second person to have the tenant leave; return the request. Raises OpenKcmError."""
    return approval_actions.ask_for(seat, Action.OFFBOARD, {"now": False})


def restore(seat: PageContext) -> TenantRow:
    """Bring the tenant back; return it as it stands then, with the locks it had. Raises OpenKcmError."""
    name, before = AuditName.RESTORE_REQUESTED, _allowed(seat, AuditName.RESTORE_REQUESTED)
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        tx.audit.append(seat.event(name, seat.tenant_id, "intended", before=before.state))
    ask(seat, name, seat.tenant_id, lambda: seat.door.restore(seat.tenant_id))
    return _tenant(seat)


def _allowed(seat: PageContext, name: AuditName) -> TenantRow:
    require(seat, Permission.MANAGE_KEYS, name, seat.tenant_id)
    return _tenant(seat)


def _tenant(seat: PageContext) -> TenantRow:
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        tenant = tx.tenants.get()
    if tenant is None:
        raise TenantUnknown
    return tenant
