"""What the rest of the controller may do with the database. Imports no psycopg.

A `TenantTransaction` sees and writes the rows of one tenant only; row security with a signed context enforces that in
PostgreSQL, not here. Everything done through one transaction is committed together or not at all: the row, its audit
record, the step and the announcement that follow from it.
"""

import hashlib
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Protocol

from database.agent_rows import Agents, BackfillRow, ContactRow, ProtectionUseRow
from database.approval_interfaces import Approvals
from database.audit_interfaces import AuditKeys, AuditStream, FoundRecord, StreamEnds
from database.boundary_interfaces import Boundaries, BoundaryRunRow, ExaminationRow, TroubledExamination
from database.certificate_rows import Certificates, EndingRow, RevocationListRow, RevokedRow
from database.enrolment_rows import DiscoveryRow, EnrolmentRow, Enrolments, JoinTokenRow
from database.fingerprint_rows import DescentProbe, Fingerprinted, Fingerprints, KeyProbeRow
from database.leaving_interfaces import DoomedRow, Leaving, LeavingRow, ShredRow
from database.platform_interfaces import PlatformDatabase
from database.protection_rows import ProtectedFieldRow, Protection, ProtectionRow
from database.questions import OperatorQuestions, ProvisioningTime, StuckTenant, TenantCount, TenantFilter
from database.report_rows import ReportRow, Reports, StatedRow
from database.root_key_rows import (
    HeldKeyRow,
    NumberedKey,
    RootKeyChangeRow,
    RootKeyRequestRow,
    RootKeys,
    RootKeyVersionsRow,
    SealedRootKeyRow,
    WatchedKey,
)
from database.rotation_rows import (
    DueRow,
    RewrappedRow,
    RotationRow,
    Rotations,
    StuckRotationRow,
    VersionUseRow,
    WantedRotation,
)
from database.rows import (
    AuthorityRow,
    CallerRow,
    KeyRow,
    KeyVersionRow,
    LeafRow,
    ObjectCountRow,
    ObjectRow,
    RouteRow,
    ServiceKeyRow,
    ServiceRequestRow,
    ServiceRow,
    SessionRow,
    SignedHead,
    StepRow,
    TenantRow,
)
from database.service_interfaces import ManagedObjects, Services
from database.usage_interfaces import Usage, UsagePart
from database.usage_rows import AnsweredDay, DayCount, UsageDay, UsageRow, UsageSum, UsageTotalRow, UsesRow
from tenancy.boundaries import CheckResult
from tenancy.events import Announcement, MarketplaceEvent
from tenancy.lifecycle import Move, State
from tenancy.locks import LockReason
from tenancy.policy import TenantPolicy
from tenancy.provisioning import Step

__all__ = [
    "Agents",
    "AnsweredDay",
    "Approvals",
    "AuditKeys",
    "AuditStream",
    "AuthorityRow",
    "BackfillRow",
    "Boundaries",
    "BoundaryRunRow",
    "CallerRow",
    "Certificates",
    "ContactRow",
    "DayCount",
    "DescentProbe",
    "DiscoveryRow",
    "DoomedRow",
    "DueRow",
    "EndingRow",
    "EnrolmentRow",
    "Enrolments",
    "ExaminationRow",
    "Fingerprinted",
    "Fingerprints",
    "FoundRecord",
    "HeldKeyRow",
    "JoinTokenRow",
    "KeyProbeRow",
    "KeyRow",
    "KeyVersionRow",
    "LeafRow",
    "Leaving",
    "LeavingRow",
    "ManagedObjects",
    "NumberedKey",
    "ObjectCountRow",
    "ObjectRow",
    "OperatorQuestions",
    "PlatformDatabase",
    "ProtectedFieldRow",
    "Protection",
    "ProtectionRow",
    "ProtectionUseRow",
    "ProvisioningTime",
    "ReportRow",
    "Reports",
    "RevocationListRow",
    "RevokedRow",
    "RewrappedRow",
    "RootKeyChangeRow",
    "RootKeyRequestRow",
    "RootKeyVersionsRow",
    "RootKeys",
    "RotationRow",
    "Rotations",
    "RouteRow",
    "SealedRootKeyRow",
    "ServiceKeyRow",
    "ServiceRequestRow",
    "ServiceRow",
    "Services",
    "SessionRow",
    "ShredRow",
    "SignedHead",
    "StatedRow",
    "StepRow",
    "StreamEnds",
    "StuckRotationRow",
    "StuckTenant",
    "TenantCount",
    "TenantFilter",
    "TenantRow",
    "TroubledExamination",
    "Usage",
    "UsageDay",
    "UsagePart",
    "UsageRow",
    "UsageSum",
    "UsageTotalRow",
    "UsesRow",
    "VersionUseRow",
    "WantedRotation",
    "WatchedKey",
]
"""The rows belong to these contracts: whoever may see these need not look further."""


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

    def hold(self, reason: LockReason) -> State:
        """Lock the tenant for a reason, or add one to those it is locked for (tenancy/locks.py); raises IllegalMove."""
        ...

    def release(self, reason: LockReason) -> State:
        """Take a reason away; it opens as it was when none is left. Raises IllegalMove when it is not locked."""
        ...

    def break_promise(self) -> bool:
        """Record that the promise was broken; False when that was already on record."""
        ...


