"""Offboarding and restoring a tenant from the dashboard; the new state is in effect when a call returns."""

from core.errors.tenants import TenantUnknown
from core.messages.tenants import LeaveReason, OffboardRequest
from core.tenants.approvals import Action, Approval
from core.tenants.roles import Permission
from dashboard.approvals import actions as approval_actions
from dashboard.page_context import PageContext, ask, require
from database.tenants import TenantRow
from openkcm.contract.audit_events import AuditName


def leave(context: PageContext) -> TenantRow:
    """Start offboarding with the default grace period; return the tenant in its new state. Raises OpenKcmError.

    This page offers no offboarding without a grace period: other key administrators need time to undo it.
    """
    name, before = AuditName.OFFBOARD_REQUESTED, _allowed(context, AuditName.OFFBOARD_REQUESTED)
    with context.database.tenant_tx(context.tenant_id) as tx:
        tx.audit.append(context.event(name, context.tenant_id, "intended", before=before.state))
    request = OffboardRequest(reason=LeaveReason.CUSTOMER)
    ask(context, name, context.tenant_id, lambda: context.workflows.offboard(context.tenant_id, request))
    return _tenant(context)


def ask_to_leave(context: PageContext, reason: str) -> Approval:
    """Request the approval of offboarding; return the request. Raises OpenKcmError."""
    return approval_actions.ask_for(context, Action.OFFBOARD, {"now": False}, reason)


def restore(context: PageContext) -> TenantRow:
    """Restore the tenant; return it in its new state, with its former locks. Raises OpenKcmError."""
    name, before = AuditName.RESTORE_REQUESTED, _allowed(context, AuditName.RESTORE_REQUESTED)
    with context.database.tenant_tx(context.tenant_id) as tx:
        tx.audit.append(context.event(name, context.tenant_id, "intended", before=before.state))
    ask(context, name, context.tenant_id, lambda: context.workflows.restore(context.tenant_id))
    return _tenant(context)


def _allowed(context: PageContext, name: AuditName) -> TenantRow:
    require(context, Permission.MANAGE_KEYS, name, context.tenant_id)
    return _tenant(context)


def _tenant(context: PageContext) -> TenantRow:
    with context.database.tenant_tx(context.tenant_id) as tx:
        tenant = tx.tenants.get()
    if tenant is None:
        raise TenantUnknown
    return tenant
