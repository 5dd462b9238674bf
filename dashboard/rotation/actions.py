"""Rotating keys, and destroying old versions of them, from the dashboard.

What became of a rotation is on record, so that whoever has left the page finds it there; the call returns when it is
done, or says that it goes on.
"""

from uuid import uuid4

from core.messages.keys import RotateRequest
from core.tenants.approvals import Action, Approval, Argument
from core.tenants.roles import Permission
from dashboard.approvals import actions as approval_actions
from dashboard.page_context import PageContext, ask, require
from database.rotation import RotationRequest
from openkcm.contract.audit_events import AuditName


def rotate(seat: PageContext, wanted: RotationRequest) -> None:
    """Rotate keys; it is done when this returns.

    Raises:
        OperationTimeout: it goes on by itself; the progress is on record.
        OpenKcmError: refused or stopped; every key that worked works, and it can be asked for again.
    """
    name, subject = AuditName.ROTATE_REQUESTED, wanted.service or seat.tenant_id
    require(seat, Permission.MANAGE_KEYS, name, subject)
    request = RotateRequest(
        request_id=uuid4().hex,
        services=wanted.services,
        service=wanted.service,
        tenant_key=wanted.tenant_key,
        compromised=wanted.compromised,
    )
    told = {
        "request": request.request_id,
        "services": wanted.services,
        "tenant_key": str(wanted.tenant_key).lower(),
        "compromised": str(wanted.compromised).lower(),
    }
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        tx.audit.append(seat.event(name, subject, "intended", **told))
    ask(seat, name, subject, lambda: seat.door.rotate_keys(seat.tenant_id, request), **told)


def retire(seat: PageContext, service: str, version: int) -> None:
    """Destroy an old version of a service's key, for good; it is when this returns. Raises OpenKcmError."""
    name, told = AuditName.RETIRE_REQUESTED, {"version": str(version)}
    require(seat, Permission.MANAGE_KEYS, name, service)
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        tx.audit.append(seat.event(name, service, "intended", **told))
    ask(seat, name, service, lambda: seat.door.retire_service_key(seat.tenant_id, service, version), **told)


def ask_to_compromise(seat: PageContext, wanted: RotationRequest) -> Approval:
    """Ask a second person to have keys replaced as compromised; return the request. Raises OpenKcmError."""
    argument: Argument = {
        "services": wanted.services.value,
        "service": wanted.service,
        "tenant_key": wanted.tenant_key,
    }
    return approval_actions.ask_for(seat, Action.COMPROMISE, argument)


def ask_to_retire(seat: PageContext, service: str, version: int) -> Approval:
    """Ask a second person to have an old version destroyed; return the request. Raises OpenKcmError."""
    return approval_actions.ask_for(seat, Action.RETIRE_KEY_VERSION, {"service": service, "version": version})
