"""The one question that every protected step asks before its effect: may this be done by one person, or did two say so.

It is asked under the tenant's row lock, in the transaction of the effect. Who asks, by which process and in what
workflow does not matter: a signal that was forged in Temporal is stopped here like everything else.
"""

from activities.journal import record
from core.messages.base import StepInput
from core.tenants.approvals import Action, Argument, refuse_unless_approved
from database.connection.transaction import TenantTransaction
from openkcm.contract.audit_events import AuditName


def require_approval(
    tx: TenantTransaction, step: StepInput, action: Action, argument: Argument, approval_id: str | None
) -> None:
    """Return if the tenant's policy lets this be done now; keeps the approval for this operation.

    The caller MUST hold the tenant's row lock, so that neither the policy nor an approval changes before the effect.

    Raises:
        ApprovalRequired: the policy wants two people, and nobody else approved exactly this, or it was used.
    """
    if not tx.policy.get().wants_two_for(action):
        return
    approval = None if approval_id is None else tx.approvals.get(approval_id)
    refuse_unless_approved(approval, action, argument, step.operation_id, tx.approvals.now())
    if approval is not None and approval.used_by is None:
        tx.approvals.use(approval.approval_id, step.operation_id)
        record(
            tx,
            step,
            AuditName.APPROVAL_EXECUTED,
            approval.approval_id,
            "intended",
            action=action,
            requested_by=approval.requested_by,
            decided_by=approval.decided_by or "",
        )
