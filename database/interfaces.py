"""What the rest of the controller may do with the database. Imports no psycopg.

A `TenantTransaction` sees and writes the rows of one tenant only; row security with a signed context enforces that in
PostgreSQL, not here. Everything done through one transaction is committed together or not at all: the row, its audit
record, the step and the announcement that follow from it.
"""

import hashlib
import ssl
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from tenancy.audit import AuditEvent, StoredRecord
from tenancy.boundaries import CheckResult
from tenancy.events import Announcement, MarketplaceEvent
from tenancy.lifecycle import Move, State
from tenancy.provisioning import Step, StepState


@dataclass(frozen=True, slots=True)
class TenantRow:
    tenant_id: str
    organization: str
    region: str
    state: State
    root_key_mode: str
    requested_at: datetime
    ready_at: datetime | None
    promise_broken_at: datetime | None


@dataclass(frozen=True, slots=True)
class StepRow:
    """One step of the running or last operation. `attempts` counts tries that failed so far."""

    number: int
    step: Step
    state: StepState
    attempts: int
    started_at: datetime | None
    finished_at: datetime | None
    problem: str | None


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key held by Vault, by name; `kind` is L2, CA or payload."""

    name: str
    kind: str
    version: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class AuthorityRow:
    """The tenant's certificate authority. `serial` is lower-case hex without separators; the PEMs are public."""

    serial: str
    certificate_pem: str
    chain_pem: str
    not_after: datetime

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the certificate, hex: by it a presented chain's issuer is recognised."""
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(self.certificate_pem)).hexdigest()


@dataclass(frozen=True, slots=True)
class RouteRow:
    """Where the crypto service finds a tenant's keys; `issuer_fingerprint` (SHA-256 hex of the CA) selects it."""

    l2_key: str
    issuer_fingerprint: str
    region: str


@dataclass(frozen=True, slots=True)
class SignedHead:
    """A signature over `tenancy.audit.head_message`, by the Transit key named in `key` (`name:version`)."""

    seq: int
    chain_hash: bytes
    signature: str
    key: str


class Tenants(Protocol):
    def get(self) -> TenantRow | None: ...

    def lock(self) -> TenantRow:
        """Return the row, locked against other `lock`s (FOR NO KEY UPDATE) until the end; raises TenantUnknown."""
        ...

    def request(self, event: MarketplaceEvent) -> TenantRow:
        """Create the row in state requested, or return the one that is there unchanged."""
        ...

    def move(self, move: Move, back_to: State | None = None) -> State:
        """Lock the row, advance it by the transition table and return the new state; raises IllegalMove.

        A tenant that is already where the move leads stays there: a repeated step changes nothing. The move to
        active sets `ready_at` once.
        """
        ...

    def break_promise(self) -> bool:
        """Record that the promise was broken; False when that was already on record."""
        ...


class AuditStream(Protocol):
    def append(self, event: AuditEvent) -> int:
        """Append to the tenant's stream and return the sequence number; an event id seen before adds nothing."""
        ...

    def records(self, after: int = 0, limit: int = 1000) -> Sequence[StoredRecord]: ...

    def head(self) -> StoredRecord | None: ...

    def save_signed_head(self, head: SignedHead) -> None: ...

    def signed_heads(self) -> Sequence[SignedHead]: ...


class Steps(Protocol):
    def plan(self, operation_id: str, steps: Sequence[Step]) -> None:
        """Write the steps of an operation as pending; a second call changes nothing."""
        ...

    def finish(self, operation_id: str, step: Step, started_at: datetime) -> None:
        """Mark a step done; `started_at` is when this attempt began. Repeating it keeps the first finish."""
        ...

    def retry(self, operation_id: str, step: Step, problem: str) -> None:
        """Count a failed attempt and keep why (an error code); a step that is done stays done."""
        ...

    def fail(self, operation_id: str, step: Step, problem: str) -> None: ...

    def latest(self) -> Sequence[StepRow]:
        """Return the steps of the newest operation in order."""
        ...


