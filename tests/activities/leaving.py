"""A tenant with services that leaves step by step, and what is left of it."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from config.secrets import Role
from config.settings import Settings
from database.connection import Database
from database.interfaces import LeavingRow, ServiceKeyRow, TenantRow
from tenancy import ids
from tenancy.binding import Context, Purpose
from tenancy.leaving_messages import BegunResult, LeaveInput, LeavingResult, Stock
from tenancy.messages import StandingResult, StepInput
from tenancy.provisioning import Step
from tests.activities.conftest import Provisioning, run_steps
from tests.activities.connecting import SERVICE, Connection, operator
from vault.session import TokenSession
from worker import wiring

__all__ = ["leaving", "operator"]

STEPS = (
    "begin-destruction",
    "take-stock",
    "disconnect-services",
    "destroy-service-keys",
    "destroy-tenant-key",
    "destroy-authority-key",
    "erase-rows",
    "destroy-payload-key",
    "certify-destruction",
)
"""Those of OffboardTenant behind the grace, but for the one that waits for workflows."""


class Leaving:
    """The tenant and the steps of its leaving one by one."""

    def __init__(self, connection: Connection, admin: TokenSession, crypto: Database) -> None:
        self.connection, self.tenant = connection, connection.tenant
        self.admin, self.crypto = admin, crypto
        self.number = 1

    @property
    def tenant_id(self) -> str:
        return self.tenant.tenant_id

    @property
    def step(self) -> StepInput:
        return StepInput(tenant_id=self.tenant_id, operation_id=f"offboard-{self.number}")

    def leave(self, **request: Any) -> LeavingResult:
        step = LeaveInput(tenant_id=self.tenant_id, operation_id=f"leave-{self.number}", **request)
        result = self.tenant.run_with("begin-leaving", step)
        assert isinstance(result, LeavingResult)
        return result

    def restore(self) -> StandingResult:
        step = StepInput(tenant_id=self.tenant_id, operation_id=f"restore-{self.number}")
        result = self.tenant.run_with("restore-tenant", step)
        assert isinstance(result, StandingResult)
        return result

    def run(self, name: str) -> BegunResult | Stock | None:
        result: BegunResult | Stock | None = self.tenant.run_with(name, self.step)
        return result

    def through(self, until: str = STEPS[-1]) -> None:
        for name in STEPS[: STEPS.index(until) + 1]:
            self.run(name)

    # ── what is on record, and what is there ─────────────────────────────────────────────────────────────────────────

    @property
    def row(self) -> TenantRow:
        with self.tenant.database.tenant_tx(self.tenant_id) as tx:
            row = tx.tenants.get()
        assert row is not None
        return row

    @property
    def leaving(self) -> LeavingRow:
        with self.tenant.database.tenant_tx(self.tenant_id) as tx:
            row = tx.leaving.get()
        assert row is not None
        return row

    def keys_there(self) -> set[str]:
        """Return those of the tenant's keys that the key server has."""
        names = {ids.l2_key(self.tenant_id), ids.ca_key(self.tenant_id), ids.payload_key(self.tenant_id)}
        return {name for name in names if self.admin.read(f"transit/keys/{name}") is not None}

    def wrap(self) -> ServiceKeyRow | None:
        with self.tenant.database.tenant_tx(self.tenant_id) as tx:
            return tx.services.key(SERVICE)

    @property
    def context(self) -> Context:
        return Context(self.tenant_id, ids.l2_key(self.tenant_id), SERVICE, Purpose.SERVICE_KEY, "1")

    def statement(self) -> dict[str, Any]:
        with self.tenant.database.tenant_tx(self.tenant_id) as tx:
            kept = tx.leaving.certificate()
        assert kept is not None
        statement: dict[str, Any] = json.loads(kept.statement)
        return statement

    def announced(self) -> list[str]:
        with self.tenant.database.tenant_tx(self.tenant_id) as tx:
            return [message.kind for message, _ in tx.outbox.all()]

    def audited(self, name: str) -> list[tuple[str, str]]:
        """Return (subject, outcome) of the records of a name."""
        return [(r["subject"], r["outcome"]) for r in self.tenant.audited() if r["name"] == name]


def add_service(tenant: Provisioning, operator: Database) -> Connection:
    connection = Connection(tenant, operator)
    connection.ask()
    connection.connect()
    return connection


@pytest.fixture
def leaving(
    tenant: Provisioning, operator: Database, settings: Settings, vault_admin: TokenSession
) -> Iterator[Leaving]:
    """An active tenant with a connected service, ready to leave."""
    run_steps(tenant, [Step.OPEN_RECORDS, Step.CREATE_KEYS, Step.CREATE_AUTHORITY, Step.ACTIVATE])
    crypto = wiring.open_database(settings, Role.CRYPTO)
    yield Leaving(add_service(tenant, operator), vault_admin, crypto)
    crypto.close()
