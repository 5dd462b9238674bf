"""Four eyes: what needs a second person, who that may be, and what their word opens, once.

An approval is for one action with one argument. It is opened by somebody else than whoever asked, in time, in a role
that manages keys; names are for people to read and decide nothing. Everything here is asked again under the tenant's
row lock by whoever does the action (activities/approvals.py), so no other way to it is shorter.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from pydantic import JsonValue

from core.errors.tenants import ApprovalRequired
from core.tenants.roles import PERMISSIONS, Permission, PersonRole

MOST_PENDING = 16
"""Requests of one tenant that may wait at once: nobody looks through more, and the entity remembers each."""

Argument = Mapping[str, JsonValue]
"""What exactly is asked for, in public facts; empty where the action says it all."""


class Action(StrEnum):
    LOCK = "lock"
    ROOT_KEY_TO_PLATFORM = "root-key-to-platform"
    CHANGE_POLICY = "change-policy"
    OFFBOARD = "offboard"
    COMPROMISE = "compromise"
    RETIRE_KEY_VERSION = "retire-key-version"


class ApprovalState(StrEnum):
    ASKED = "asked"
    """Stored by the dashboard; the worker has not looked at it yet."""
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
    """Why somebody may not decide a request."""

    OWN = "own"
    ROLE = "role"


@dataclass(frozen=True, slots=True)
class Vote:
    """What one person said, once; `subject` and `roles` are those of their sign-on."""

    subject: str
    name: str
    roles: frozenset[PersonRole]
    choice: VoteChoice
    at: datetime


@dataclass(frozen=True, slots=True)
class Approval:
    """One request. `expires_at` is None until it is admitted; `used_by` is the operation that did what was approved."""

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
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of a request, and by whose word; `vote` is None where nobody said anything that counts."""

    state: ApprovalState
    vote: Vote | None = None


def obstacle(approval: Approval, subject: str, roles: Iterable[PersonRole]) -> VoteRejection | None:
    """Return why somebody may not decide a request; None when they may."""
    if subject == approval.requested_by:
        return VoteRejection.OWN
    if not any(Permission.MANAGE_KEYS in PERMISSIONS[role] for role in roles):
        return VoteRejection.ROLE
    return None


def is_over(approval: Approval, now: datetime) -> bool:
    """Return whether its time is over, or never began."""
    return approval.expires_at is None or now >= approval.expires_at


def decide(approval: Approval, votes: Iterable[Vote], now: datetime) -> Decision:
    """Return what the votes make of a request that waits: the first that counts decides it.

    Time goes before votes: what nobody acted upon in time is over, whatever was said meanwhile.
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
    """Return if somebody else approved exactly this and no other operation has used it.

    The operation that has begun to use it may go on with it beyond its time, because its steps are tried again.

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
