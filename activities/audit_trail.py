"""What every step writes about itself: its audit record and its step row, in the transaction of its effect."""

from collections.abc import Callable
from datetime import datetime

from temporalio import activity

from core.messages.base import StepInput
from core.tenants.provisioning import Step
from database.connection.transaction import TenantTransaction
from openkcm.contract.audit_events import AuditEvent, AuditName, Outcome

Clock = Callable[[], datetime]
"""Returns the present as an aware UTC datetime."""

_ACTOR = "worker"


def append_audit_event(
    tx: TenantTransaction,
    step: StepInput,
    name: AuditName,
    subject: str,
    outcome: Outcome = "success",
    **details: str,
) -> int:
    """Append what happened to the tenant's audit stream, once for each operation, name, subject and outcome.

    The number of its record is returned.
    """
    return tx.audit.append(
        AuditEvent(
            event_id=f"{step.operation_id}/{name}/{subject}/{outcome}",
            name=name,
            actor_kind="system",
            actor=_ACTOR,
            subject=subject,
            outcome=outcome,
            correlation_id=activity.info().workflow_id or "",
            details=details,
        )
    )


def complete_step(tx: TenantTransaction, step: StepInput, which: Step, began: datetime) -> None:
    """Mark the step done in the transaction that holds its effect, so that neither is ever seen alone."""
    tx.steps.finish(step.operation_id, which, began)


def is_recorded(tx: TenantTransaction, key: str) -> bool:
    """Return whether a key was recorded as this tenant's; any other under such a name may be somebody else's."""
    return any(recorded.name == key for recorded in tx.keys.all())