class Keys(Protocol):
    def record(self, name: str, kind: str, version: int) -> None:
        """Record a key once; the same name again must be the same kind and version or it raises."""
        ...

    def all(self) -> Sequence[KeyRow]: ...


class Certificates(Protocol):
    def record_authority(self, authority: AuthorityRow) -> AuthorityRow:
        """Record the tenant's one authority and return the one on record, which is the first ever recorded."""
        ...

    def authority(self) -> AuthorityRow | None: ...


class Routes(Protocol):
    def publish(self, route: RouteRow) -> None:
        """Create or replace the tenant's one route."""
        ...

    def withdraw(self) -> bool:
        """Remove the route; False when there was none."""
        ...

    def get(self) -> RouteRow | None: ...


class Boundaries(Protocol):
    def record(self, operation_id: str, results: Sequence[CheckResult]) -> None: ...

    def latest(self) -> Sequence[CheckResult]: ...


class Inbox(Protocol):
    def accept(self, event: MarketplaceEvent) -> bool:
        """Store an event; False when (tenant, event id) was stored before."""
        ...

    def mark_started(self, event_id: str) -> None:
        """Record that the workflow has the event, so that the sweep leaves it alone."""
        ...


class Outbox(Protocol):
    def add(self, announcement: Announcement) -> None:
        """Store a message to be sent; the same message id again changes nothing."""
        ...

    def unsent(self) -> Sequence[Announcement]: ...

    def mark_sent(self, message_id: str) -> None: ...

    def all(self) -> Sequence[tuple[Announcement, datetime | None]]:
        """Return every message with the time it was sent, None while it was not."""
        ...


class TenantTransaction(Protocol):
    """One transaction over one tenant's rows."""

    tenant_id: str
    tenants: Tenants
    audit: AuditStream
    steps: Steps
    keys: Keys
    certificates: Certificates
    routes: Routes
    boundaries: Boundaries
    inbox: Inbox
    outbox: Outbox


class TenantDatabase(Protocol):
    """What a process with a role of its own gets. Which parts it may use is decided by the role's grants."""

    def tenant_tx(self, tenant_id: str) -> AbstractContextManager[TenantTransaction]:
        """Open a transaction for one tenant; commits on a clean exit, rolls back on an exception.

        Raises, from inside or at the end: DatabaseUnavailable, DatabaseRefused. Not to be nested.
        """
        ...


class PlatformDatabase(Protocol):
    """The few questions that span tenants, each a function or a policy of its own with its own grant."""

    def unstarted_events(self, limit: int) -> Sequence[tuple[str, str, str]]:
        """Return (tenant id, event id, region) of accepted events no workflow has yet, oldest first (marketplace)."""
        ...

    def unknown_serials(self, serials: Sequence[str]) -> Sequence[str]:
        """Return those serials that are on record for no tenant (worker)."""
        ...

    def moved_heads(self, limit: int) -> Sequence[str]:
        """Return tenants whose audit stream grew since its head was last signed (worker)."""
        ...

    def waiting_outboxes(self, limit: int) -> Sequence[str]:
        """Return tenants with announcements that were stored over a minute ago and are still unsent (worker)."""
        ...

    def list_tenants(self, after: str, limit: int) -> Sequence[TenantRow]:
        """Return tenants in order of id, from the first one behind `after` (operator)."""
        ...


class BoundaryProbe(Protocol):
    """Attacks on row security, run as a process role without rights over other tenants (MTCI M2)."""

    def attack_each_other(self, one: str, other: str) -> tuple[Sequence[CheckResult], Sequence[CheckResult]]:
        """Try to reach each one's rows from the other's transaction; return the results by `one` and by `other`.

        Plain reads and writes by the other's id, a switched setting, a context signed for another tenant, a forged
        and an expired one.

        Raises: DatabaseUnavailable, and CanaryMissing when one of them has no rows to steal.
        """
        ...
