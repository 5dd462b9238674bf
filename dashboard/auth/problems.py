"""What a user reads in place of a page: what happened, and what to do next. Pure.

The same words are used by the documents that replace the application and by the pages inside it. A customer reads no
component's name and no command; an operator reads both.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from types import MappingProxyType

from core.errors.compliance import CertificateMissing, ReportUnknown
from core.errors.services import InvalidRequest
from core.errors.tenants import AccessDenied, PageNotFound, SessionEnded
from dashboard.components.tenant_status import sentence
from openkcm.errors import OpenKcmError, PlatformError

HOME, OTHER_ACCOUNT = "/", "/auth/logout"


@dataclass(frozen=True, slots=True)
class Way:
    """A link; an empty `target` is the address of the refused request, with its query."""

    label: str
    target: str = ""


@dataclass(frozen=True, slots=True)
class Problem:
    """`retries` is whether the same request succeeds later without an action of the user."""

    status: HTTPStatus
    title: str
    happened: str
    advice: str
    ways: tuple[Way, ...]
    retries: bool = False


# The errors themselves advise an operator at a terminal.
_FILE_ADVICE: Mapping[type[OpenKcmError], str] = MappingProxyType(
    {
        CertificateMissing: "The certificate is issued at the end of offboarding.",
        ReportUnknown: "The page Compliance lists the reports of your tenant.",
    }
)
_GO_HOME = Way("Go to your page", HOME)
_RETRY = Way("Retry")
_ENDED = Problem(
    HTTPStatus.FORBIDDEN,
    "Your session has ended",
    "You signed out in another window, or the session was idle for too long.",
    "Sign in again to return to this page.",
    (Way("Sign in again"),),
)
_UNAVAILABLE = Problem(
    HTTPStatus.SERVICE_UNAVAILABLE,
    "Page unavailable",
    "OpenKCM cannot read the data of this page at the moment. Nothing was changed. Services use the keys that they "
    "hold for about a minute; later requests can fail until the data is available again.",
    "This page retries automatically. If it is still unavailable after some minutes, contact your platform's operator.",
    (_RETRY,),
    retries=True,
)


def problem_of(refused: OpenKcmError, *, operator: bool = False) -> Problem:
    """Return the words for a refused request; an operator reads the cause of an outage."""
    if isinstance(refused, SessionEnded):
        return _ENDED
    if isinstance(refused, PlatformError):
        if not operator:
            return _UNAVAILABLE
        return Problem(
            _UNAVAILABLE.status,
            _UNAVAILABLE.title,
            f"{sentence(refused.message)} Nothing was changed.",
            f"{sentence(refused.hint)} This page retries automatically.",
            _UNAVAILABLE.ways,
            retries=True,
        )
    status, title = HTTPStatus.FORBIDDEN, "Page unavailable"
    ways: tuple[Way, ...] = (_RETRY,)
    if isinstance(refused, AccessDenied):
        title, ways = "Access denied", (_GO_HOME, Way("Sign in with another account", OTHER_ACCOUNT))
    elif isinstance(refused, PageNotFound):
        status, title, ways = HTTPStatus.NOT_FOUND, "Page not found", (_GO_HOME,)
    elif isinstance(refused, CertificateMissing | ReportUnknown):
        status, title, ways = HTTPStatus.NOT_FOUND, "File not found", (_GO_HOME, _RETRY)
    elif isinstance(refused, InvalidRequest):
        status, title, ways = HTTPStatus.BAD_REQUEST, "Invalid request", (_GO_HOME,)
    advice = _FILE_ADVICE.get(type(refused), refused.hint)
    return Problem(status, title, sentence(refused.message), sentence(advice), ways)
