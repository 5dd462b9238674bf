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


class MalformedEvent(CallerError):
    code = "malformed_event"
    message = "the event is not one this endpoint understands"
    hint = "send the fields event, customer, service, region and timestamp as JSON, or a CloudEvent carrying them"


class SignatureRefused(CallerError):
    code = "signature_refused"
    message = "the webhook signature does not fit the body"
    hint = "sign the raw body with one of the active secrets, as Standard Webhooks describes"


class StaleTimestamp(CallerError):
    code = "stale_timestamp"
    message = "the event's timestamp is too far from the present"
    hint = "send the event within five minutes of signing it and check both clocks"


class BodyTooLarge(CallerError):
    code = "body_too_large"
    message = "the body is larger than an event may be"
    hint = "an event is a few hundred bytes; send only its fields"


class Unauthorized(CallerError):
    code = "unauthorized"
    message = "the request carries no valid credential"
    hint = "send the token of the marketplace as a bearer token"


class UnknownEvent(CallerError):
    code = "unknown_event"
    message = "this kind of event is not known"
    hint = "the kinds are service_enabled, service_disabled and service_discovered"


class UnknownService(CallerError):
    code = "unknown_service"
    message = "the event is about another service"
    hint = "events for OpenKCM carry the service openkcm"


class UnknownRegion(CallerError):
    code = "unknown_region"
    message = "OpenKCM is not offered in this region"

    def __init__(self, offered: tuple[str, ...] = ()) -> None:
        super().__init__(hint=f"choose one of: {', '.join(offered)}" if offered else "ask the operator for the regions")


class TooManyRequests(CallerError):
    code = "too_many_requests"
    retryable = True
    message = "the tenant sends more requests than it may"
    hint = "wait as long as Retry-After says; the limits are settings of the platform"
