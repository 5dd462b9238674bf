"""Suspends, resumes, locks and unlocks a tenant; the new state is in effect when a call returns."""

from collections.abc import Mapping
from types import MappingProxyType

from core.errors.tenants import TenantUnknown
from core.messages.tenants import StatusChange
from core.tenants.approvals import Action, Approval
from core.tenants.roles import Permission
from dashboard.approvals import actions as approval_actions
from dashboard.page_context import PageContext, ask, require
from database.tenants import TenantRow
from openkcm.contract.audit_events import AuditName

_REQUESTED: Mapping[StatusChange, AuditName] = MappingProxyType(
    {
        StatusChange.SUSPEND: AuditName.SUSPEND_REQUESTED,
        StatusChange.RESUME: AuditName.RESUME_REQUESTED,
        StatusChange.LOCK: AuditName.LOCK_REQUESTED,
        StatusChange.UNLOCK: AuditName.UNLOCK_REQUESTED,
    }
)


def suspend(context: PageContext) -> TenantRow:
    """Allow decryption only; return the tenant in its new state. Raises OpenKcmError."""
    return _change(context, StatusChange.SUSPEND)


def resume(context: PageContext) -> TenantRow:
    """Allow encryption again; return the tenant in its new state. Raises OpenKcmError."""
    return _change(context, StatusChange.RESUME)


def lock(context: PageContext) -> TenantRow:
    """Set the lock of an administrator; return the tenant in its new state. Raises OpenKcmError."""
    return _change(context, StatusChange.LOCK)


def ask_to_lock(context: PageContext, reason: str) -> Approval:
    """Request the approval of a lock; return the request. Raises OpenKcmError."""
    return approval_actions.ask_for(context, Action.LOCK, {}, reason)


def unlock(context: PageContext) -> TenantRow:
    """Remove the lock of an administrator; return the tenant in its new state, which other locks can keep locked.

    Raises:
        OpenKcmError: rejected, or not done yet; a retry is idempotent.
    """
    return _change(context, StatusChange.UNLOCK)


def _change(context: PageContext, move: StatusChange) -> TenantRow:
    name = _REQUESTED[move]
    require(context, Permission.MANAGE_KEYS, name, context.tenant_id)
    before = _tenant(context)
    with context.database.tenant_tx(context.tenant_id) as tx:
        tx.audit.append(context.event(name, context.tenant_id, "intended", before=before.state))
    ask(context, name, context.tenant_id, lambda: context.workflows.change_standing(context.tenant_id, move))
    return _tenant(context)


def _tenant(context: PageContext) -> TenantRow:
    with context.database.tenant_tx(context.tenant_id) as tx:
        tenant = tx.tenants.get()
    if tenant is None:
        raise TenantUnknown
    return tenant
