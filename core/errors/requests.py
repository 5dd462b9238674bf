"""Errors of requests to the marketplace endpoint and the crypto service: enrolments, events, rate limits."""

from openkcm.errors import CallerError, PlatformError


class MalformedEnrolment(CallerError):
    """The request is malformed. The message names the field and never its value."""

    code = "malformed_enrolment"
    message = "the request is not a valid enrolment"
    hint = "send service, kind, csr and either join_token or jwt as one JSON object; see /docs"


class TicketRefused(CallerError):
    """The ticket is wrong or the enrolment does not exist; the caller cannot distinguish the two."""

    code = "ticket_rejected"
    message = "the ticket does not belong to this enrolment"
    hint = "send the ticket from the response to the enrolment as a bearer token; enrol again if it is lost"


class IssuerUnavailable(PlatformError):
    code = "issuer_unavailable"
    message = "the keys of the JWT's issuer cannot be read"
    hint = "check workload_issuers; the log of the marketplace endpoint records the reason"


class MalformedEvent(CallerError):
    code = "malformed_event"
    message = "the event is malformed"
    hint = "send the fields event, customer, service, region and timestamp as JSON, or a CloudEvent with them"


class SignatureRefused(CallerError):
    code = "signature_invalid"
    message = "the webhook signature does not match the body"
    hint = "sign the raw body with one of the active secrets, as Standard Webhooks specifies"


class StaleTimestamp(CallerError):
    code = "stale_timestamp"
    message = "the event's timestamp is too far from the current time"
    hint = "send the event within five minutes of signing it and check both clocks"


class BodyTooLarge(CallerError):
    code = "body_too_large"
    message = "the body exceeds the maximum size of an event"
    hint = "send only the fields of the event, a few hundred bytes"


class Unauthorized(CallerError):
    code = "unauthorized"
    message = "the request carries no valid credential"
    hint = "send the token of the marketplace as a bearer token"


class UnknownEvent(CallerError):
    code = "unknown_event"
    message = "the event has an unknown kind"
    hint = "use service_enabled, service_disabled or service_discovered"


class UnknownService(CallerError):
    code = "unknown_service"
    message = "the event is for another service"
    hint = "send events with the service openkcm"


class UnknownRegion(CallerError):
    code = "unknown_region"
    message = "OpenKCM is not offered in this region"

    def __init__(self, offered: tuple[str, ...] = ()) -> None:
        super().__init__(hint=f"choose one of: {', '.join(offered)}" if offered else "ask the operator for the regions")


class TooManyRequests(CallerError):
    code = "too_many_requests"
    retryable = True
    message = "the tenant exceeds its rate limit"
    hint = "wait for the time in Retry-After; the limits are settings of the platform"
    retry_after = 1
    """Seconds after which the rate permits the request."""
