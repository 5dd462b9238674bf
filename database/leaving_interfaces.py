"""What is on record of a tenant that leaves; part of `interfaces`, which hands it out. Imports no psycopg."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from core.tenants.lifecycle import State
from openkcm.verification.erasure_certificate import DestroyedKind


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
    """One thing that is to be destroyed, or is; see `openkcm.verification.erasure_certificate.Destroyed`."""

    kind: DestroyedKind
    name: str
    versions: str
    fingerprint: str
    destroyed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ShredRow:
    """The signed statement of what was destroyed (client/src/openkcm/verification/erasure_certificate.py)."""

    statement: str
    signature: str
    key: str
    issued_at: datetime
