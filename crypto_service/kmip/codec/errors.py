"""The mapping of our errors to KMIP's result reasons (KMIP 1.4, sections 9.1.3.2.29 and 11; KMIP 2.1, section 11)."""

import uuid
from collections.abc import Mapping
from types import MappingProxyType

import structlog

from core.errors.keys import CustomerKeyError, KeyNotUsable, KeyVersionRetired, WrongContext
from core.errors.requests import TooManyRequests
from core.errors.services import (
    CiphertextRefused,
    ClientNotAuthorized,
    InvalidRequest,
    ObjectLimitReached,
    ObjectNotFound,
)
from core.errors.tenants import TenantNotOperational
from crypto_service.kmip.codec.enums import ResultReason
from crypto_service.kmip.codec.tags import Tag
from openkcm.errors import InvalidName, OpenKcmError, PlatformError

log = structlog.get_logger()

REASONS: Mapping[type[OpenKcmError], ResultReason] = MappingProxyType(
    {
        # "Does not exist" and "belongs to another service" are one class, so that the responses are equal.
        ObjectNotFound: ResultReason.ITEM_NOT_FOUND,
        ObjectLimitReached: ResultReason.PERMISSION_DENIED,
        KeyNotUsable: ResultReason.PERMISSION_DENIED,
        # Key Value Not Present would be more exact, but clients of 1.0 and 1.1 do not know it.
        KeyVersionRetired: ResultReason.CRYPTOGRAPHIC_FAILURE,
        TenantNotOperational: ResultReason.PERMISSION_DENIED,
        ClientNotAuthorized: ResultReason.PERMISSION_DENIED,
        CiphertextRefused: ResultReason.CRYPTOGRAPHIC_FAILURE,
        WrongContext: ResultReason.CRYPTOGRAPHIC_FAILURE,
        InvalidName: ResultReason.INVALID_FIELD,
        InvalidRequest: ResultReason.INVALID_FIELD,
        # KMIP 1.x has no reason for a retry; the message states it.
        TooManyRequests: ResultReason.GENERAL_FAILURE,
        CustomerKeyError: ResultReason.GENERAL_FAILURE,
        PlatformError: ResultReason.GENERAL_FAILURE,
    }
)

_REASONS_OF_2: Mapping[type[OpenKcmError], ResultReason] = MappingProxyType(
    {
        ObjectNotFound: ResultReason.OBJECT_NOT_FOUND,
        ObjectLimitReached: ResultReason.SERVER_LIMIT_EXCEEDED,
        KeyNotUsable: ResultReason.WRONG_KEY_LIFECYCLE_STATE,
    }
)
"""The more exact reasons of KMIP 2.x."""


class KmipRefused(InvalidRequest):
    """A rejection with a reason that only KMIP defines; the message is for the client and contains no value of his.

    `exact` is the reason for clients of KMIP 2.x, which has more of them.
    """

    hint = "see the KMIP specification for the operation"

    def __init__(self, reason: ResultReason, message: str, exact: ResultReason | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.exact = reason if exact is None else exact


class KmipDenied(KmipRefused):
    """The request is valid, but the object does not permit it; the audit distinguishes it from an invalid request."""

    code = KeyNotUsable.code


class KmipDestroyed(KmipRefused):
    """The object was destroyed; for the audit it does not exist."""

    code = ObjectNotFound.code


def reason_and_message(error: Exception, *, of_2: bool = False) -> tuple[ResultReason, str]:
    """Return reason and message for a client, with `of_2` of KMIP 2.x.

    An error outside our vocabulary becomes a reference to the log.
    """
    if isinstance(error, KmipRefused):
        return error.exact if of_2 else error.reason, error.message
    for kind in type(error).__mro__:
        reason = (_REASONS_OF_2.get(kind) if of_2 else None) or REASONS.get(kind)
        if reason is not None and isinstance(error, OpenKcmError):
            return reason, error.message
    reference = uuid.uuid4().hex
    log.error("kmip request failed", reference=reference, exc_info=error)
    return ResultReason.GENERAL_FAILURE, f"internal error, reference {reference}"


def denied(
    message: str, reason: ResultReason = ResultReason.PERMISSION_DENIED, exact: ResultReason | None = None
) -> KmipRefused:
    return KmipDenied(reason, message, exact)


def destroyed() -> KmipRefused:
    return KmipDestroyed(ResultReason.ITEM_NOT_FOUND, ObjectNotFound().message, ResultReason.OBJECT_DESTROYED)


def invalid(message: str) -> KmipRefused:
    return KmipRefused(ResultReason.INVALID_FIELD, message)


def unsupported(message: str) -> KmipRefused:
    return KmipRefused(ResultReason.FEATURE_NOT_SUPPORTED, message)


def malformed(message: str) -> KmipRefused:
    return KmipRefused(ResultReason.INVALID_MESSAGE, message)


def missing(tag: int) -> KmipRefused:
    return KmipRefused(ResultReason.MISSING_DATA, f"{_name(tag)} is missing")


def wrong(tag: int) -> KmipRefused:
    return malformed(f"{_name(tag)} has the wrong type")


def unknown_field(tag: int) -> KmipRefused:
    """Return the rejection of a field that could restrict a request, if it were known: ignoring it does too much."""
    return invalid(f"{_name(tag)} is not supported in this operation")


def _name(tag: int) -> str:
    try:
        return Tag(tag).name.replace("_", " ").lower()
    except ValueError:
        return f"field {tag:06x}"
