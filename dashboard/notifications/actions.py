"""Changes of notification targets, tests and retries, from the dashboard.

The database records a change and its audit event in one transaction. A signing secret is created here and encrypted at
once, so that only the worker can decrypt it; the caller shows it once. Tests and retries run in a workflow.
"""

from collections.abc import Iterable, Mapping
from uuid import uuid4

from config.credential_encryption import encrypt_signing_secret
from config.secrets import webhook_secret
from core.errors.tenants import TenantNotOperational, TenantUnknown
from core.messages.notifications import DeliverInput
from core.notifications import NotificationKind, message_id
from core.notifications.targets import (
    TargetKind,
    muted_for,
    parse_address,
    parse_label,
    secret_ref,
    shown_address,
)
from core.tenants.lifecycle import State
from core.tenants.roles import Permission
from dashboard.page_context import PageContext, ask, require
from database.connection.transaction import TenantTransaction
from database.notifications import Delivery
from database.tenants import TenantRow
from openkcm.contract.audit_events import AuditName


def add(
    context: PageContext, kind: TargetKind, label: str, address: str, events: Iterable[NotificationKind]
) -> str | None:
    """Add a target with its events; return the signing secret of a webhook.

    Raises:
        TargetInvalid: a field is not valid.
        TargetsFull, TenantNotOperational, SessionEnded, PermissionDenied: nothing was changed.
    """
    name, target_id = AuditName.NOTIFICATION_TARGET_ADDED, uuid4().hex
    require(context, Permission.MANAGE_NOTIFICATIONS, name, target_id)
    label, muted = parse_label(label), muted_for(events)
    address = parse_address(kind, address, plain_http=context.plain_webhooks)
    secret = webhook_secret() if kind is TargetKind.WEBHOOK else None
    sealed = None if secret is None else _seal(context, target_id, 1, secret)
    with context.database.tenant_tx(context.tenant_id) as tx:
        _require_existing(tx)
        tx.targets.add(target_id, kind, label, address, muted, sealed)
        details = {"kind": kind, "label": label, "address": shown_address(kind, address), **_muted(muted)}
        tx.audit.append(context.event(name, target_id, "success", **details))
    return secret


def change_events(context: PageContext, target_id: str, events: Iterable[NotificationKind]) -> None:
    """Replace the events of a target; raises as `add`, and TargetUnknown."""
    name = AuditName.NOTIFICATION_TARGET_CHANGED
    require(context, Permission.MANAGE_NOTIFICATIONS, name, target_id)
    muted = muted_for(events)
    with context.database.tenant_tx(context.tenant_id) as tx:
        tx.targets.mute(target_id, muted)
        tx.audit.append(context.event(name, target_id, "success", **_muted(muted)))


def pause(context: PageContext, target_id: str, *, paused: bool) -> None:
    """Pause or resume a target; raises TargetUnknown, SessionEnded, PermissionDenied."""
    name = AuditName.NOTIFICATION_TARGET_CHANGED
    require(context, Permission.MANAGE_NOTIFICATIONS, name, target_id)
    with context.database.tenant_tx(context.tenant_id) as tx:
        tx.targets.pause(target_id, paused=paused)
        tx.audit.append(context.event(name, target_id, "success", paused=str(paused).lower()))


def rotate_secret(context: PageContext, target_id: str) -> str:
    """Replace the signing secret of a webhook and return the new one; the former one stays valid for a day.

    Raises:
        Superseded: another administrator rotated it at the same time.
        TargetUnknown, SessionEnded, PermissionDenied: nothing was changed.
    """
    name = AuditName.NOTIFICATION_SECRET_ROTATED
    require(context, Permission.MANAGE_NOTIFICATIONS, name, target_id)
    secret = webhook_secret()
    with context.database.tenant_tx(context.tenant_id) as tx:
        number = tx.targets.get(target_id).secret_number + 1
        tx.targets.replace_secret(target_id, number, _seal(context, target_id, number, secret))
        tx.audit.append(context.event(name, target_id, "success", number=str(number)))
    return secret


def remove(context: PageContext, target_id: str) -> None:
    """Remove a target; its unsent messages become dead letters. Raises as `pause`."""
    name = AuditName.NOTIFICATION_TARGET_REMOVED
    require(context, Permission.MANAGE_NOTIFICATIONS, name, target_id)
    with context.database.tenant_tx(context.tenant_id) as tx:
        target = tx.targets.get(target_id)
        tx.targets.remove(target_id)
        tx.audit.append(context.event(name, target_id, "success", kind=target.kind, label=target.label))


def send_test(context: PageContext, target_id: str) -> Delivery | None:
    """Send a test message and return its delivery after the first attempt.

    Raises OpenKcmError: nothing was sent, or its result is not known yet and the delivery log shows it.
    """
    request = DeliverInput(tenant_id=context.tenant_id, operation_id=uuid4().hex, target_id=target_id)
    sent = message_id(context.tenant_id, request.operation_id, NotificationKind.TEST, target_id)
    return _deliver(context, AuditName.NOTIFICATION_TEST_REQUESTED, request, sent)


def retry(context: PageContext, target_id: str, unsent: str) -> Delivery | None:
    """Attempt an unsent message again; returns and raises as `send_test`."""
    request = DeliverInput(
        tenant_id=context.tenant_id, operation_id=uuid4().hex, target_id=target_id, message_id=unsent
    )
    return _deliver(context, AuditName.ANNOUNCE_RETRY_REQUESTED, request, unsent)


def _deliver(context: PageContext, name: AuditName, request: DeliverInput, message: str) -> Delivery | None:
    require(context, Permission.MANAGE_NOTIFICATIONS, name, request.target_id)
    with context.database.tenant_tx(context.tenant_id) as tx:
        region = _require_existing(tx).region
    ask(
        context,
        name,
        request.target_id,
        lambda: context.workflows.deliver_notification(context.tenant_id, region, request),
        message=message,
    )
    with context.database.tenant_tx(context.tenant_id) as tx:
        return tx.outbox.delivery(message)


def _require_existing(tx: TenantTransaction) -> TenantRow:
    tenant = tx.tenants.get()
    if tenant is None:
        raise TenantUnknown
    if tenant.state is State.OFFBOARDED:
        raise TenantNotOperational(tenant.state)
    return tenant


def _seal(context: PageContext, target_id: str, number: int, secret: str) -> str:
    return encrypt_signing_secret(context.intake_key, context.tenant_id, secret_ref(target_id, number), secret)


def _muted(muted: frozenset[str]) -> Mapping[str, str]:
    return {"muted": ", ".join(sorted(muted))} if muted else {}