class Policies(Protocol):
    def get(self) -> TenantPolicy:
        """Return what the tenant chose; the defaults where it chose nothing."""
        ...

    def set(self, policy: TenantPolicy) -> None: ...


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

    def get(self, name: str) -> KeyRow | None: ...

    def all(self) -> Sequence[KeyRow]: ...


class Routes(Protocol):
    def publish(self, route: RouteRow) -> None:
        """Create or replace the tenant's one route."""
        ...

    def withdraw(self) -> bool:
        """Remove the route; False when there was none."""
        ...

    def get(self) -> RouteRow | None: ...


class Inbox(Protocol):
    def accept(self, event: MarketplaceEvent) -> bool:
        """Store an event; False when (tenant, event id) was stored before."""
        ...

    def accept_discovery(self, event: MarketplaceEvent) -> bool:
        """Store an event that says that a service was discovered; as `accept`."""
        ...

    def discovered(self, event_id: str) -> str | None:
        """Return the service that a stored event is about."""
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


class Sessions(Protocol):
    def begin(self, session_id: str, subject: str, expires_at: datetime) -> bool:
        """Record a sign-on; False when it is on record, which nothing changes. Forgets what ended a month ago."""
        ...

    def get(self, session_id: str) -> SessionRow | None: ...

    def seen(self, session_id: str, at: datetime) -> None:
        """Move `last_seen_at` forward."""
        ...

    def end(self, session_id: str) -> bool:
        """End a session for good; False when there is none that has not ended."""
        ...


class TenantTransaction(Protocol):
    """One transaction over one tenant's rows."""

    tenant_id: str
    tenants: Tenants
    leaving: Leaving
    policy: Policies
    approvals: Approvals
    audit: AuditStream
    steps: Steps
    keys: Keys
    fingerprints: Fingerprints
    certificates: Certificates
    routes: Routes
    root_keys: RootKeys
    rotations: Rotations
    boundaries: Boundaries
    inbox: Inbox
    outbox: Outbox
    services: Services
    enrolments: Enrolments
    objects: ManagedObjects
    usage: Usage
    agents: Agents
    protection: Protection
    reports: Reports
    sessions: Sessions


class TenantDatabase(Protocol):
    """What a process with a role of its own gets. Which parts it may use is decided by the role's grants."""

    def tenant_tx(self, tenant_id: str) -> AbstractContextManager[TenantTransaction]:
        """Open a transaction for one tenant; commits on a clean exit, rolls back on an exception.

        Raises, from inside or at the end: DatabaseUnavailable, DatabaseRefused. Not to be nested.
        """
        ...


class SnapshotDatabase(TenantDatabase, Protocol):
    def tenant_snapshot(self, tenant_id: str) -> AbstractContextManager[TenantTransaction]:
        """Open a transaction that reads a tenant's rows as of one moment and writes none; raises as `tenant_tx`."""
        ...


class AuditDatabase(TenantDatabase, AuditKeys, Protocol):
    """Streams, and the public keys by which to check them."""


class ChangeFeed(Protocol):
    """Word of every committed change that the crypto service must not miss (PostgreSQL's NOTIFY).

    A change is: a tenant's state, a route, an authority, a service's state, a certificate, an L3; and of a managed
    object that it was altered or removed. A new object is none: that it is not there MUST NOT be remembered.
    """

    def listen(self, changed: Callable[[str], None], lost: Callable[[], None], stop: threading.Event) -> None:
        """Listen in the calling thread until `stop`; reconnects by itself.

        `changed` gets `mark(tenant_id)`, or `object_mark(tenant_id)` when managed objects alone changed: hashes,
        because LISTEN is open to every role. `lost` is called whenever changes may have been missed: before the first
        `changed` and after each reconnection.
        """
        ...


def mark(tenant_id: str) -> str:
    """Return what a change feed calls a tenant: SHA-256, hex."""
    return hashlib.sha256(tenant_id.encode()).hexdigest()


def object_mark(tenant_id: str) -> str:
    """Return what a change feed calls the managed objects of a tenant."""
    return mark(f"{tenant_id}/objects")


class BoundaryProbe(Protocol):
    """Attacks on row security, run as a process role without rights over other tenants (MTCI M2)."""

    def attack_each_other(self, one: str, other: str) -> tuple[Sequence[CheckResult], Sequence[CheckResult]]:
        """Try to reach each one's rows from the other's transaction; return the results by `one` and by `other`.

        Plain reads and writes by the other's id, a switched setting, a context signed for another tenant, a forged
        and an expired one.

        Raises: DatabaseUnavailable, and CanaryMissing when one of them has no rows to steal.
        """
        ...
