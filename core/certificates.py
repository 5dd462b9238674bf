"""When something that ends is renewed, and when somebody must be told that it was not.

Everything that ends is renewed when a third of its life is left: a leaf by its service's workflow, an authority by a
roll. That leaves half of this third for failures that pass by themselves. What has less than a sixth of its life left
should have been renewed long ago: from then on people are told, while what they are told of still works.

A tenant's certificate authorities: which one issues, which one is still believed, which one is over.

Of those that count there are at most two: the current one, and a former one whose leaves have not all expired. A roll
begins with a prepared one, which nothing believes until it was seen to issue what verifies.
"""

from datetime import datetime
from enum import StrEnum

RENEWED_AT_THIRDS = 3
LATE_AT_SIXTHS = 6
"""Also in `okcm.expiring` and `okcm.due_authorities` (0013), which find what lies here among all tenants."""


class ExpiringItem(StrEnum):
    """What ends, by the word of audit records and metrics."""

    CERTIFICATE = "certificate"
    AUTHORITY = "authority"
    REVOCATION_LIST = "revocation-list"
    ROOT = "root"
    """The PKI root, which all authorities hang from. It is no tenant's, so it is in no audit stream."""


class ExpiryStage(StrEnum):
    FRESH = "fresh"
    DUE = "due"
    """It is to be renewed now; that this takes a while is no news."""
    LATE = "late"
    """It should have been renewed and was not."""
    LAPSED = "lapsed"


ALARMING = (ExpiryStage.LATE, ExpiryStage.LAPSED)


def stage(begins: datetime, ends: datetime, now: datetime) -> ExpiryStage:
    """Return how far the life between two moments has gone; the least of it is left at the last stage."""
    left, life = ends - now, ends - begins
    if left.total_seconds() <= 0:
        return ExpiryStage.LAPSED
    if left * LATE_AT_SIXTHS < life:
        return ExpiryStage.LATE
    return ExpiryStage.DUE if left * RENEWED_AT_THIRDS <= life else ExpiryStage.FRESH


class AuthorityState(StrEnum):
    PREPARED = "prepared"
    """Signed and on record; nothing is issued by it and nobody believes it."""
    CURRENT = "current"
    """Issues every new leaf; there is exactly one."""
    FORMER = "former"
    """Issues nothing any more; its leaves open until they expire."""
    ENDED = "ended"
    """Believed no more, whatever it signed."""


BELIEVED = frozenset({AuthorityState.CURRENT, AuthorityState.FORMER})
"""The states whose leaves open something, if they are on record and the route names their issuer."""
