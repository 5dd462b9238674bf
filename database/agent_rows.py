"""Agents and what services say of their own encryption: rows and contract; handed out by `interfaces`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Protocol

from tenancy.protection import Backfill


@dataclass(frozen=True, slots=True)
class ContactRow:
    """One agent as it was last heard of. `problem` is a code, None when it has none."""

    service: str
    instance: str
    agent_version: str
    certificate_not_after: datetime
    problem: str | None
    last_contact_at: datetime


@dataclass(frozen=True, slots=True)
class ProtectionUseRow:
    """What a service's own programs did at one place on one UTC day, as they say."""

    day: date
    service: str
    place: str
    operations: int
    bytes: int
    microseconds: int
    requests: int
    request_microseconds: int


@dataclass(frozen=True, slots=True)
class BackfillRow:
    """How far a service is with the rows from before at one place, as it says; in values, done in this round."""

    service: str
    place: str
    done: int
    remaining: int
    state: Backfill
    told_at: datetime


class Agents(Protocol):
    def note(self, contacts: Sequence[ContactRow], uses: Sequence[ProtectionUseRow]) -> None:
        """Move agents' rows forward and add uses to their sums.

        Both are bounded: of a service the agents heard of last are kept, and a place that is one too many on its day
        is counted with the others. A service that is not on record has neither.
        """
        ...

    def all(self) -> Sequence[ContactRow]:
        """Return the agents by service, those heard of last first."""
        ...

    def uses(self, first: date, last: date) -> Sequence[ProtectionUseRow]:
        """Return the sums of some days, both ends among them, by day, service and place."""
        ...

    def note_backfills(self, backfills: Sequence[BackfillRow]) -> None:
        """Move places' rows forward; of a service the 1000 told of last are kept, of a strange one none."""
        ...

    def backfills(self) -> Sequence[BackfillRow]:
        """Return how far the backfills are, by service and place."""
        ...

    def newest(self, services: Sequence[str]) -> Mapping[str, str]:
        """Return the serial of each service's newest certificate that is not revoked."""
        ...
