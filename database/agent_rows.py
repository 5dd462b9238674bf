"""Agents and what services say of their own encryption: rows and contract; handed out by `interfaces`."""

from dataclasses import dataclass
from datetime import date, datetime

from openkcm.contract.protected_fields import Backfill


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
