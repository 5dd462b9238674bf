"""Errors that client and server share.

Every error has a stable code, a message and a hint what to do next. None contains a secret.
"""

from enum import StrEnum
from typing import ClassVar


def os_reason(failed: OSError) -> str:
    """Return the reason that the operating system reported, for the text of an error."""
    return (failed.strerror or "unknown reason").lower()


class Fault(StrEnum):
    CALLER = "caller"
    CUSTOMER_KEY = "customer_key"
    PLATFORM = "platform"


class OpenKcmError(Exception):
    """Base of all errors that cross a component boundary inside OpenKCM; only subclasses are raised."""

    code: ClassVar[str]
    fault: ClassVar[Fault] = Fault.PLATFORM
    retryable: ClassVar[bool] = False
    message: str = ""
    hint: str = ""

    def __init__(self, message: str | None = None, hint: str | None = None) -> None:
        if message is not None:
            self.message = message
        if hint is not None:
            self.hint = hint
        super().__init__(self.message)


class CallerError(OpenKcmError):
    """The request is wrong; the same request will be rejected again."""

    fault = Fault.CALLER


class FolderRefused(CallerError):
    """No file was overwritten and no request was sent."""

    code = "folder_refused"
    message = "the folder of the service cannot be used"
    hint = "use a separate folder for each service, owned by its user and accessible to no other user"


class AgentRunning(CallerError):
    code = "agent_running"
    message = "another agent uses this folder"
    hint = "run one agent for each folder"


class ProofRefused(CallerError):
    """The reason (unknown, expired, used, wrong service, tenant or issuer) is not revealed to the caller."""

    code = "attestation_rejected"
    message = "the attestation does not identify the service"
    hint = "create a join token for this name and kind, or check issuer, audience, clock and claims of the JWT"


class PlatformError(OpenKcmError):
    """A component of the platform does not respond or does not work correctly; a retry can succeed."""

    retryable = True


class IllegalTenantId(CallerError, ValueError):
    code = "illegal_tenant_id"
    message = "invalid tenant id"
    hint = "3 to 40 lower-case letters, digits and hyphens, not starting with a hyphen or with openkcm-"


class InvalidName(CallerError, ValueError):
    code = "invalid_name"

    def __init__(self, what: str, rule: str) -> None:
        super().__init__(f"invalid {what}", f"use {rule}")


class AuditBroken(OpenKcmError):
    code = "audit_chain_invalid"
    message = "the audit chain does not verify"
    hint = "keep the export and the database as they are and follow docs/runbook.md#an-audit-stream-does-not-verify"


class CertificateBroken(OpenKcmError):
    code = "erasure_certificate_invalid"
    message = "the erasure certificate does not verify"
    hint = "keep the file unchanged, and download the certificate again: openkcmctl audit erasure-certificate <tenant>"


class PublicKeyRefused(CallerError):
    code = "public_key_refused"
    message = "the file contains no public key of the platform"
    hint = "download it: openkcmctl audit public-key"


class FileRefused(CallerError):
    code = "file_refused"
    message = "the file cannot be used"
    hint = "choose another file"


class ReportRefuted(OpenKcmError):
    code = "report_refuted"
    message = "the report is not confirmed by the audit export"
    hint = "keep both files unchanged; see docs/reports.md#verify-a-report for the meaning of each finding"
