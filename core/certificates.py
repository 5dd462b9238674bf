"""Renewal times of certificates and CRLs, and the states of a tenant CA.

Renewal is due when a third of the lifetime is left: the service's workflow renews a client certificate, a CA rotation
replaces a tenant CA. Temporary failures have half of this third to pass. With less than a sixth of the lifetime left
the renewal is late: the platform alerts while the certificate is still valid.

The certificate of an appliance that cannot renew it is valid for as many days as its request says. The platform does
not renew it, and alerts as above, so that a person replaces it.

A tenant has at most two trusted CAs: the current one, and a former one until its client certificates have expired. A
rotation starts with a prepared CA, which is not trusted until a certificate that it issued has been verified.
"""

from datetime import datetime
from enum import StrEnum

APPLIANCE_DAYS = (1, 365)
"""The bounds of the lifetime of a certificate for an appliance, in days."""
RENEWED_AT_THIRDS = 3
LATE_AT_SIXTHS = 6
"""The SQL functions `okcm.expiring` and `okcm.due_authorities` contain the same fractions."""


class ExpiringItem(StrEnum):
    """Kinds of items that expire, as audit records and metrics name them."""

    CERTIFICATE = "certificate"
    AUTHORITY = "authority"
    REVOCATION_LIST = "revocation-list"
    ROOT = "root"
    """The PKI root, which signs all tenant CAs. It belongs to no tenant, so no audit stream records it."""


class ExpiryStage(StrEnum):
    FRESH = "fresh"
    DUE = "due"
    """Renewal is due; no alert yet."""
    LATE = "late"
    """Renewal is overdue."""
    LAPSED = "lapsed"


ALARMING = (ExpiryStage.LATE, ExpiryStage.LAPSED)


def stage(begins: datetime, ends: datetime, now: datetime) -> ExpiryStage:
    """Return the stage of the lifetime between `begins` and `ends` at `now`."""
    left, life = ends - now, ends - begins
    if left.total_seconds() <= 0:
        return ExpiryStage.LAPSED
    if left * LATE_AT_SIXTHS < life:
        return ExpiryStage.LATE
    return ExpiryStage.DUE if left * RENEWED_AT_THIRDS <= life else ExpiryStage.FRESH


class AuthorityState(StrEnum):
    PREPARED = "prepared"
    """Signed and recorded; issues no certificates and is not trusted."""
    CURRENT = "current"
    """Issues every new client certificate; there is exactly one."""
    FORMER = "former"
    """Issues no certificates; those it issued are accepted until they expire."""
    ENDED = "ended"
    """No longer trusted, with all certificates that it issued."""


BELIEVED = frozenset({AuthorityState.CURRENT, AuthorityState.FORMER})
"""The states in which recorded client certificates are accepted, if the route names their issuer."""
