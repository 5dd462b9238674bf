"""What takes two people, and the tenant's policy that says so, asked for and decided from the dashboard.

A request and each word on it are stored under the subject of the sign-on, by a role that can do no more than that; what
they come to is decided by the worker (activities/approvals.py). Nothing here is trusted there.
"""

from uuid import uuid4

from core.errors.tenants import ApprovalUnknown, VoteRejected
from core.tenants.approvals import Action, Approval, Argument, VoteChoice
from core.tenants.policy import TenantPolicy
from core.tenants.roles import Permission
from dashboard.page_context import PageContext, ask, require
from openkcm.contract.audit_events import AuditName


def ask_for(seat: PageContext, action: Action, argument: Argument) -> Approval:
    """Ask a second person for something; return it as it waits. Raises OpenKcmError: nobody is asked."""
    name, approval_id = AuditName.APPROVAL_ASKED, uuid4().hex
    require(seat, Permission.MANAGE_KEYS, name, action)
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        tx.approvals.ask(approval_id, action, argument, seat.person)
        tx.audit.append(seat.event(name, action, "intended", approval=approval_id))
    ask(seat, name, action, lambda: seat.door.propose(seat.tenant_id, approval_id), approval=approval_id)
    return _known(seat, approval_id)


def decide(seat: PageContext, approval_id: str, choice: VoteChoice) -> Approval:
    """Say something on a request and have it decided; return it as it stands then.

    Raises:
        VoteRejected: whoever asked does not decide, and nobody speaks twice; nothing was stored.
        OpenKcmError: not decided yet, after which the same may be said again; or approved, and what stopped it.
    """
    name = AuditName.APPROVAL_VOTED
    require(seat, Permission.MANAGE_KEYS, name, approval_id)
    person = seat.person
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        approval = tx.approvals.get(approval_id)
        if approval is None:
            raise ApprovalUnknown
        own = person.subject == approval.requested_by
        if own if choice is not VoteChoice.WITHDRAW else not own:
            raise VoteRejected
        before = next((vote for vote in tx.approvals.votes(approval_id) if vote.subject == person.subject), None)
        if before is not None and before.choice is not choice:
            raise VoteRejected(f"you have said {before.choice} already", "what was said is not taken back")
        tx.approvals.vote(approval_id, person, choice)
        told = {"choice": choice, "action": approval.action, "requested_by": approval.requested_by}
        tx.audit.append(seat.event(name, approval_id, "intended", **told))
    ask(seat, name, approval_id, lambda: seat.door.decide(seat.tenant_id, approval_id), **told)
    return _known(seat, approval_id)


def change_policy(seat: PageContext, policy: TenantPolicy) -> None:
    """Put another policy in force; it is so when this returns. Raises OpenKcmError: nothing was changed."""
    name = AuditName.POLICY_CHANGE_REQUESTED
    require(seat, Permission.MANAGE_KEYS, name, seat.tenant_id)
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        told = {"before": tx.policy.get().in_words(), "after": policy.in_words()}
        tx.audit.append(seat.event(name, seat.tenant_id, "intended", **told))
    ask(seat, name, seat.tenant_id, lambda: seat.door.change_policy(seat.tenant_id, policy), **told)


def policy_of(seat: PageContext) -> TenantPolicy:
    """Return what the tenant asks of its keys now."""
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        return tx.policy.get()


def _known(seat: PageContext, approval_id: str) -> Approval:
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        approval = tx.approvals.get(approval_id)
    if approval is None:
        raise ApprovalUnknown
    return approval
