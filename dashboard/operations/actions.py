"""The only action of an operator on a tenant: retry a failed provisioning."""

from collections.abc import Sequence

from core import names as ids
from core.errors.tenants import SessionEnded, TenantUnknown
from core.tenants.roles import OPERATORS, Permission
from dashboard.page_context import PageContext
from openkcm.contract.audit_events import AuditEvent, AuditName, Outcome
from openkcm.errors import CallerError, OpenKcmError
from workflows.client.updates import OperationTimeout


class RetryNotAllowed(CallerError):
    code = "retry_not_allowed"
    message = "your role does not allow this"
    hint = "only operators can retry the provisioning of a tenant"


def retry(context: PageContext, tenant_id: str) -> None:
    """Request a retry of a failed provisioning; record the request, and why it is rejected or not complete.

    The record is in the streams of the tenant and of the operators. The workflow records the execution.

    Raises:
        SessionEnded: the session is over; dialogs rerun without the authorizer.
        RetryNotAllowed: the user is no operator; this is recorded too.
        TenantUnknown, TemporalUnavailable, DatabaseUnavailable or the workflow's rejection: nothing was changed.
        OperationTimeout: the request is queued or continues.
    """
    if not context.present():
        raise SessionEnded
    subject = ids.tenant_workflow(tenant_id)
    if context.platform is None or not context.may(Permission.OPERATE):
        _record(
            context, [context.tenant_id], context.event(AuditName.ACTION_REFUSED, subject, "refused", action="retry")
        )
        raise RetryNotAllowed
    with context.database.tenant_tx(tenant_id) as tx:
        if tx.tenants.get() is None:
            raise TenantUnknown
    streams = [OPERATORS, tenant_id]
    _record(context, streams, context.event(AuditName.RETRY_REQUESTED, subject, "intended"))
    try:
        context.workflows.retry(tenant_id)
    except OpenKcmError as refused:
        outcome: Outcome = "failure" if isinstance(refused, OperationTimeout) else "refused"
        _record(context, streams, context.event(AuditName.RETRY_REQUESTED, subject, outcome, code=refused.code))
        raise


def _record(context: PageContext, streams: Sequence[str], event: AuditEvent) -> None:
    for stream in streams:
        with context.database.tenant_tx(stream) as tx:
            tx.audit.append(event)
