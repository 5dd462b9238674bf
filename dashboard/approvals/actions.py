"""Approvals, and the tenant policy that requires them, requested and decided from the dashboard.

A request and each vote are stored under the subject of the session, by a database role that can do nothing else. The
worker evaluates them (activities/approvals.py) and does not trust this process.
"""

from uuid import uuid4

from core.errors.tenants import ApprovalUnknown, VoteRejected
from core.tenants.approvals import Action, Approval, ApprovalState, Argument, VoteChoice, parse_reason
from core.tenants.policy import TenantPolicy
from core.tenants.roles import Permission
from dashboard.page_context import PageContext, ask, require
from openkcm.contract.audit_events import AuditName

_OVER = frozenset(
    {
        ApprovalState.REFUSED,
        ApprovalState.EXPIRED,
        ApprovalState.WITHDRAWN,
        ApprovalState.DONE,
        ApprovalState.FAILED,
    }
)
"""States in which a vote changes nothing and is not stored."""


def ask_for(context: PageContext, action: Action, argument: Argument, reason: str) -> Approval:
    """Request the approval of an action for a reason; return the pending request.

    Raises:
        OpenKcmError: nothing was requested; ReasonRequired if the reason is empty or too long.
    """
    name, approval_id = AuditName.APPROVAL_ASKED, uuid4().hex
    require(context, Permission.MANAGE_KEYS, name, action)
    reason = parse_reason(reason)
    with context.database.tenant_tx(context.tenant_id) as tx:
        tx.approvals.ask(approval_id, action, argument, context.person, reason)
        tx.audit.append(context.event(name, action, "intended", approval=approval_id, reason=reason))
    ask(context, name, action, lambda: context.workflows.propose(context.tenant_id, approval_id), approval=approval_id)
    return _known(context, approval_id)


def decide(context: PageContext, approval_id: str, choice: VoteChoice, reason: str = "") -> Approval:
    """Vote on a request and have it evaluated; return its new state, which another person may have decided.

    Raises:
        ReasonRequired: a decline needs a reason; nothing was stored.
        VoteRejected: the requester cannot decide, and a vote cannot be changed; nothing was stored.
        OpenKcmError: not decided yet, and the same vote may be repeated; or approved, with the error of the action.
    """
    name = AuditName.APPROVAL_VOTED
    require(context, Permission.MANAGE_KEYS, name, approval_id)
    person = context.person
    words = parse_reason(reason) if reason.strip() or choice is VoteChoice.DECLINE else None
    with context.database.tenant_tx(context.tenant_id) as tx:
        approval = tx.approvals.get(approval_id)
        if approval is None:
            raise ApprovalUnknown
        own = person.subject == approval.requested_by
        if own if choice is not VoteChoice.WITHDRAW else not own:
            raise VoteRejected
        if approval.state in _OVER:
            return approval
        before = next((vote for vote in tx.approvals.votes(approval_id) if vote.subject == person.subject), None)
        if before is not None and before.choice is not choice:
            raise VoteRejected(f"you have already voted {before.choice}", "a vote cannot be changed")
        tx.approvals.vote(approval_id, person, choice, words)
        details: dict[str, str] = {
            "choice": choice,
            "action": approval.action,
            "requested_by": approval.requested_by,
            **({} if words is None else {"reason": words}),
        }
        tx.audit.append(context.event(name, approval_id, "intended", **details))
    ask(context, name, approval_id, lambda: context.workflows.decide(context.tenant_id, approval_id), **details)
    return _known(context, approval_id)


def change_policy(context: PageContext, policy: TenantPolicy) -> None:
    """Replace the policy; it is in effect when this returns. Raises OpenKcmError: nothing was changed."""
    name = AuditName.POLICY_CHANGE_REQUESTED
    require(context, Permission.MANAGE_KEYS, name, context.tenant_id)
    with context.database.tenant_tx(context.tenant_id) as tx:
        details = {"before": tx.policy.get().in_words(), "after": policy.in_words()}
        tx.audit.append(context.event(name, context.tenant_id, "intended", **details))
    ask(context, name, context.tenant_id, lambda: context.workflows.change_policy(context.tenant_id, policy), **details)


def policy_of(context: PageContext) -> TenantPolicy:
    """Return the tenant's policy."""
    with context.database.tenant_tx(context.tenant_id) as tx:
        return tx.policy.get()


def _known(context: PageContext, approval_id: str) -> Approval:
    with context.database.tenant_tx(context.tenant_id) as tx:
        approval = tx.approvals.get(approval_id)
    if approval is None:
        raise ApprovalUnknown
    return approval
