"""Rotations on record and what they do to keys; part of `interfaces`, which hands it out. Imports no psycopg."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from database.root_key_rows import SealedRootKeyRow
from database.rows import ServiceKeyRow
from tenancy.policy import TenantPolicy
from tenancy.rotation import Scope, Stage, Stuck


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


class Rotations(Protocol):
    """The tenant's rotations; the first two are for everybody who may look, the rest for the worker.

    What changes a key for a rotation raises Overtaken once that rotation has ended: an attempt that was given up as
    lost can still be at work.
    """

    def get(self, number: int) -> RotationRow | None: ...

    def all(self, limit: int = 20) -> Sequence[RotationRow]:
        """Return the rotations, newest first."""
        ...

    def due(self, policy: TenantPolicy) -> DueRow: ...

    def begin(self, number: int, wanted: WantedRotation, from_version: int) -> RotationRow:
        """Record a rotation and return the one on record; the same number again changes nothing.

        A rotation before it that never ended is ended as failed.
        """
        ...

    def enter(self, number: int, stage: Stage) -> RotationRow:
        """Say in which stage a rotation is."""
        ...

    def rotated(self, number: int, version: int) -> None:
        """Record the tenant key's newest version; what is made from now on lies under it."""
        ...

    def unprepared(self, number: int, policy: TenantPolicy) -> Sequence[tuple[str, int]]:
        """Return the services whose next version is still to be prepared, each with that version's number."""
        ...

    def prepare(self, number: int, key: ServiceKeyRow) -> RotationRow:
        """Record a version that nobody uses yet; the first one of its number stays."""
        ...

    def came(self, number: int, keys: int, left: int) -> RotationRow:
        """Record that so many more keys are through the stage and how many are left; return how far it is."""
        ...

    def activate(self, number: int) -> Sequence[tuple[str, int]]:
        """Let every prepared version take over at once and return what encrypts from now on.

        What was active decrypts only, or, where the rotation is for keys that are compromised, neither it nor any
        version before it opens anything a caller brings.
        """
        ...

    def outdated(self, limit: int, root_key_version: int | None = None) -> Sequence[ServiceKeyRow]:
        """Return service keys whose wrap lies under an older version of the tenant key than the newest on record.

        Or under an older one of the root key than `root_key_version`.
        """
        ...

    def count_outdated(self, number: int) -> None:
        """Say how many service keys a rotation has to wrap in all: those that it has, and those that are outdated."""
        ...

    def outdated_credentials(self) -> Sequence[SealedRootKeyRow]:
        """Return root keys whose credentials do."""
        ...

    def rewrap(self, number: int, rows: Sequence[RewrappedRow]) -> RotationRow:
        """Replace wraps that are still the ones that were read, and return how far the rotation is."""
        ...

    def rewrap_probe(self, number: int, root_key_id: str, read: bytes, probe: bytes) -> None:
        """Replace the known value by which a root key is tried, where it is still the one that was read."""
        ...

    def rewrap_credentials(self, number: int, read: SealedRootKeyRow, credentials: str, l2_version: int) -> None:
        """Replace credentials that are still those that were read."""
        ...

    def retire_tenant_key(self, number: int) -> int | None:
        """Make the newest version of the tenant key the oldest and return it; None while something lies under another.

        The caller holds the tenant's row lock, which whoever stores something under L2 takes too.
        """
        ...

    def compromised(self) -> Sequence[VersionUseRow]: ...

    def destroy(self, service: str, version: int) -> int:
        """Forget the wrap of a version that is not the active one, unless objects are sealed under it.

        Returns how many are. Nobody seals another one under it meanwhile or later.
        """
        ...

    def end(self, number: int, problem: str | None = None) -> bool:
        """End a rotation, as failed with a problem; False when it had ended. What it had only prepared is destroyed."""
        ...
