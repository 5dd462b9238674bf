"""Mapping of errors to HTTP responses (RFC 9457). An unlisted error is internal, and the caller gets a reference."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from types import MappingProxyType

import structlog

from core.errors import keys as root_key_errors
from core.errors import keys as rotation_errors
from core.errors import platform as errors
from core.errors.compliance import AuditBacklogExceeded, AuditUnavailable
from core.errors.keys import KeyNotUsable, KeyUnavailable
from core.errors.requests import BodyTooLarge, TooManyRequests
from core.errors.services import CiphertextRefused, ClientNotAuthorized, InvalidRequest, ObjectNotFound
from core.errors.tenants import LockedAtKeyServer, TenantNotOperational
from openkcm.errors import InvalidName, OpenKcmError
from vault.auth.client import LoginRefused

CONTENT_TYPE = "application/problem+json"
INTERNAL = "internal"
_UNAVAILABLE_SECONDS = 2

STATUS: Mapping[type[OpenKcmError], HTTPStatus] = MappingProxyType(
    {
        InvalidRequest: HTTPStatus.BAD_REQUEST,
        InvalidName: HTTPStatus.BAD_REQUEST,
        BodyTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        ClientNotAuthorized: HTTPStatus.FORBIDDEN,
        TenantNotOperational: HTTPStatus.FORBIDDEN,
        ObjectNotFound: HTTPStatus.NOT_FOUND,
        KeyNotUsable: HTTPStatus.CONFLICT,
        # Not 410: the resource of the request (RFC 9110, 15.5.11) is the operation, which still exists.
        rotation_errors.KeyVersionRetired: HTTPStatus.CONFLICT,
        CiphertextRefused: HTTPStatus.UNPROCESSABLE_ENTITY,
        TooManyRequests: HTTPStatus.TOO_MANY_REQUESTS,
        # The platform works and the customer's key does not: a failed dependency, which only the customer can fix.
        root_key_errors.RootKeyDisabled: HTTPStatus.FAILED_DEPENDENCY,
        root_key_errors.RootKeyPendingDeletion: HTTPStatus.FAILED_DEPENDENCY,
        root_key_errors.RootKeyMissing: HTTPStatus.FAILED_DEPENDENCY,
        root_key_errors.RootKeyDenied: HTTPStatus.FAILED_DEPENDENCY,
        root_key_errors.RootKeyCredentialsRefused: HTTPStatus.FAILED_DEPENDENCY,
        root_key_errors.RootKeyMismatch: HTTPStatus.FAILED_DEPENDENCY,
        root_key_errors.RootKeyUnsuitable: HTTPStatus.FAILED_DEPENDENCY,
        # The key server does not respond correctly at the moment: a retry may succeed.
        root_key_errors.RootKeyUnreachable: HTTPStatus.SERVICE_UNAVAILABLE,
        root_key_errors.RootKeyTimeout: HTTPStatus.SERVICE_UNAVAILABLE,
        root_key_errors.RootKeyServerError: HTTPStatus.SERVICE_UNAVAILABLE,
        root_key_errors.RootKeyClockSkew: HTTPStatus.SERVICE_UNAVAILABLE,
        root_key_errors.RootKeyThrottled: HTTPStatus.SERVICE_UNAVAILABLE,
        KeyUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
        LockedAtKeyServer: HTTPStatus.SERVICE_UNAVAILABLE,
        errors.VaultUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
        # Wrong rights, secrets or clock of this instance: another one may answer.
        errors.VaultRefused: HTTPStatus.SERVICE_UNAVAILABLE,
        LoginRefused: HTTPStatus.SERVICE_UNAVAILABLE,
        errors.DatabaseUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
        errors.SchemaOutdated: HTTPStatus.SERVICE_UNAVAILABLE,
        errors.ReleaseOutdated: HTTPStatus.SERVICE_UNAVAILABLE,
        AuditUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
        AuditBacklogExceeded: HTTPStatus.SERVICE_UNAVAILABLE,
    }
)
"""Requests answered with 429 or 503 may be retried, others may not."""

OF_ONE_ITEM = (
    InvalidRequest,
    InvalidName,
    CiphertextRefused,
    ObjectNotFound,
    KeyNotUsable,
    rotation_errors.KeyVersionRetired,
)
"""Errors that concern only one item of a batch."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Problem:
    """The response to a rejected request. `retry_after` is in seconds; `allow` lists the methods of the path."""

    status: HTTPStatus
    code: str
    detail: str
    hint: str = ""
    reference: str = ""
    retry_after: int | None = None
    allow: str = ""

    def document(self) -> dict[str, str | int]:
        """Return the JSON object; `code`, `hint` and `reference` are extension members, as section 3.2 allows."""
        found: dict[str, str | int] = {
            "type": "about:blank",
            "title": self.status.phrase,
            "status": int(self.status),
            "code": self.code,
            "detail": self.detail,
            "hint": self.hint,
            "reference": self.reference,
        }
        return {name: value for name, value in found.items() if value != ""}


def from_error(error: Exception) -> Problem:
    """Return the response for an error; an unlisted error is logged, and the caller gets only a reference."""
    status = STATUS.get(type(error)) if isinstance(error, OpenKcmError) else None
    if status is None or not isinstance(error, OpenKcmError):
        reference = uuid.uuid4().hex
        _log.error("request failed", reference=reference, exc_info=error)
        return Problem(
            HTTPStatus.INTERNAL_SERVER_ERROR,
            INTERNAL,
            "internal error",
            "report the reference to the operator",
            reference,
        )
    wait = _UNAVAILABLE_SECONDS if status is HTTPStatus.SERVICE_UNAVAILABLE else None
    if isinstance(error, TooManyRequests):
        wait = error.retry_after
    return Problem(status, error.code, error.message, error.hint, retry_after=wait)


# Rejections by HTTP itself, before any endpoint is called.


def malformed(detail: str) -> Problem:
    return Problem(HTTPStatus.BAD_REQUEST, "malformed_http", detail, "send HTTP/1.1 as defined in RFC 9112")


def no_such_path() -> Problem:
    return Problem(HTTPStatus.NOT_FOUND, "no_such_path", "the path does not exist", "see /.well-known/openkcm")


def no_such_method(allow: str) -> Problem:
    return Problem(
        HTTPStatus.METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "the path does not have this method",
        f"use {allow}",
        allow=allow,
    )


def not_json() -> Problem:
    return Problem(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        "the body is not plain JSON",
        "send content-type: application/json, without content-encoding",
    )


def head_too_large() -> Problem:
    return Problem(
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        "head_too_large",
        "the request line and headers are too large or too many",
        "see limits in /.well-known/openkcm",
    )


def body_too_large(limit: int) -> Problem:
    return Problem(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        BodyTooLarge.code,
        f"the body is larger than {limit} bytes",
        "encrypt larger data locally with a data key",
    )
