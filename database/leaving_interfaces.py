"""What is on record of a tenant that leaves; part of `interfaces`, which hands it out. Imports no psycopg."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from tenancy.lifecycle import State
from tenancy.shred import DestroyedKind


@dataclass(frozen=True, slots=True)
class LeavingRow:
    """How far a tenant's leaving is; every time is None before it is reached."""

    state: State
    since: datetime | None
    until: datetime | None
    returns_to: State | None
    destroying_at: datetime | None
    offboarded_at: datetime | None
    erased: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class DoomedRow:
    """One thing that is to be destroyed, or is; see `tenancy.shred.Destroyed`."""

    kind: DestroyedKind
    name: str
    versions: str
    fingerprint: str
    destroyed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ShredRow:
    """The signed statement of what was destroyed (tenancy/shred.py)."""

    statement: str
    signature: str
    key: str
    issued_at: datetime


class Leaving(Protocol):
    """The tenant's leaving: the first three are for everybody who may look, the rest for the worker."""

    def get(self) -> LeavingRow | None:
        """Return how far it is; None when there is no such tenant."""
        ...

    def doomed(self) -> Sequence[DoomedRow]:
        """Return what is to be destroyed, by kind and name; empty before it was gathered."""
        ...

    def certificate(self) -> ShredRow | None: ...

    def asked_by_marketplace(self) -> bool:
        """Whether the marketplace's last word is that the tenant leaves, and was said since it was last restored."""
        ...

    def begin(self, grace: timedelta) -> LeavingRow:
        """Let the tenant leave, for good after `grace`; one that is leaving already goes on as it was.

        Raises IllegalMove, TenantUnknown.
        """
        ...

    def restore(self) -> State:
        """Bring the tenant back to where it was, with its locks; one that is back already stays there.

        Raises DestructionBegun, IllegalMove, TenantUnknown.
        """
        ...

    def begin_destruction(self, now: datetime) -> bool:
        """Pass the point of no return; True again when it was passed, False when the tenant is not leaving any more.

        Raises GraceNotOver.
        """
        ...

    def gather(self, rows: Sequence[DoomedRow]) -> None:
        """Write down what is to be destroyed; what is on record stays as it is."""
        ...

    def unwrapped(self) -> Sequence[DoomedRow]:
        """Return each service key that has a wrap, with the SHA-256 of it."""
        ...

    def destroy_service_keys(self) -> int:
        """Overwrite the wraps of all service keys, staged ones too, and return of how many."""
        ...

    def destroyed(self, kind: DestroyedKind) -> None:
        """Mark all of a kind destroyed that is not yet."""
        ...

    def erase(self, at_most: int) -> bool:
        """Erase a part of the rows; True when all are gone. Raises DatabaseRefused before everything is destroyed."""
        ...

    def certify(self, row: ShredRow) -> ShredRow:
        """Keep the signed statement and return the one on record, which is the first."""
        ...

    def end(self) -> State:
        """Move the tenant to its last state, once; raises IllegalMove."""
        ...
