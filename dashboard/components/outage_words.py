"""What a user reads while the platform cannot carry out a request. Operators read the error's own hint in the logs."""

from core.errors.platform import DatabaseUnavailable, TemporalUnavailable
from openkcm.errors import OpenKcmError
from workflows.client.updates import OperationQueued, OperationTimeout

QUEUED_TITLE = "Request queued"
QUEUED = (
    (
        "The platform cannot start the request at the moment. It is queued and starts automatically as soon as the "
        "platform can; nothing is lost. You can close this window."
    ),
    (
        "The platform's operators have been alerted. If nothing has happened after an hour, repeat the request: a "
        "retry is safe."
    ),
)
CONTINUES_TITLE = "In progress"
CONTINUES = (
    (
        "The request has started and takes longer than usual. It continues automatically; nothing is lost. You can "
        "close this window."
    ),
    "The page shows the result. A retry is safe.",
)
_UNANSWERED = (
    "The platform's control service does not answer. Your keys and services work as before.",
    (
        "The platform's operators have been alerted. Check the current state, then try again in a few minutes: a "
        "retry is safe."
    ),
)


def pending_title(failed: OpenKcmError) -> str | None:
    """Return the title of a request that is not complete and continues; None for any other error."""
    match failed:
        case OperationQueued():
            return QUEUED_TITLE
        case OperationTimeout():
            return CONTINUES_TITLE
    return None


def customer_words(failed: OpenKcmError) -> tuple[str, str] | None:
    """Return message and advice for an outage of the platform; None for any other error, whose own words fit."""
    match failed:
        case OperationQueued():
            return QUEUED
        case OperationTimeout():
            return CONTINUES
        case TemporalUnavailable():
            return _UNANSWERED
        case DatabaseUnavailable():
            return "The platform's database does not respond.", ""
    return None
