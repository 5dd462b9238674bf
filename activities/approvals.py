"""Admitting, deciding, closing and expiring requests for a second person; rows of PostgreSQL only (docs/approvals.md).

Each reads the votes itself, under the tenant's row lock, and believes nobody about them: whoever asks for a decision
may be anybody who reaches Temporal.

The one question that every protected step asks before its effect: may this be done by one person, or did two say so.

It is asked under the tenant's row lock, in the transaction of the effect. Who asks, by which process and in what
workflow does not matter: a signal that was forged in Temporal is stopped here like everything else.
"""

from datetime import timedelta

from temporalio import activity

from activities.audit_trail import append_audit_event
from activities.notifications import NotificationOutbox
from core.errors.tenants import ApprovalNotNeeded, ApprovalPending, ApprovalUnknown, TooManyApprovals, VoteRejected
from core.messages.base import StepInput
from core.messages.tenants import ApprovalResult, ApprovalStep, CloseApprovalInput, PendingApproval, WaitingResult
from core.notifications import NotificationKind
from core.tenants.approvals import (
    MOST_PENDING,
    Action,
    Approval,
    ApprovalState,
    Argument,
    decide,
    is_over,
    refuse_unless_approved,
)
from database.connection.database import Database
from database.connection.transaction import TenantTransaction
from openkcm.contract.audit_events import AuditName, Outcome

_NAMES: dict[ApprovalState, tuple[AuditName, Outcome]] = {
    ApprovalState.APPROVED: (AuditName.APPROVAL_GRANTED, "success"),
    ApprovalState.REFUSED: (AuditName.APPROVAL_DECLINED, "refused"),
    ApprovalState.EXPIRED: (AuditName.APPROVAL_EXPIRED, "refused"),
    ApprovalState.WITHDRAWN: (AuditName.APPROVAL_WITHDRAWN, "success"),
}


class ApprovalActivities:
    def __init__(self, database: Database, announcer: NotificationOutbox, lasts: timedelta) -> None:
        """Take for how long a request waits for a second person."""
        self._database = database
        self._announcer = announcer
        self._lasts = lasts

    @activity.defn(name="admit-approval")
    def admit_approval(self, step: ApprovalStep) -> ApprovalResult:
        """Let a stored request wait for a second person, and have the customer told; or say why it need not."""
        with self._database.tenant_tx(step.tenant_id) as tx:
            row, approval, told = tx.tenants.lock(), _known(tx, step), False
            if approval.state is ApprovalState.ASKED:
                code = _not_admitted(tx, approval)
                if code:
                    tx.approvals.settle(step.approval_id, ApprovalState.REFUSED, reason=code)
                else:
                    tx.approvals.admit(step.approval_id, self._lasts)
                    told = self._announcer.store(tx, step, row, NotificationKind.APPROVAL_WAITING)
                _record(tx, step, AuditName.APPROVAL_REQUESTED, "refused" if code else "success", code=code)
            return _result(tx, step, NotificationKind.APPROVAL_WAITING if told else None)

    @activity.defn(name="decide-approval")
    def decide_approval(self, step: ApprovalStep) -> ApprovalResult:
        """Do what the votes say; what was decided before stays so."""
        with self._database.tenant_tx(step.tenant_id) as tx:
            tx.tenants.lock()
            approval = _known(tx, step)
            decision = decide(approval, tx.approvals.votes(step.approval_id), tx.approvals.now())
            if decision.state in {ApprovalState.ASKED, ApprovalState.PENDING}:
                raise VoteRejected
            if approval.state is ApprovalState.PENDING:
                tx.approvals.settle(step.approval_id, decision.state, decision.vote)
                name, outcome = _NAMES[decision.state]
                _record(tx, step, name, outcome)
            return _result(tx, step)

    @activity.defn(name="close-approval")
    def close_approval(self, step: CloseApprovalInput) -> WaitingResult:
        """Write down that what was approved is done, or what stopped it."""
        with self._database.tenant_tx(step.tenant_id) as tx:
            tx.tenants.lock()
            if _known(tx, step).state is ApprovalState.APPROVED:
                state = ApprovalState.FAILED if step.code else ApprovalState.DONE
                tx.approvals.settle(step.approval_id, state, reason=step.code)
                _record(tx, step, AuditName.APPROVAL_EXECUTED, "failure" if step.code else "success", code=step.code)
            return WaitingResult(waiting=_waiting(tx))

    @activity.defn(name="expire-approvals")
    def expire_approvals(self, step: StepInput) -> WaitingResult:
        """End every request whose time is over."""
        with self._database.tenant_tx(step.tenant_id) as tx:
            tx.tenants.lock()
            now = tx.approvals.now()
            for approval in tx.approvals.pending():
                if is_over(approval, now):
                    tx.approvals.settle(approval.approval_id, ApprovalState.EXPIRED)
                    name, outcome = _NAMES[ApprovalState.EXPIRED]
                    one = ApprovalStep(**step.model_dump(), approval_id=approval.approval_id)
                    _record(tx, one, name, outcome)
            return WaitingResult(waiting=_waiting(tx))


def _not_admitted(tx: TenantTransaction, approval: Approval) -> str:
    """Return the code for which a request is not admitted; empty when it is."""
    if not tx.policy.get().wants_two_for(approval.action):
        return ApprovalNotNeeded.code
    now = tx.approvals.now()
    waiting = [one for one in tx.approvals.pending() if not is_over(one, now)]
    if any((one.action, one.argument) == (approval.action, approval.argument) for one in waiting):
        return ApprovalPending.code
    return TooManyApprovals.code if len(waiting) >= MOST_PENDING else ""


def _known(tx: TenantTransaction, step: ApprovalStep) -> Approval:
    approval = tx.approvals.get(step.approval_id)
    if approval is None:
        raise ApprovalUnknown
    return approval


def _record(tx: TenantTransaction, step: ApprovalStep, name: AuditName, outcome: Outcome, **details: str) -> None:
    """Put on record what became of a request, with both people."""
    approval = _known(tx, step)
    told = {
        "action": approval.action,
        "argument": "; ".join(f"{key}: {value}" for key, value in sorted(approval.argument.items())),
        "requested_by": approval.requested_by,
        "decided_by": approval.decided_by or "",
        "expires_at": approval.expires_at.isoformat() if approval.expires_at else "",
        **details,
    }
    append_audit_event(
        tx, step, name, step.approval_id, outcome, **{key: value for key, value in told.items() if value}
    )


def _waiting(tx: TenantTransaction) -> tuple[PendingApproval, ...]:
    return tuple(
        PendingApproval(approval_id=one.approval_id, action=one.action, expires_at=one.expires_at)
        for one in tx.approvals.pending()
        if one.expires_at is not None
    )


def _result(tx: TenantTransaction, step: ApprovalStep, told: NotificationKind | None = None) -> ApprovalResult:
    approval = _known(tx, step)
    return ApprovalResult(
        waiting=_waiting(tx),
        action=approval.action,
        argument=dict(approval.argument),
        state=approval.state,
        code=approval.reason or "",
        told=told,
    )


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
        append_audit_event(
            tx,
            step,
            AuditName.APPROVAL_EXECUTED,
            approval.approval_id,
            "intended",
            action=action,
            requested_by=approval.requested_by,
            decided_by=approval.decided_by or "",
        )
