"""The mapping from errors to responses (RFC 9457). For an unlisted error, the caller gets only a reference."""

from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType

from starlette.responses import JSONResponse

from core.errors import platform as errors
from core.errors import requests as enrolment_errors
from core.errors.compliance import CanaryMissing
from core.errors.requests import (
    BodyTooLarge,
    MalformedEvent,
    SignatureRefused,
    StaleTimestamp,
    TooManyRequests,
    Unauthorized,
    UnknownEvent,
    UnknownRegion,
    UnknownService,
)
from core.errors.services import ServiceConflict
from core.errors.tenants import TenantConflict, TenantOffboarded, TenantUnknown
from openkcm.contract import csr as signing_requests
from openkcm.errors import IllegalTenantId, InvalidName, OpenKcmError, ProofRefused

CONTENT_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 2

STATUS: Mapping[type[OpenKcmError], HTTPStatus] = MappingProxyType(
    {
        MalformedEvent: HTTPStatus.BAD_REQUEST,
        SignatureRefused: HTTPStatus.UNAUTHORIZED,
        StaleTimestamp: HTTPStatus.UNAUTHORIZED,
        Unauthorized: HTTPStatus.UNAUTHORIZED,
        TenantUnknown: HTTPStatus.NOT_FOUND,
        TenantOffboarded: HTTPStatus.CONFLICT,
        TenantConflict: HTTPStatus.CONFLICT,
        BodyTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        UnknownEvent: HTTPStatus.UNPROCESSABLE_ENTITY,
        UnknownService: HTTPStatus.UNPROCESSABLE_ENTITY,
        UnknownRegion: HTTPStatus.UNPROCESSABLE_ENTITY,
        IllegalTenantId: HTTPStatus.UNPROCESSABLE_ENTITY,
        InvalidName: HTTPStatus.UNPROCESSABLE_ENTITY,
        ServiceConflict: HTTPStatus.CONFLICT,
        TooManyRequests: HTTPStatus.TOO_MANY_REQUESTS,
        CanaryMissing: HTTPStatus.SERVICE_UNAVAILABLE,
        signing_requests.CsrRefused: HTTPStatus.UNPROCESSABLE_ENTITY,
        enrolment_errors.MalformedEnrolment: HTTPStatus.BAD_REQUEST,
        ProofRefused: HTTPStatus.UNAUTHORIZED,
        enrolment_errors.TicketRefused: HTTPStatus.UNAUTHORIZED,
        enrolment_errors.IssuerUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
        errors.DatabaseUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
        errors.SchemaOutdated: HTTPStatus.SERVICE_UNAVAILABLE,
        errors.ReleaseOutdated: HTTPStatus.SERVICE_UNAVAILABLE,
        errors.TemporalUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    }
)


def answer(error: OpenKcmError) -> JSONResponse | None:
    """Return the response to a listed error; None for an internal one."""
    status = STATUS.get(type(error))
    if status is None:
        return None
    extra = {}
    if status in {HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS}:
        extra["retry-after"] = str(RETRY_AFTER_SECONDS)
    elif isinstance(error, Unauthorized | enrolment_errors.TicketRefused):
        extra["www-authenticate"] = "Bearer"
    return problem(status, error.code, error.message, error.hint, extra)


def internal(reference: str) -> JSONResponse:
    """Return the response to an unexpected error."""
    return problem(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "internal",
        "internal error",
        f"report the reference {reference} to the operator",
    )


def problem(status: int, code: str, detail: str, hint: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Return an RFC 9457 document; `code` and `hint` are extension members, `type` is about:blank."""
    body = {"title": HTTPStatus(status).phrase, "status": int(status), "code": code, "detail": detail, "hint": hint}
    return JSONResponse(body, status, headers, CONTENT_TYPE)
