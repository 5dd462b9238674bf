"""An operator's one act on a tenant: have a failed provisioning tried again."""

from collections.abc import Sequence

from core import names as ids
from core.errors.tenants import SessionEnded, TenantUnknown
from core.tenants.roles import OPERATORS, Permission
from dashboard.page_context import PageContext
from openkcm.contract.audit_events import AuditEvent, AuditName
from openkcm.errors import CallerError, OpenKcmError


class RetryNotAllowed(CallerError):
    code = "retry_not_allowed"
    message = "your role does not allow this"
    hint = "only the platform's operators try a tenant again"


def retry(seat: PageContext, tenant_id: str) -> None:
    """Ask for a failed tenant to be provisioned again, on record before it is asked for and again when it is refused.

    The record stands in the tenant's own stream, for its customer, and in the operators'. That it was done is recorded
    by the workflow that does it.

    Raises:
        SessionEnded: the sign-on is over; dialogs rerun without the guard.
        RetryNotAllowed: the person is no operator; that is on record too.
        TenantUnknown, TemporalUnavailable, DatabaseUnavailable or the workflow's refusal: nothing was changed.
    """
    if not seat.present():
        raise SessionEnded
    subject = ids.tenant_workflow(tenant_id)
    if seat.platform is None or not seat.may(Permission.OPERATE):
        _record(seat, [seat.tenant_id], seat.event(AuditName.ACTION_REFUSED, subject, "refused", action="retry"))
        raise RetryNotAllowed
    with seat.database.tenant_tx(tenant_id) as tx:
        if tx.tenants.get() is None:
            raise TenantUnknown
    streams = [OPERATORS, tenant_id]
    _record(seat, streams, seat.event(AuditName.RETRY_REQUESTED, subject, "intended"))
    try:
        seat.door.retry(tenant_id)
    except OpenKcmError as refused:
        _record(seat, streams, seat.event(AuditName.RETRY_REQUESTED, subject, "refused", code=refused.code))
        raise


def _record(seat: PageContext, streams: Sequence[str], event: AuditEvent) -> None:
    for stream in streams:
        with seat.database.tenant_tx(stream) as tx:
            tx.audit.append(event)
