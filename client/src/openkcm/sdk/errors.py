"""Errors of the client: one class for each reaction of a program, with the service's code and hint."""

from collections.abc import Mapping
from typing import Any


class ClientError(Exception):
    """Base of all errors of the client.

    `code` is stable, for programs; `hint` states the next step for a person; `reference` identifies the operator's log
    record; `status` is 0 without a response. Texts contain no plaintext and no key.
    """

    retryable = False

    def __init__(self, code: str, detail: str, hint: str = "", status: int = 0, reference: str = "") -> None:
        super().__init__(detail)
        self.code, self.detail, self.hint, self.status, self.reference = code, detail, hint, status, reference

    def __str__(self) -> str:
        extra = "".join(f"; {part}" for part in (self.hint, self.reference and f"reference {self.reference}") if part)
        return f"{self.detail} ({self.code}){extra}"


class RequestRefused(ClientError):
    """The request is invalid; a retry is rejected again."""


class CiphertextRefused(ClientError):
    """The ciphertext was altered or moved, or encrypted by another service or for another resource."""


class KeyVersionRetired(ClientError):
    """The key version that encrypted the data is compromised or destroyed; the data cannot be decrypted any more."""


class AccessRefused(ClientError):
    """The certificate is not authorized, or the tenant's state forbids the operation."""


class RootKeyFailed(ClientError):
    """The customer's root key is unavailable; its holder must act."""


class Unavailable(ClientError):
    """The service does not respond or is overloaded; the client has already retried as often as it may."""

    retryable = True

    def __init__(  # noqa: PLR0913, PLR0917 - the parameters of the base class, and the wait
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
    """The service failed, or its response is not understood by this client."""


class CertificateUnusable(ClientError):
    """The files of the service's identity are missing, damaged or inconsistent."""


_RETRYABLE_STATUS = frozenset({429, 502, 503, 504})


def from_problem(status: int, problem: Mapping[str, Any], retry_after: float | None = None) -> ClientError:
    """Return the error of a problem document (RFC 9457); any server may have sent it, so nothing is assumed."""
    code, detail = str(problem.get("code", f"http_{status}")), str(problem.get("detail", "the request was rejected"))
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
