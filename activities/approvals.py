"""Activities of approvals: admit, decide, close and expire requests; PostgreSQL rows only (docs/approvals.md).

Each activity reads the votes itself under the tenant's row lock. It trusts no caller about them, because any process
that reaches Temporal can request a decision.

`require_approval` guards each protected step: may one person do this, or did a second person approve it? It runs under
the tenant's row lock, in the transaction of the effect. The caller's process and workflow do not matter, so it also
rejects a step that a forged signal in Temporal started.
"""

from datetime import timedelta

from temporalio import activity

from activities.notifications import NotificationOutbox
from activities.runtime.audit_trail import append_audit_event
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
    def __init__(self, database: Database, outbox: NotificationOutbox, lasts: timedelta) -> None:
        """`lasts` is the time that a request waits for a second person."""
        self._database = database
        self._outbox = outbox
        self._lasts = lasts

    @activity.defn(name="open-approval")
    def admit_approval(self, step: ApprovalStep) -> ApprovalResult:
        """Admit a stored request and notify the customer, or reject it with a code."""
        with self._database.tenant_tx(step.tenant_id) as tx:
            row, approval, stored = tx.tenants.lock(), _require_known(tx, step), False
            if approval.state is ApprovalState.ASKED:
                code = _not_admitted(tx, approval)
                if code:
                    tx.approvals.settle(step.approval_id, ApprovalState.REFUSED, failure=code)
                else:
                    tx.approvals.admit(step.approval_id, self._lasts)
                    stored = self._outbox.store(tx, step, row, NotificationKind.APPROVAL_WAITING)
                _record(tx, step, AuditName.APPROVAL_REQUESTED, "refused" if code else "success", code=code)
            return _result(tx, step, NotificationKind.APPROVAL_WAITING if stored else None)

    @activity.defn(name="decide-approval")
    def decide_approval(self, step: ApprovalStep) -> ApprovalResult:
        """Settle a request by its votes; an earlier decision stays in force.

        Raises:
            VoteRejected: the votes decide nothing.
        """
        with self._database.tenant_tx(step.tenant_id) as tx:
            tx.tenants.lock()
            approval = _require_known(tx, step)
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
        """Record that the approved action is done, or the code of its failure."""
        with self._database.tenant_tx(step.tenant_id) as tx:
            tx.tenants.lock()
            if _require_known(tx, step).state is ApprovalState.APPROVED:
                state = ApprovalState.FAILED if step.code else ApprovalState.DONE
                tx.approvals.settle(step.approval_id, state, failure=step.code)
                _record(tx, step, AuditName.APPROVAL_EXECUTED, "failure" if step.code else "success", code=step.code)
            return WaitingResult(waiting=pending_approvals(tx))

    @activity.defn(name="expire-approvals")
    def expire_approvals(self, step: StepInput) -> WaitingResult:
        """Expire every pending request whose time is over."""
        with self._database.tenant_tx(step.tenant_id) as tx:
            tx.tenants.lock()
            now = tx.approvals.now()
            for approval in tx.approvals.pending():
                if is_over(approval, now):
                    tx.approvals.settle(approval.approval_id, ApprovalState.EXPIRED)
                    name, outcome = _NAMES[ApprovalState.EXPIRED]
                    one = ApprovalStep(**step.model_dump(), approval_id=approval.approval_id)
                    _record(tx, one, name, outcome)
            return WaitingResult(waiting=pending_approvals(tx))


def _not_admitted(tx: TenantTransaction, approval: Approval) -> str:
    """Return the code with which a request is rejected; empty when it is admitted."""
    if not tx.policy.get().wants_two_for(approval.action):
        return ApprovalNotNeeded.code
    now = tx.approvals.now()
    waiting = [one for one in tx.approvals.pending() if not is_over(one, now)]
    if any((one.action, one.argument) == (approval.action, approval.argument) for one in waiting):
        return ApprovalPending.code
    return TooManyApprovals.code if len(waiting) >= MOST_PENDING else ""


def _require_known(tx: TenantTransaction, step: ApprovalStep) -> Approval:
    approval = tx.approvals.get(step.approval_id)
    if approval is None:
        raise ApprovalUnknown
    return approval


def _record(tx: TenantTransaction, step: ApprovalStep, name: AuditName, outcome: Outcome, **extra: str) -> None:
    """Record the state of a request with the requester and the second person."""
    approval = _require_known(tx, step)
    details = {
        "action": approval.action,
        "argument": "; ".join(f"{key}: {value}" for key, value in sorted(approval.argument.items())),
        "requested_by": approval.requested_by,
        "request_reason": approval.request_reason or "",
        "decided_by": approval.decided_by or "",
        "decision_reason": approval.decision_reason or "",
        "expires_at": approval.expires_at.isoformat() if approval.expires_at else "",
        **extra,
    }
    append_audit_event(
        tx, step, name, step.approval_id, outcome, **{key: value for key, value in details.items() if value}
    )


def pending_approvals(tx: TenantTransaction) -> tuple[PendingApproval, ...]:
    """Return the pending requests that a tenant workflow keeps, in the order of their expiry."""
    return tuple(
        PendingApproval(approval_id=one.approval_id, action=one.action, expires_at=one.expires_at)
        for one in tx.approvals.pending()
        if one.expires_at is not None
    )


def _result(tx: TenantTransaction, step: ApprovalStep, notification: NotificationKind | None = None) -> ApprovalResult:
    approval = _require_known(tx, step)
    return ApprovalResult(
        waiting=pending_approvals(tx),
        action=approval.action,
        argument=dict(approval.argument),
        state=approval.state,
        code=approval.failure or "",
        notification=notification,
    )


def require_approval(
    tx: TenantTransaction, step: StepInput, action: Action, argument: Argument, approval_id: str | None
) -> None:
    """Return if the tenant's policy permits this action now, and use up the approval for this operation.

    The caller MUST hold the tenant's row lock, so that neither the policy nor an approval changes before the effect.

    Raises:
        ApprovalRequired: the policy requires two people, and no second person approved exactly this action, or the
            approval was used.
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
