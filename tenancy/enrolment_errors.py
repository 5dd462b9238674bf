"""What can be wrong with an enrolment; part of the vocabulary of `errors`."""

from openkcm.errors import CallerError, PlatformError


class MalformedEnrolment(CallerError):
    """The message names the field and never its value."""

    code = "malformed_enrolment"
    message = "the request is not an enrolment"
    hint = "send service, kind, csr and either join_token or jwt as one JSON object; see /docs"


class TicketRefused(CallerError):
    """Not the ticket of this enrolment, or no such enrolment; nobody outside can tell which."""

    code = "ticket_refused"
    message = "the ticket is not the one of this enrolment"
    hint = "send the ticket that came with the enrolment as a bearer token; enrol again if it is lost"


class IssuerUnavailable(PlatformError):
    code = "issuer_unavailable"
    message = "the keys of the JWT's issuer cannot be read"
    hint = "the operator sees the reason in the log of the marketplace endpoint; check workload_issuers"
