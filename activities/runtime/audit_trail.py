"""The audit event and the step row that each step writes in the transaction of its effect."""

from collections.abc import Callable
from datetime import datetime

from temporalio import activity

from core.messages.base import StepInput
from core.tenants.provisioning import Step
from database.connection.transaction import TenantTransaction
from openkcm.contract.audit_events import AuditEvent, AuditName, Outcome

Clock = Callable[[], datetime]
"""Returns the current time as an aware UTC datetime."""

_ACTOR = "worker"


def append_audit_event(
    tx: TenantTransaction,
    step: StepInput,
    name: AuditName,
    subject: str,
    outcome: Outcome = "success",
    **details: str,
) -> int:
    """Append an event to the tenant's audit stream, once for each operation, name, subject and outcome.

    Returns the sequence number of the record. A step that appends many events MUST build them and append them at once:
    the appends of one transaction take a time that grows with the square of their number.
    """
    return tx.audit.append(build_audit_event(step, name, subject, outcome, **details))


def build_audit_event(
    step: StepInput, name: AuditName, subject: str, outcome: Outcome = "success", **details: str
) -> AuditEvent:
    """Return an event of a step; its id makes a repeated append add nothing."""
    return AuditEvent(
        event_id=_event_id(step, name, subject, outcome),
        name=name,
        actor_kind="system",
        actor=_ACTOR,
        subject=subject,
        outcome=outcome,
        correlation_id=activity.info().workflow_id or "",
        details=details,
    )


def is_executed(
    tx: TenantTransaction, step: StepInput, name: AuditName, subject: str, outcome: Outcome = "success"
) -> bool:
    """Return whether an earlier attempt of this step has appended this event; the caller holds the tenant's row lock.

    An attempt whose worker was suspended may continue after later operations. It must change nothing: it would revoke
    their result, and the audit stream would not contain that, because the event id is recorded already.
    """
    return tx.audit.is_recorded(_event_id(step, name, subject, outcome))


def executed_at(
    tx: TenantTransaction, step: StepInput, name: AuditName, subject: str, outcome: Outcome = "success"
) -> datetime | None:
    """Return when an earlier attempt of this step appended this event; None if `is_executed` is False."""
    return tx.audit.recorded_at(_event_id(step, name, subject, outcome))


def _event_id(step: StepInput, name: AuditName, subject: str, outcome: Outcome) -> str:
    return f"{step.operation_id}/{name}/{subject}/{outcome}"


def complete_step(tx: TenantTransaction, step: StepInput, which: Step, began: datetime) -> None:
    """Mark the step done in the transaction of its effect, so that readers see both or neither."""
    tx.steps.finish(step.operation_id, which, began)


def is_recorded(tx: TenantTransaction, key: str) -> bool:
    """Return whether a key was recorded for this tenant; an unrecorded key of that name may belong to another user."""
    return any(recorded.name == key for recorded in tx.keys.all())
