"""What every action of a page does around what it asks for: whether somebody may, and the record before and after."""

from collections.abc import Callable

from core.errors.tenants import ActionRefused, SessionEnded
from core.tenants.roles import Permission
from dashboard.seat import Seat
from openkcm.contract.audit_events import AuditName
from openkcm.errors import OpenKcmError


def require(seat: Seat, permission: Permission, name: AuditName, subject: str) -> None:
    """Raise SessionEnded when the sign-on is over, and ActionRefused, on record, when the role does not include it."""
    if not seat.present():
        raise SessionEnded
    if seat.may(permission):
        return
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        tx.audit.append(seat.event(AuditName.ACTION_REFUSED, subject, "refused", action=name))
    raise ActionRefused


def ask(seat: Seat, name: AuditName, subject: str, what: Callable[[], None], **details: str) -> None:
    """Ask a workflow and put on record what became of it."""
    try:
        what()
    except OpenKcmError as failed:
        with seat.database.tenant_tx(seat.tenant_id) as tx:
            tx.audit.append(seat.event(name, subject, "failure", code=failed.code, **details))
        raise
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        tx.audit.append(seat.event(name, subject, "success", **details))
