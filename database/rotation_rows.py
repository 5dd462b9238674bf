"""Rotations on record and what they do to keys; part of `interfaces`, which hands it out. Imports no psycopg."""

from dataclasses import dataclass
from datetime import datetime

from core.keys.rotation import Scope, Stage, Stuck
from database.rows import ServiceKeyRow


@dataclass(frozen=True, slots=True)
class WantedRotation:
    """What is asked of a rotation. `service` is named for `Scope.ONE` alone."""

    tenant_key: bool
    services: Scope
    service: str | None = None
    compromised: bool = False
    scheduled: bool = False
    root_key_version: int | None = None
    """The version of the root key that everything is to lie under, at the least; None: there is none to follow."""


@dataclass(frozen=True, slots=True)
class RotationRow:
    """One rotation; `done` of `total` are through its stage."""

    number: int
    wanted: WantedRotation
    from_version: int
    """The newest version of the tenant key when it began."""
    state: str
    """`running`, `done` or `failed`."""
    stage: Stage
    total: int
    done: int
    problem: str | None
    started_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class DueRow:
    """What the tenant's policy wants rotated now, and whether something is left of a rotation that failed."""

    tenant_key: bool
    services: bool
    unfinished: bool


@dataclass(frozen=True, slots=True)
class RewrappedRow:
    """A service key with its wrap under newer versions of tenant key or root key."""

    read: ServiceKeyRow
    wrapped: bytes
    l2_version: int


@dataclass(frozen=True, slots=True)
class StuckRotationRow:
    """A tenant whose keys are not rotated; `number` is its last rotation, `done` the last that came to its end."""

    tenant_id: str
    why: Stuck
    number: int
    problem: str
    done: int


@dataclass(frozen=True, slots=True)
class VersionUseRow:
    """A version of a service key and how many managed objects are sealed under it."""

    service: str
    version: int
    objects: int
