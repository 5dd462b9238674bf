"""Errors of a tenant: policy, approvals, state, access, offboarding."""

from openkcm.errors import CallerError, PlatformError


class PolicyRefused(CallerError):
    """A number is outside its bounds or an action is unknown; the policy is unchanged."""

    code = "policy_refused"

    def __init__(self, message: str = "the policy is invalid", hint: str = "see docs/approvals.md#policy") -> None:
        super().__init__(message, hint)


class ApprovalRequired(CallerError):
    """The tenant's policy requires an approval for this action, and no second person approved it."""

    code = "approval_required"

    def __init__(self, action: str = "this") -> None:
        super().__init__(
            f"the tenant's policy requires a second person's approval for {action}",
            "request it in the dashboard; another user of the organization with a role that manages keys approves it",
        )


class ApprovalNotNeeded(CallerError):
    code = "approval_not_needed"
    message = "the tenant's policy requires no approval for this action"
    hint = "do it without a request for approval"


class ApprovalPending(CallerError):
    code = "approval_pending"
    message = "an approval of exactly this action is already pending"
    hint = "approve it on the page Approvals, or ask its requester to withdraw it"


class ReasonRequired(CallerError):
    """The reason of a request for approval, or of a decision, is missing or too long."""

    code = "reason_required"
    message = "a reason is required"
    hint = "enter a reason of at most 500 characters; the other person sees it, and it is recorded"


class TooManyApprovals(CallerError):
    code = "too_many_approvals"
    message = "too many approvals are pending"
    hint = "decide or withdraw some of them first"


class ApprovalUnknown(CallerError):
    code = "approval_unknown"
    message = "the request for approval does not exist"
    hint = "request it again"


class VoteRejected(CallerError):
    """The request is still undecided: it has no vote, or no vote of a user who may decide it."""

    code = "vote_rejected"
    message = "this vote does not decide the request"
    hint = "a user other than the requester must decide it, with a role that manages keys"


class WorkflowStarting(PlatformError):
    """A new tenant workflow has not read the tenant's state yet; callers repeat the request."""

    code = "workflow_starting"
    message = "the tenant's workflow is starting"
    hint = "repeat the request; the workflow starts as soon as PostgreSQL responds"


REFUSALS: dict[str, type[CallerError]] = {
    refused.code: refused for refused in (ApprovalNotNeeded, ApprovalPending, TooManyApprovals)
}
"""Recorded error code → error with which a request for approval is rejected."""


class TenantUnknown(CallerError):
    code = "tenant_unknown"
    message = "the tenant does not exist"
    hint = "enable OpenKCM for the account first"


class TenantOffboarded(CallerError):
    code = "tenant_offboarded"
    message = "the tenant is offboarded and its id is never reused"
    hint = "enable OpenKCM under a new account id"


class TenantConflict(CallerError):
    code = "tenant_conflict"
    message = "the tenant exists with another region"
    hint = "a tenant keeps the region in which it was enabled; offboard it before you enable it elsewhere"


class EventSuperseded(CallerError):
    """A later event of the marketplace revokes the one that was to be processed; the tenant is unchanged."""

    code = "event_superseded"
    message = "a later event of the marketplace revokes this one"
    hint = "no action is needed; the last event is in force"


class InvalidTransition(CallerError):
    code = "invalid_transition"

    def __init__(self, state: str, move: str, allowed: tuple[str, ...]) -> None:
        possible = ", ".join(allowed).replace("_", " ")
        super().__init__(
            f"a tenant that is {state} cannot {move.replace('_', ' ')}",
            f"from {state} it can: {possible}" if allowed else f"{state} is final",
        )


class OperationRunning(CallerError):
    code = "operation_running"

    def __init__(self, operation: str) -> None:
        super().__init__(f"{operation} is still running for this tenant", "wait until it ends, then retry")


class OperationCancelled(CallerError):
    """An operator cancelled the operation's workflow, which undid what it had done."""

    code = "operation_cancelled"
    message = "the operation was cancelled"
    hint = "request it again"


class OperationLost(CallerError):
    """The operation's workflow was lost or terminated; the next tenant workflow ended the operation."""

    code = "operation_lost"
    message = "the operation was interrupted by the loss of its workflow; all keys still work"
    hint = "request it again"


class OperationRepeated(CallerError):
    """A late attempt of an operation would revoke the result of a later one; the tenant is unchanged."""

    code = "operation_repeated"
    message = "a later operation was completed first, or has changed the result of this one"
    hint = "request it again if it is still needed"


class TenantNotOperational(CallerError):
    """The tenant's state forbids the operation.

    A suspended tenant may only decrypt; a locked or offboarding tenant may do nothing.
    """

    code = "tenant_not_operational"

    def __init__(self, state: str) -> None:
        super().__init__(
            f"the tenant is {state}, which does not allow this operation",
            "ask the customer's security administrator, who can resume or unlock it",
        )


class LockedAtKeyServer(PlatformError):
    """The key server has a lock of the tenant, and the database has none: it may come from an older backup."""

    code = "locked_at_key_server"
    message = "the database and the key server have different states of this tenant"
    hint = "an operator compares them with openkcmctl doctor --stores and repairs the difference"


class AccessDenied(CallerError):
    """The signed-in user may not access this page; the error does not reveal whether the tenant exists."""

    code = "access_denied"
    message = "you do not have access to this page"
    hint = "sign in with an account of its organization, or open your own page"


class PageNotFound(CallerError):
    code = "page_not_found"
    message = "this address is no page of OpenKCM"
    hint = "check the address, or go to your page"


class PermissionDenied(CallerError):
    """The user's role at their own tenant does not permit the action."""

    code = "permission_denied"
    message = "your role does not permit this action"
    hint = "ask an administrator of your organization to do it"


class SessionEnded(CallerError):
    """The session expired, was ended by a sign-out elsewhere, or never existed."""

    code = "session_ended"
    message = "your session has ended"
    hint = "sign in again"


class DestructionStarted(CallerError):
    """The grace period is over and the tenant's keys are destroyed, or their destruction is running."""

    code = "destruction_started"
    message = "the destruction of the tenant's keys has begun"
    hint = (
        "the tenant cannot be restored; the erasure certificate lists the destroyed keys:"
        " openkcmctl audit erasure-certificate"
    )


class OffboardingAlreadyScheduled(CallerError):
    """Offboarding is scheduled for another time than the requested one."""

    code = "offboarding_already_scheduled"
    message = "offboarding is already scheduled for a different time"
    hint = "to change the time, restore the tenant and start offboarding again"


class RestorePending(PlatformError):
    """The marketplace enabled the tenant within its grace period; its tenant workflow has not restored it yet."""

    code = "restore_pending"
    message = "the marketplace has enabled the tenant again; nothing is destroyed"
    hint = "the platform restores it; if the error persists: openkcmctl tenant restore"


class GracePeriodActive(PlatformError):
    code = "grace_period_active"
    message = "the grace period of the tenant is not over"
    hint = "the platform retries; if the error persists, compare the clocks of the worker and of Temporal"
