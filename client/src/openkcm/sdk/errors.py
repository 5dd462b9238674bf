"""What the client raises: one class per thing a program would do differently, each with the service's code and hint."""

from collections.abc import Mapping
from typing import Any


class ClientError(Exception):
    """Base of everything the client raises.

    `code` is stable and for programs, `hint` is the next step for a person, `reference` finds the operator's log line,
    `status` is 0 when there was no answer. Texts hold no plaintext and no key.
    """

    retryable = False

    def __init__(self, code: str, detail: str, hint: str = "", status: int = 0, reference: str = "") -> None:
        super().__init__(detail)
        self.code, self.detail, self.hint, self.status, self.reference = code, detail, hint, status, reference

    def __str__(self) -> str:
        extra = "".join(f"; {part}" for part in (self.hint, self.reference and f"reference {self.reference}") if part)
        return f"{self.detail} ({self.code}){extra}"


class RequestRefused(ClientError):
    """The request itself is wrong; sent again it is refused again."""


class CiphertextRefused(ClientError):
    """Altered, moved, or encrypted by another service or under another resource."""


class KeyVersionRetired(ClientError):
    """Encrypted under a version of the service's key that is compromised or destroyed; nothing opens it any more."""


class AccessRefused(ClientError):
    """The certificate opens nothing, or the tenant's state forbids the operation."""


class RootKeyFailed(ClientError):
    """The customer's root key does not do its part; whoever holds it must act."""


class Unavailable(ClientError):
    """Nothing answers, or too much was asked; already tried again as often as the client may."""

    retryable = True

    def __init__(  # noqa: PLR0913, PLR0917 - the base's, and how long to wait
        self,
        code: str,
        detail: str,
        hint: str = "",
        status: int = 0,
        reference: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(code, detail, hint, status, reference)
        self.retry_after = retry_after


class ServiceFailed(ClientError):
    """The service failed, or answered something this client does not understand."""


class CertificateUnusable(ClientError):
    """The files of the service's identity are missing, damaged or do not belong together."""


_RETRYABLE_STATUS = frozenset({429, 502, 503, 504})


def from_problem(status: int, problem: Mapping[str, Any], retry_after: float | None = None) -> ClientError:
    """Return the error that a problem document (RFC 9457) stands for; it may be anybody's, so nothing is assumed."""
    code, detail = str(problem.get("code", f"http_{status}")), str(problem.get("detail", "the request was refused"))
    hint, reference = str(problem.get("hint", "")), str(problem.get("reference", ""))
    if status in _RETRYABLE_STATUS:
        return Unavailable(code, detail, hint, status, reference, retry_after)
    kind: type[ClientError] = RequestRefused
    if status >= 500:
        kind = ServiceFailed
    elif code == "key_version_retired":
        kind = KeyVersionRetired
    elif status == 403:
        kind = AccessRefused
    elif status == 422:
        kind = CiphertextRefused
    elif status == 424:
        kind = RootKeyFailed
    return kind(code, detail, hint, status, reference)
