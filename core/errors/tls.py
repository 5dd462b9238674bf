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
    CLIENT_CERTIFICATE = "it requires a client certificate that it trusts"


def with_tls_fault(error: type[Failure], server: str, text: str, faults: Mapping[str, TlsFault]) -> Failure:
    """Return the error, with the cause if `text` of the library contains a key of `faults`."""
    fault = next((fault for part, fault in faults.items() if part in text), None)
    return error() if fault is None else error(f"no TLS connection to {server}: {fault}")
