"""From errors to HTTP answers, in one table (RFC 9457). What is not listed is ours, and the caller gets a reference."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from types import MappingProxyType

import structlog

from core.errors import keys as root_key_errors
from core.errors import keys as rotation_errors
from core.errors import platform as errors
from core.errors.compliance import AuditUnavailable
from core.errors.keys import KeyNotUsable, KeyUnavailable
from core.errors.requests import BodyTooLarge, TooManyRequests
from core.errors.services import CiphertextRefused, ClientNotAuthorized, InvalidRequest, ObjectNotFound
from core.errors.tenants import TenantNotOperational
from openkcm.errors import InvalidName, OpenKcmError

CONTENT_TYPE = "application/problem+json"
INTERNAL = "internal"
_UNAVAILABLE_SECONDS = 2
_RATE_SECONDS = 1
"""The rate allows bursts of one second: after one, a whole second's worth is there again."""

STATUS: Mapping[type[OpenKcmError], HTTPStatus] = MappingProxyType(
    {
        InvalidRequest: HTTPStatus.BAD_REQUEST,
        InvalidName: HTTPStatus.BAD_REQUEST,
        BodyTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        ClientNotAuthorized: HTTPStatus.FORBIDDEN,
        TenantNotOperational: HTTPStatus.FORBIDDEN,
        ObjectNotFound: HTTPStatus.NOT_FOUND,
        KeyNotUsable: HTTPStatus.CONFLICT,
        # Not 410: what is gone is not the resource that the request names (RFC 9110, 15.5.11), which is the operation.
        rotation_errors.KeyVersionRetired: HTTPStatus.CONFLICT,
        CiphertextRefused: HTTPStatus.UNPROCESSABLE_ENTITY,
        TooManyRequests: HTTPStatus.TOO_MANY_REQUESTS,
        # The platform did its part and the customer's key did not: a failed dependency, which only they can mend.
        root_key_errors.RootKeyDisabled: HTTPStatus.FAILED_DEPENDENCY,
        root_key_errors.RootKeyPendingDeletion: HTTPStatus.FAILED_DEPENDENCY,
        root_key_errors.RootKeyMissing: HTTPStatus.FAILED_DEPENDENCY,
        root_key_errors.RootKeyDenied: HTTPStatus.FAILED_DEPENDENCY,
        root_key_errors.RootKeyCredentialsRefused: HTTPStatus.FAILED_DEPENDENCY,
        root_key_errors.RootKeyMismatch: HTTPStatus.FAILED_DEPENDENCY,
        root_key_errors.RootKeyUnsuitable: HTTPStatus.FAILED_DEPENDENCY,
        # It does not answer as it should at the moment: trying again can help.
        root_key_errors.RootKeyUnreachable: HTTPStatus.SERVICE_UNAVAILABLE,
        root_key_errors.RootKeyTimeout: HTTPStatus.SERVICE_UNAVAILABLE,
        root_key_errors.RootKeyServerError: HTTPStatus.SERVICE_UNAVAILABLE,
        root_key_errors.RootKeyClockSkew: HTTPStatus.SERVICE_UNAVAILABLE,
        root_key_errors.RootKeyThrottled: HTTPStatus.SERVICE_UNAVAILABLE,
        KeyUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
        errors.VaultUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
        errors.DatabaseUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
        AuditUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    }
)
"""What is answered with 429 or 503 may be sent again, everything else may not."""

OF_ONE_ITEM = (
    InvalidRequest,
    InvalidName,
    CiphertextRefused,
    ObjectNotFound,
    KeyNotUsable,
    rotation_errors.KeyVersionRetired,
)
"""Refusals that say nothing of a batch's other items."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Problem:
    """An answer to a request that is refused. `retry_after` is in seconds, `allow` names the methods a path has."""

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
    """Return the answer to an error; one that is not listed goes to the log, and the caller gets a reference only."""
    status = STATUS.get(type(error)) if isinstance(error, OpenKcmError) else None
    if status is None or not isinstance(error, OpenKcmError):
        reference = uuid.uuid4().hex
        _log.error("request failed", reference=reference, exc_info=error)
        return Problem(
            HTTPStatus.INTERNAL_SERVER_ERROR,
            INTERNAL,
            "something went wrong on our side",
            "tell the operator the reference",
            reference,
        )
    wait = {HTTPStatus.SERVICE_UNAVAILABLE: _UNAVAILABLE_SECONDS, HTTPStatus.TOO_MANY_REQUESTS: _RATE_SECONDS}
    return Problem(status, error.code, error.message, error.hint, retry_after=wait.get(status))


# What HTTP itself refuses, before any endpoint is asked.


def malformed(detail: str) -> Problem:
    return Problem(HTTPStatus.BAD_REQUEST, "malformed_http", detail, "speak HTTP/1.1 as RFC 9112 has it")


def no_such_path() -> Problem:
    return Problem(HTTPStatus.NOT_FOUND, "no_such_path", "there is nothing under this path", "see /.well-known/openkcm")


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
