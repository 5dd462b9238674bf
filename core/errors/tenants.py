"""The errors of the tenant's policy and of what it wants a second person for; part of the vocabulary of `errors`.

What is refused of a tenant that leaves; the part of `errors` that is about it.
"""

from openkcm.errors import CallerError, PlatformError


class PolicyRefused(CallerError):
    """The numbers are outside of the bounds, or an action is not one; nothing was changed."""

    code = "policy_refused"

    def __init__(
        self, message: str = "this cannot be the policy", hint: str = "see docs/approvals.md#the-policy"
    ) -> None:
        super().__init__(message, hint)


class ApprovalRequired(CallerError):
    """The tenant's policy wants two people for this, and no second one has approved this very thing."""

    code = "approval_required"

    def __init__(self, action: str = "this") -> None:
        super().__init__(
            f"the tenant's policy wants a second person's approval for {action}",
            "ask for it in the dashboard; somebody else of the organization who manages keys approves it there",
        )


class ApprovalNotNeeded(CallerError):
    code = "approval_not_needed"
    message = "the tenant's policy wants no second person for this"
    hint = "do it directly"


class ApprovalPending(CallerError):
    code = "approval_waits"
    message = "somebody has asked for exactly this already"
    hint = "approve what waits on the page settings, or have whoever asked withdraw it"


class TooManyApprovals(CallerError):
    code = "too_many_approvals"
    message = "too many requests wait for a second person"
    hint = "decide or withdraw some of them first"


class ApprovalUnknown(CallerError):
    code = "approval_unknown"
    message = "there is no such request for approval"
    hint = "ask for it again"


class VoteRejected(CallerError):
    """Nothing was decided: nobody has said anything yet, or nobody whose word counts."""

    code = "vote_not_counted"
    message = "this does not decide the request"
    hint = "somebody else than whoever asked has to decide, with a role that manages keys"


REFUSALS: dict[str, type[CallerError]] = {
    refused.code: refused for refused in (ApprovalNotNeeded, ApprovalPending, TooManyApprovals)
}
"""Why a request is not admitted, by the code that stays on record of it."""


class TenantUnknown(CallerError):
    code = "tenant_unknown"
    message = "there is no such tenant"
    hint = "enable OpenKCM for the account first"


class TenantOffboarded(CallerError):
    code = "tenant_offboarded"
    message = "this tenant has left and its id is never used again"
    hint = "enable OpenKCM under a new account id"


class TenantConflict(CallerError):
    code = "tenant_conflict"
    message = "the tenant exists with another region"
    hint = "a tenant stays in the region it was enabled in; offboard it before enabling it elsewhere"


class InvalidTransition(CallerError):
    code = "illegal_move"

    def __init__(self, state: str, move: str, allowed: tuple[str, ...]) -> None:
        super().__init__(
            f"a tenant that is {state} cannot {move}",
            f"from {state} it can: {', '.join(allowed)}" if allowed else f"{state} is final",
        )


class OperationRunning(CallerError):
    code = "operation_running"

    def __init__(self, operation: str) -> None:
        super().__init__(f"{operation} is still running for this tenant", "wait for it to end, then ask again")


class TenantNotOperational(CallerError):
    """The tenant's state forbids what was asked: suspended ones only decrypt, locked and leaving ones do nothing."""

    code = "tenant_closed"

    def __init__(self, state: str) -> None:
        super().__init__(
            f"the tenant is {state}, which does not allow this",
            "ask the customer's security administrator, who can resume or unlock it",
        )


class AccessDenied(CallerError):
    """Somebody is signed on and this is not theirs; whether it exists is not said."""

    code = "access_refused"
    message = "this page is not yours"
    hint = "sign in with an account of the organization it belongs to, or open your own page"


class PermissionDenied(CallerError):
    """Somebody is at their own tenant and their role does not include what they asked for."""

    code = "action_refused"
    message = "your role does not include this"
    hint = "ask an administrator of your organization to do it"


class SessionEnded(CallerError):
    """The sign-on is over, was signed out elsewhere, or was never made here."""

    code = "session_ended"
    message = "your session has ended"
    hint = "sign in again"


class DestructionStarted(CallerError):
    """The grace is over and the tenant's keys are being destroyed, or are."""

    code = "destruction_begun"
    message = "the destruction of the tenant's keys has begun"
    hint = "nothing can be restored any more; the certificate says what was destroyed: openkcmctl tenant show"


class OffboardingAlreadyScheduled(CallerError):
    """The tenant is leaving already, at another time than is asked for now."""

    code = "leaving_otherwise"
    message = "the tenant is leaving already, and at another time"
    hint = "to change the time restore it first, then let it leave again"


class GracePeriodActive(PlatformError):
    code = "grace_not_over"
    message = "the grace of the tenant is not over"
    hint = "nothing is wrong unless it stays: then compare the clocks of the worker and of temporal"
