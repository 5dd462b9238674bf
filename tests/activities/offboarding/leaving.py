"""A tenant with services, the single steps of its offboarding, and what remains of it."""

import json
import uuid
from datetime import datetime
from typing import Any, Self

from core import names as ids
from core.keys.encryption_context import EncryptionContext, Purpose
from core.messages.base import StepInput
from core.messages.tenants import (
    DestructionStartedResult,
    LeaveInput,
    LeaveReason,
    OffboardingResult,
    RestoreInput,
    StatusChange,
    StatusChangeInput,
    StatusChangeResult,
)
from core.tenants.provisioning import EventKind
from database.connection.database import Database
from database.keys import ServiceKeyRow
from database.offboarding import OffboardingRow
from tests.activities.provisioning import MADE, Provisioning, run_steps
from tests.activities.recorded import Recorded
from tests.activities.services.connecting import SERVICE, Connection
from tests.concurrency import wait_until
from tests.database.builders import an_event
from vault.auth.client import TokenSession
from vault.tenant_locks import TenantLocks

STEPS = (
    "start-destruction",
    "inventory-keys",
    "disconnect-services",
    "destroy-service-keys",
    "destroy-tenant-key",
    "destroy-ca-key",
    "erase-rows",
    "destroy-payload-key",
    "issue-erasure-certificate",
)
"""The steps of OffboardTenant after the grace period, except the one that waits for workflows."""


class Leaving(Recorded):
    """The tenant and the single steps of its offboarding."""

    connection: Connection

    def __init__(self, connection: Connection, admin: TokenSession) -> None:
        self._begin(connection.tenant, admin)
        self.connection = connection

    @classmethod
    def of(cls, tenant: Provisioning, admin: TokenSession) -> Self:
        """Return the offboarding of a tenant without a service."""
        leaving = cls.__new__(cls)
        leaving._begin(tenant, admin)
        return leaving

    def _begin(self, tenant: Provisioning, admin: TokenSession) -> None:
        super().__init__(tenant.database, tenant.tenant_id)
        self.tenant, self.admin = tenant, admin
        self.number = 1

    @property
    def step(self) -> StepInput:
        return StepInput(tenant_id=self.tenant_id, operation_id=f"offboard-{self.number}")

    def leave(self, **request: Any) -> OffboardingResult:
        step = LeaveInput(tenant_id=self.tenant_id, operation_id=f"leave-{self.number}", **request)
        return self.tenant.run_with("start-offboarding", step)

    def wait_recorded(self) -> None:
        """Wait until the key server has the second copy of the offboarding, which is written in the background."""
        wait_until(lambda: TenantLocks(self.tenant.parts.vault).get(self.tenant_id) is not None)

    def restore(self, reason: LeaveReason = LeaveReason.OPERATOR) -> StatusChangeResult:
        step = RestoreInput(tenant_id=self.tenant_id, operation_id=f"restore-{self.number}", reason=reason)
        return self.tenant.run_with("restore-tenant", step)

    def accept(self, kind: EventKind, at: datetime) -> None:
        """Store an event of the marketplace; `at` is its time there."""
        event = an_event(self.tenant_id, f"event-{uuid.uuid4().hex}", kind=kind, timestamp=at)
        assert self.read(lambda tx: tx.inbox.accept(event))

    def move(self, move: StatusChange) -> None:
        step = StatusChangeInput(tenant_id=self.tenant_id, operation_id=f"{move}-{self.number}", move=move)
        self.tenant.run_with("change-status", step)

    def run(self, name: str) -> DestructionStartedResult | None:
        return self.tenant.run_with(name, self.step)

    def through(self, until: str = STEPS[-1]) -> None:
        for name in STEPS[: STEPS.index(until) + 1]:
            self.run(name)

    # ── records and keys ─────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def leaving(self) -> OffboardingRow:
        return self.get(lambda tx: tx.leaving.get())

    def keys_there(self) -> set[str]:
        """Return the tenant's keys that exist in the key server."""
        names = {ids.l2_key(self.tenant_id), ids.ca_key(self.tenant_id), ids.payload_key(self.tenant_id)}
        return {name for name in names if self.admin.read(f"transit/keys/{name}") is not None}

    def wrap(self) -> ServiceKeyRow | None:
        return self.read(lambda tx: tx.services.key(SERVICE))

    @property
    def context(self) -> EncryptionContext:
        return EncryptionContext(self.tenant_id, ids.l2_key(self.tenant_id), SERVICE, Purpose.SERVICE_KEY, "1")

    def statement(self) -> dict[str, Any]:
        return json.loads(self.get(lambda tx: tx.leaving.certificate()).statement)

    def audited(self, name: str) -> list[tuple[str, str]]:
        """Return (subject, outcome) of the records of a name."""
        return [(record["subject"], record["outcome"]) for record in self.records(name)]


def connected(tenant: Provisioning, operator: Database) -> Connection:
    """Activate a tenant and return a connected service."""
    run_steps(tenant, MADE)
    connection = Connection(tenant, operator)
    connection.ask()
    connection.connect()
    return connection
