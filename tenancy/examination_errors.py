"""The errors of the examination of a tenant's boundaries; part of the vocabulary of `errors`."""

from openkcm.errors import CallerError, OpenKcmError, PlatformError


class BreachNotCleared(CallerError):
    """Somebody wants to open a tenant whose newest examination does not say that its walls stand."""

    code = "breach_not_cleared"
    message = "no examination since the breach has found every wall standing"
    hint = "follow docs/runbook.md#a-boundary-was-breached, then run openkcm check-boundaries TENANT"


class NothingToExamine(CallerError):
    """Only a tenant that was opened and has not left has boundaries to attack."""

    code = "nothing_to_examine"

    def __init__(self, state: str) -> None:
        super().__init__(
            f"a tenant that is {state} is not examined", "the gate attacks it before it opens; who left has no keys"
        )


class ExaminationFailed(PlatformError):
    """The examination came to no result: that is no breach and no pass."""

    code = "examination_failed"
    message = "the examination came to no result"
    hint = "the workflow tenant/TENANT/boundaries says why: a server that is down, most likely; openkcm status"


class ExaminationAltered(OpenKcmError):
    """What is on record of an examination is not what was signed."""

    code = "examination_altered"
    hint = "keep the database as it is and follow docs/runbook.md#rows-of-an-examination-were-altered"

    def __init__(self, flaw: str) -> None:
        super().__init__(f"the examination on record is not the one that was signed: {flaw}")
