"""Replacement of the tenant CA from the dashboard."""

from core.tenants.roles import Permission
from dashboard.page_context import PageContext, ask, require
from openkcm.contract.audit_events import AuditName


def roll(context: PageContext) -> None:
    """Replace the issuing tenant CA; the new CA issues certificates when this returns. Raises OpenKcmError."""
    name = AuditName.AUTHORITY_ROLL_REQUESTED
    require(context, Permission.MANAGE_SERVICES, name, context.tenant_id)
    with context.database.tenant_tx(context.tenant_id) as tx:
        tx.audit.append(context.event(name, context.tenant_id, "intended"))
    ask(context, name, context.tenant_id, lambda: context.workflows.roll_authority(context.tenant_id))
