"""Rotation of keys, and destruction of old versions, from the dashboard.

The result of a rotation is stored, so that a user who has left the page finds it there.
"""

from uuid import uuid4

from core.messages.keys import RotateRequest
from core.tenants.approvals import Action, Approval, Argument
from core.tenants.roles import Permission
from dashboard.approvals import actions as approval_actions
from dashboard.page_context import PageContext, ask, require
from database.rotation import RotationRequest
from openkcm.contract.audit_events import AuditName


def rotate(context: PageContext, wanted: RotationRequest) -> None:
    """Rotate keys; the rotation is complete when this returns.

    Raises:
        OperationTimeout: it continues automatically; the progress is stored.
        OpenKcmError: rejected or failed; all keys still work, and it can be retried.
    """
    name, subject = AuditName.ROTATE_REQUESTED, wanted.service or context.tenant_id
    require(context, Permission.MANAGE_KEYS, name, subject)
    request = RotateRequest(
        request_id=uuid4().hex,
        services=wanted.services,
        service=wanted.service,
        tenant_key=wanted.tenant_key,
        compromised=wanted.compromised,
    )
    details = {
        "request": request.request_id,
        "services": wanted.services,
        "tenant_key": str(wanted.tenant_key).lower(),
        "compromised": str(wanted.compromised).lower(),
    }
    with context.database.tenant_tx(context.tenant_id) as tx:
        tx.audit.append(context.event(name, subject, "intended", **details))
    ask(context, name, subject, lambda: context.workflows.rotate_keys(context.tenant_id, request), **details)


def retire(context: PageContext, service: str, version: int) -> None:
    """Destroy an old version of a service's key, permanently; it is done when this returns. Raises OpenKcmError."""
    name, details = AuditName.RETIRE_REQUESTED, {"version": str(version)}
    require(context, Permission.MANAGE_KEYS, name, service)
    with context.database.tenant_tx(context.tenant_id) as tx:
        tx.audit.append(context.event(name, service, "intended", **details))
    ask(
        context,
        name,
        service,
        lambda: context.workflows.retire_service_key(context.tenant_id, service, version),
        **details,
    )


def ask_to_compromise(context: PageContext, wanted: RotationRequest, reason: str) -> Approval:
    """Request the approval to replace compromised keys; return the request. Raises OpenKcmError."""
    argument: Argument = {
        "services": wanted.services.value,
        "service": wanted.service,
        "tenant_key": wanted.tenant_key,
    }
    return approval_actions.ask_for(context, Action.COMPROMISE, argument, reason)


def ask_to_retire(context: PageContext, service: str, version: int, reason: str) -> Approval:
    """Request the approval to destroy an old version; return the request. Raises OpenKcmError."""
    argument: Argument = {"service": service, "version": version}
    return approval_actions.ask_for(context, Action.RETIRE_KEY_VERSION, argument, reason)
