"""Errors that client and server share.

Every error has a stable code, a message and a hint what to do next. None contains a secret.
"""

from enum import StrEnum
from typing import ClassVar


def os_reason(failed: OSError) -> str:
    """Return the system's reason, for the text of an error."""
    return (failed.strerror or "unknown reason").lower()


class Fault(StrEnum):
    CALLER = "caller"
    CUSTOMER_KEY = "customer_key"
    PLATFORM = "platform"


class OpenKcmError(Exception):
    """Base of all errors that cross a boundary inside OpenKCM; raised only through its subclasses."""

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
    """The request is wrong; the same request will be refused again."""

    fault = Fault.CALLER


class FolderRefused(CallerError):
    """Nothing was written over and nothing was asked for."""

    code = "folder_refused"
    message = "the folder of the service cannot be used"
    hint = "use a folder of its own for each service, which its user owns and nobody else may enter"


class AgentRunning(CallerError):
    code = "agent_running"
    message = "another agent looks after this folder"
    hint = "run one agent for each folder"


class ProofRefused(CallerError):
    """Guessed, expired, used, for another service, of another tenant, signed by a stranger: all alike outside."""

    code = "proof_refused"
    message = "the proof does not show that this is the service"
    hint = "make a new join token for this very name and kind, or check issuer, audience, clock and claims of the JWT"


class PlatformError(OpenKcmError):
    """Something of ours is not answering or not as it should be; trying again can help."""

    retryable = True


class IllegalTenantId(CallerError, ValueError):
    code = "illegal_tenant_id"
    message = "this cannot be a tenant id"
    hint = "3 to 40 lower-case letters, digits and hyphens, not starting with a hyphen or with openkcm-"


class InvalidName(CallerError, ValueError):
    code = "invalid_name"

    def __init__(self, what: str, rule: str) -> None:
        super().__init__(f"this cannot be a {what}", f"use {rule}")


class AuditBroken(OpenKcmError):
    code = "audit_broken"
    message = "the audit chain does not verify"
    hint = "keep the export and the database as they are and follow docs/runbook.md#an-audit-stream-does-not-verify"


class CertificateBroken(OpenKcmError):
    code = "certificate_broken"
    message = "the crypto-shred certificate does not verify"
    hint = "keep the file as it is, and ask for the certificate again: openkcmctl audit erasure-certificate <tenant>"


class PublicKeyRefused(CallerError):
    code = "public_key_refused"
    message = "the file holds no public key of the platform"
    hint = "ask the platform for it: openkcmctl audit public-key"


class FileRefused(CallerError):
    code = "file_refused"
    message = "the file cannot be used"
    hint = "choose another file"


class ReportRefuted(OpenKcmError):
    code = "report_refuted"
    message = "the report does not follow from the audit export"
    hint = "keep both files as they are; see docs/reports.md#confirm-or-refute-one for what each finding means"
