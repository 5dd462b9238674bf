"""One table from our errors to KMIP's result reasons (KMIP 1.4, sections 9.1.3.2.29 and 11)."""

import uuid
from collections.abc import Mapping
from types import MappingProxyType

import structlog

from core.errors.keys import CustomerKeyError, KeyNotUsable, KeyVersionRetired, WrongContext
from core.errors.requests import TooManyRequests
from core.errors.services import CiphertextRefused, ClientNotAuthorized, InvalidRequest, ObjectNotFound
from core.errors.tenants import TenantNotOperational
from crypto_service.kmip.codec.enums import ResultReason
from crypto_service.kmip.codec.tags import Tag
from openkcm.errors import InvalidName, OpenKcmError, PlatformError

log = structlog.get_logger()

REASONS: Mapping[type[OpenKcmError], ResultReason] = MappingProxyType(
    {
        # "Not there" and "not yours" are the same class, so that they are the same answer.
        ObjectNotFound: ResultReason.ITEM_NOT_FOUND,
        KeyNotUsable: ResultReason.PERMISSION_DENIED,
        # Key Value Not Present would say it better, and clients of 1.0 and 1.1 do not know it.
        KeyVersionRetired: ResultReason.CRYPTOGRAPHIC_FAILURE,
        TenantNotOperational: ResultReason.PERMISSION_DENIED,
        ClientNotAuthorized: ResultReason.PERMISSION_DENIED,
        CiphertextRefused: ResultReason.CRYPTOGRAPHIC_FAILURE,
        WrongContext: ResultReason.CRYPTOGRAPHIC_FAILURE,
        InvalidName: ResultReason.INVALID_FIELD,
        InvalidRequest: ResultReason.INVALID_FIELD,
        # KMIP 1.x has no reason for "later"; the message says it.
        TooManyRequests: ResultReason.GENERAL_FAILURE,
        CustomerKeyError: ResultReason.GENERAL_FAILURE,
        PlatformError: ResultReason.GENERAL_FAILURE,
    }
)


class KmipRefused(InvalidRequest):
    """Refused with a reason that only KMIP has a word for; the message is for the client and holds no value of his."""

    hint = "see the KMIP specification for the operation"

    def __init__(self, reason: ResultReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class KmipDenied(KmipRefused):
    """What was asked for is understood, and the object does not allow it; the audit tells it from a mistake."""

    code = KeyNotUsable.code


def reason_and_message(error: Exception) -> tuple[ResultReason, str]:
    """Return what a client is told. What is not in our vocabulary is told as a reference into the log."""
    if isinstance(error, KmipRefused):
        return error.reason, error.message
    for kind in type(error).__mro__:
        reason = REASONS.get(kind)
        if reason is not None and isinstance(error, OpenKcmError):
            return reason, error.message
    reference = uuid.uuid4().hex
    log.error("kmip request failed", reference=reference, exc_info=error)
    return ResultReason.GENERAL_FAILURE, f"internal error, reference {reference}"


def denied(message: str, reason: ResultReason = ResultReason.PERMISSION_DENIED) -> KmipRefused:
    return KmipDenied(reason, message)


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


def _name(tag: int) -> str:
    try:
        return Tag(tag).name.replace("_", " ").lower()
    except ValueError:
        return f"field {tag:06x}"
