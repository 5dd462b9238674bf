"""Approvals: which actions need a second person, who may approve them, and when an approval is valid.

An approval is for one action with one argument and is valid once. A user other than the requester approves it, in
time, with a role that manages keys; names are for display and decide nothing. The activity that executes the action
checks all of this again under the tenant's row lock (activities/approvals.py), so no caller can bypass it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from pydantic import JsonValue

from core.errors.tenants import ApprovalRequired, ReasonRequired
from core.tenants.roles import PERMISSIONS, Permission, PersonRole

MOST_PENDING = 16
"""Pending requests of one tenant: a person cannot review more, and the tenant workflow keeps each in memory."""

LONGEST_REASON = 500
"""Longest reason of a request or a decision, in characters; the table has the same bound."""

Argument = Mapping[str, JsonValue]
"""The exact argument of the action, without secrets; empty if the action needs none."""


class Action(StrEnum):
    LOCK = "lock"
    ROOT_KEY_TO_PLATFORM = "root-key-to-platform"
    CHANGE_POLICY = "change-policy"
    OFFBOARD = "offboard"
    COMPROMISE = "compromise"
    RETIRE_KEY_VERSION = "retire-key-version"


class ApprovalState(StrEnum):
    ASKED = "asked"
    """Stored by the dashboard; the worker has not processed it yet."""
    PENDING = "pending"
    APPROVED = "approved"
    REFUSED = "refused"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"
    DONE = "done"
    FAILED = "failed"


class VoteChoice(StrEnum):
    APPROVE = "approve"
    DECLINE = "decline"
    WITHDRAW = "withdraw"


class VoteRejection(StrEnum):
    """Why a user may not decide a request."""

    OWN = "own"
    ROLE = "role"


@dataclass(frozen=True, slots=True)
class Vote:
    """The vote of one user; `subject` and `roles` come from the sign-in."""

    subject: str
    name: str
    roles: frozenset[PersonRole]
    choice: VoteChoice
    at: datetime
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Approval:
    """One request. `expires_at` is None until it is admitted; `used_by` is the operation that executed the action.

    `failure` is the code of a rejection or of a failed action. The reasons are the words of the requester and of the
    person who decided; None in requests of releases without them.
    """

    approval_id: str
    action: Action
    argument: Argument
    requested_by: str
    requested_name: str
    requested_at: datetime
    state: ApprovalState = ApprovalState.ASKED
    expires_at: datetime | None = None
    decided_by: str | None = None
    decided_name: str | None = None
    decided_at: datetime | None = None
    used_by: str | None = None
    failure: str | None = None
    request_reason: str | None = None
    decision_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome of a request and the vote that decided it; `vote` is None if no vote decided it."""

    state: ApprovalState
    vote: Vote | None = None


def parse_reason(text: str) -> str:
    """Return a reason as one line of printable characters; raises ReasonRequired if it is empty or too long."""
    reason = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    if not 0 < len(reason) <= LONGEST_REASON:
        raise ReasonRequired
    return reason


def obstacle(approval: Approval, subject: str, roles: Iterable[PersonRole]) -> VoteRejection | None:
    """Return why a user may not decide a request; None if they may."""
    if subject == approval.requested_by:
        return VoteRejection.OWN
    if not any(Permission.MANAGE_KEYS in PERMISSIONS[role] for role in roles):
        return VoteRejection.ROLE
    return None


def is_over(approval: Approval, now: datetime) -> bool:
    """Return whether the request has expired or was never admitted."""
    return approval.expires_at is None or now >= approval.expires_at


def decide(approval: Approval, votes: Iterable[Vote], now: datetime) -> Decision:
    """Return the outcome of a pending request: the first valid vote decides it.

    Expiry precedes votes: a request that is not decided in time expires, even if it has votes.
    """
    if approval.state is not ApprovalState.PENDING:
        return Decision(approval.state)
    if is_over(approval, now):
        return Decision(ApprovalState.EXPIRED)
    for vote in sorted(votes, key=lambda vote: (vote.at, vote.subject)):
        if vote.choice is VoteChoice.WITHDRAW:
            if vote.subject == approval.requested_by:
                return Decision(ApprovalState.WITHDRAWN, vote)
        elif obstacle(approval, vote.subject, vote.roles) is None:
            approved = vote.choice is VoteChoice.APPROVE
            return Decision(ApprovalState.APPROVED if approved else ApprovalState.REFUSED, vote)
    return Decision(ApprovalState.PENDING)


def refuse_unless_approved(
    approval: Approval | None, action: Action, argument: Argument, operation_id: str, now: datetime
) -> None:
    """Return if another user approved exactly this action and no other operation used the approval.

    An operation that already uses the approval may continue after its expiry, because its steps are retried.

    Raises:
        ApprovalRequired: in every other case.
    """
    if (
        approval is None
        or approval.state is not ApprovalState.APPROVED
        or approval.decided_by in {None, approval.requested_by}
        or approval.action is not action
        or dict(approval.argument) != dict(argument)
        or (approval.used_by is None and is_over(approval, now))
        or approval.used_by not in {None, operation_id}
    ):
        raise ApprovalRequired(action)
