"""Suspending, resuming, locking and unlocking a tenant from the dashboard; it is so when a call returns."""

from collections.abc import Mapping
from types import MappingProxyType

from core.errors.tenants import TenantUnknown
from core.messages.tenants import StandingMove
from core.tenants.approvals import Action, Approval
from core.tenants.roles import Permission
from dashboard.approvals import actions as approval_actions
from dashboard.page_context import Seat, ask, require
from database.tenants import TenantRow
from openkcm.contract.audit_events import AuditName

_REQUESTED: Mapping[StandingMove, AuditName] = MappingProxyType(
    {
        StandingMove.SUSPEND: AuditName.SUSPEND_REQUESTED,
        StandingMove.RESUME: AuditName.RESUME_REQUESTED,
        StandingMove.LOCK: AuditName.LOCK_REQUESTED,
        StandingMove.UNLOCK: AuditName.UNLOCK_REQUESTED,
    }
)


def suspend(seat: Seat) -> TenantRow:
    """Have services decrypt only; return the tenant as it stands then. Raises OpenKcmError."""
    return _change(seat, StandingMove.SUSPEND)


def resume(seat: Seat) -> TenantRow:
    """Have services encrypt again; return the tenant as it stands then. Raises OpenKcmError."""
    return _change(seat, StandingMove.RESUME)


def lock(seat: Seat) -> TenantRow:
    """Pull the kill switch; return the tenant as it stands then. Raises OpenKcmError."""
    return _change(seat, StandingMove.LOCK)


def ask_to_lock(seat: Seat) -> Approval:
    """Ask a second person to have the kill switch pulled; return the request. Raises OpenKcmError."""
    return approval_actions.ask_for(seat, Action.LOCK, {})


def unlock(seat: Seat) -> TenantRow:
    """Release the kill switch; return the tenant as it stands then, locked still where its root key locks it too.

    Raises:
        OpenKcmError: refused, or not done yet; trying again does no harm.
    """
    return _change(seat, StandingMove.UNLOCK)


def _change(seat: Seat, move: StandingMove) -> TenantRow:
    name = _REQUESTED[move]
    require(seat, Permission.MANAGE_KEYS, name, seat.tenant_id)
    before = _tenant(seat)
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        tx.audit.append(seat.event(name, seat.tenant_id, "intended", before=before.state))
    ask(seat, name, seat.tenant_id, lambda: seat.door.change_standing(seat.tenant_id, move))
    return _tenant(seat)


def _tenant(seat: Seat) -> TenantRow:
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        tenant = tx.tenants.get()
    if tenant is None:
        raise TenantUnknown
    return tenant
