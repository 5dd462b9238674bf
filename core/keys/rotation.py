"""Versions of keys: the states they go through, what a rotation is asked for, and the stages it shows.

The states are those of NIST SP 800-57 part 1 (section 7) as far as they mean anything for a key that wraps or derives
others; docs/rotation.md says who may use a version in which.
"""

from datetime import timedelta
from enum import StrEnum


class KeyState(StrEnum):
    """What a version of a service key is good for."""

    PREPARED = "prepared"
    """Made and seen to open, and nobody's yet."""
    ACTIVE = "active"
    """The one that encrypts; exactly one of a service."""
    DEACTIVATED = "deactivated"
    """Opens what it encrypted and encrypts nothing."""
    COMPROMISED = "compromised"
    """Opens nothing that a caller brings; only what is sealed here, until that is sealed anew."""
    DESTROYED = "destroyed"
    """There is no wrap of it any more."""


OPENING = frozenset({KeyState.ACTIVE, KeyState.DEACTIVATED, KeyState.COMPROMISED})
"""The states of a version that still opens anything at all."""


class RotationScope(StrEnum):
    """Whose service keys get a new version."""

    NONE = "none"
    DUE = "due"
    """Of connected services, those that are older than their tenant wants."""
    ALL = "all"
    ONE = "one"


class RotationPhase(StrEnum):
    """How far a rotation is, in this order."""

    PLAN = "plan"
    TENANT_KEY = "tenant-key"
    PREPARE = "prepare"
    ACTIVATE = "activate"
    REWRAP = "rewrap"
    RETIRE = "retire"
    TRIM = "trim"
    DESTROY = "destroy"


class StallReason(StrEnum):
    """Why keys that are to be rotated are not, by the word of audit records and metrics."""

    FAILED = "failed"
    """The last rotation, which was begun by the schedule, did not get to its end, and something is still due."""
    UNFINISHED = "unfinished"
    """One has run for longer than any should."""
    OVERDUE = "overdue"
    """A key is due for long, and none was begun."""


LONGEST = timedelta(hours=3)
"""What a rotation takes at most: two steps wait for a root key, an hour each, and objects are sealed anew meanwhile."""

MEANING = {
    RotationPhase.PLAN: "what is rotated is written down",
    RotationPhase.TENANT_KEY: "the tenant key gets a new version",
    RotationPhase.PREPARE: "new versions of service keys are made and opened once",
    RotationPhase.ACTIVATE: "the new versions take over, all at once",
    RotationPhase.REWRAP: "everything under older versions of the tenant key or the root key is wrapped anew",
    RotationPhase.RETIRE: "older versions of the tenant key stop opening anything",
    RotationPhase.TRIM: "older versions of the tenant key are deleted for good",
    RotationPhase.DESTROY: "compromised service keys are destroyed once nothing is sealed under them",
}
"""What happens in a stage, for whoever looks on."""
