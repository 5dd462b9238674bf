"""Suspending, resuming, locking and unlocking a tenant from the dashboard; it is so when a call returns."""

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


def suspend(seat: PageContext) -> TenantRow:
    """Have services decrypt only; return the tenant as it stands then. Raises OpenKcmError."""
    return _change(seat, StatusChange.SUSPEND)


def resume(seat: PageContext) -> TenantRow:
    """Have services encrypt again; return the tenant as it stands then. Raises OpenKcmError."""
    return _change(seat, StatusChange.RESUME)


def lock(seat: PageContext) -> TenantRow:
    """Pull the kill switch; return the tenant as it stands then. Raises OpenKcmError."""
    return _change(seat, StatusChange.LOCK)


def ask_to_lock(seat: PageContext) -> Approval:
    """Ask a second person to have the kill switch pulled; return the request. Raises OpenKcmError."""
    return approval_actions.ask_for(seat, Action.LOCK, {})


def unlock(seat: PageContext) -> TenantRow:
    """Release the kill switch; return the tenant as it stands then, locked still where its root key locks it too.

    Raises:
        OpenKcmError: refused, or not done yet; trying again does no harm.
    """
    return _change(seat, StatusChange.UNLOCK)


def _change(seat: PageContext, move: StatusChange) -> TenantRow:
    name = _REQUESTED[move]
    require(seat, Permission.MANAGE_KEYS, name, seat.tenant_id)
    before = _tenant(seat)
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        tx.audit.append(seat.event(name, seat.tenant_id, "intended", before=before.state))
    ask(seat, name, seat.tenant_id, lambda: seat.door.change_standing(seat.tenant_id, move))
    return _tenant(seat)


def _tenant(seat: PageContext) -> TenantRow:
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        tenant = tx.tenants.get()
    if tenant is None:
        raise TenantUnknown
    return tenant
