"""States of key versions, and the scope and phases of a rotation.

The states are those of NIST SP 800-57 part 1 (section 7) that apply to keys that wrap or derive other keys;
docs/rotation.md describes the allowed operations of each state.
"""

from datetime import timedelta
from enum import StrEnum


class KeyState(StrEnum):
    """State of a service key version."""

    PREPARED = "prepared"
    """Created and verified, not in use yet."""
    ACTIVE = "active"
    """Encrypts and decrypts; a service has exactly one active version."""
    DEACTIVATED = "deactivated"
    """Decrypts only."""
    COMPROMISED = "compromised"
    """Rejects ciphertexts of callers; decrypts only stored managed objects, until they are re-encrypted."""
    DESTROYED = "destroyed"
    """No wrap of it exists any more."""


OPENING = frozenset({KeyState.ACTIVE, KeyState.DEACTIVATED, KeyState.COMPROMISED})
"""The states in which a version can still decrypt."""


class RotationScope(StrEnum):
    """The service keys that get a new version."""

    NONE = "none"
    DUE = "due"
    """Keys of connected services that exceed the cryptoperiod of the tenant's policy."""
    ALL = "all"
    ONE = "one"


class RotationPhase(StrEnum):
    """Phases of a rotation, in this order."""

    PLAN = "plan"
    TENANT_KEY = "tenant-key"
    PREPARE = "prepare"
    ACTIVATE = "activate"
    REWRAP = "rewrap"
    RETIRE = "retire"
    TRIM = "trim"
    DESTROY = "destroy"


class StallReason(StrEnum):
    """Reasons for which a due rotation is not complete, as audit records and metrics name them."""

    FAILED = "failed"
    """The last scheduled rotation failed, and a rotation is still due."""
    UNFINISHED = "unfinished"
    """A rotation runs for longer than `LONGEST`."""
    OVERDUE = "overdue"
    """A key is overdue, and no rotation has started."""


LONGEST = timedelta(hours=3)
"""Maximum duration of a rotation: two steps wait up to an hour for a root key, and objects are re-encrypted."""

MEANING = {
    RotationPhase.PLAN: "the keys to rotate are recorded",
    RotationPhase.TENANT_KEY: "the tenant key gets a new version",
    RotationPhase.PREPARE: "new versions of service keys are created and verified",
    RotationPhase.ACTIVATE: "all new versions become active at once",
    RotationPhase.REWRAP: "all keys under older versions of the tenant key or the root key are re-wrapped",
    RotationPhase.RETIRE: "older versions of the tenant key are retired and decrypt nothing",
    RotationPhase.TRIM: "older versions of the tenant key are deleted permanently",
    RotationPhase.DESTROY: "compromised service keys are destroyed after their objects are re-encrypted",
}
"""Description of each phase, for pages and commands."""
