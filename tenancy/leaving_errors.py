"""What is refused of a tenant that leaves; the part of `errors` that is about it."""

from openkcm.errors import CallerError, PlatformError


class DestructionBegun(CallerError):
    """The grace is over and the tenant's keys are being destroyed, or are."""

    code = "destruction_begun"
    message = "the destruction of the tenant's keys has begun"
    hint = "nothing can be restored any more; the certificate says what was destroyed: openkcm tenant show"


class LeavingOtherwise(CallerError):
    """The tenant is leaving already, at another time than is asked for now."""

    code = "leaving_otherwise"
    message = "the tenant is leaving already, and at another time"
    hint = "to change the time restore it first, then let it leave again"


class GraceNotOver(PlatformError):
    code = "grace_not_over"
    message = "the grace of the tenant is not over"
    hint = "nothing is wrong unless it stays: then compare the clocks of the worker and of temporal"
