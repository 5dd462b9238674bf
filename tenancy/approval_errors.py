"""The errors of the tenant's policy and of what it wants a second person for; part of the vocabulary of `errors`."""

from openkcm.errors import CallerError


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


class ApprovalWaits(CallerError):
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


class VoteNotCounted(CallerError):
    """Nothing was decided: nobody has said anything yet, or nobody whose word counts."""

    code = "vote_not_counted"
    message = "this does not decide the request"
    hint = "somebody else than whoever asked has to decide, with a role that manages keys"


REFUSALS: dict[str, type[CallerError]] = {
    refused.code: refused for refused in (ApprovalNotNeeded, ApprovalWaits, TooManyApprovals)
}
"""Why a request is not admitted, by the code that stays on record of it."""
