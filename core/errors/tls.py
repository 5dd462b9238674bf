"""Causes of a failed TLS connection to a server, in the same words for each server.

Each library reports them in a different text. An error of OpenKCM contains only the words below: the library's
text may contain addresses and names from the other side.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

from openkcm.errors import PlatformError

Failure = TypeVar("Failure", bound=PlatformError)


class TlsFault(StrEnum):
    UNKNOWN_CA = "its certificate is not signed by a CA that this process trusts"
    WRONG_NAME = "its certificate does not contain the name in the configured address"
    EXPIRED = "its certificate has expired, or the clock of this machine is wrong"
    NOT_YET_VALID = "its certificate is not valid yet, or the clock of this machine is wrong"
    NOT_VALID = "its certificate is expired or not signed by a CA that this process trusts"
    CA_FILE = "the file of trusted CA certificates does not exist or is not PEM"
    NO_TLS = "it does not use TLS at the configured port"
    TLS_REQUIRED = "it requires TLS at the configured port"
    ENDS_AT_ONCE = "it ends the connection at once, as a server does that requires TLS or a client certificate"
    CLIENT_CERTIFICATE = "it requires a client certificate that it trusts"


OPENSSL_FAULTS: Mapping[str, TlsFault] = {
    "IP address mismatch": TlsFault.WRONG_NAME,
    "Hostname mismatch": TlsFault.WRONG_NAME,
    "certificate has expired": TlsFault.EXPIRED,
    "certificate is not yet valid": TlsFault.NOT_YET_VALID,
    "CERTIFICATE_VERIFY_FAILED": TlsFault.UNKNOWN_CA,
    "WRONG_VERSION_NUMBER": TlsFault.NO_TLS,
    "ALERT_CERTIFICATE_REQUIRED": TlsFault.CLIENT_CERTIFICATE,
    "ALERT_UNKNOWN_CA": TlsFault.CLIENT_CERTIFICATE,
    "ALERT_BAD_CERTIFICATE": TlsFault.CLIENT_CERTIFICATE,
    "NO_CERTIFICATE_OR_CRL_FOUND": TlsFault.CA_FILE,
}
"""Texts in the errors of Python's `ssl`; the first match counts."""


def find_tls_fault(text: str, faults: Mapping[str, TlsFault]) -> TlsFault | None:
    """Return the cause that a key of `faults` in `text` of the library indicates."""
    return next((fault for part, fault in faults.items() if part in text), None)


def with_tls_fault(error: type[Failure], server: str, text: str, faults: Mapping[str, TlsFault]) -> Failure:
    """Return the error, with the cause if `text` of the library contains a key of `faults`."""
    fault = find_tls_fault(text, faults)
    return error() if fault is None else error(f"no TLS connection to {server}: {fault}")
