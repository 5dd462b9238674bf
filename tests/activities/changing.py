"""A tenant with connected services whose root key is changed step by step, and what is on record of it afterwards."""

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from config import secrets
from config.sealing import seal
from config.secrets import BOUNDARY_IDENTITY, read_secret
from config.settings import Settings
from database.interfaces import (
    HeldKeyRow,
    RootKeyChangeRow,
    RootKeyRequestRow,
    ServiceKeyRow,
    ServiceRequestRow,
    TenantRow,
)
from tenancy.binding import Context
from tenancy.locks import LockReason
from tenancy.messages import AbandonInput, EnrolStep, PreflightResult, RootKeyStep
from tenancy.provisioning import Step
from tenancy.root_keys import Credentials, Place, PlatformPlace, RootKeyMode
from tenancy.services import ServiceKind
from tests.activities.conftest import REGION, Provisioning, run_steps
from tests.activities.connecting import KEY, Connection, csr_of, operator
from tests.keystores.customer_openbao import CustomerOpenBao
from tests.keystores.estate import assert_in_force
from tests.keystores.opening import Estate, Opener
from vault.tokens import TenantTokens
from vault.transit import TransitTenantKeys

__all__ = ["bao", "change", "opener", "operator"]

SERVICES = ("billing", "ledger", "orders")
STEPS = ("admit-root-key", "preflight-root-key", "wrap-service-keys", "switch-root-key")


class Change:
    """The tenant, its requests, the steps of its changes one by one, and what is on record."""

    def __init__(self, connection: Connection, opener: Opener, public_key: str) -> None:
        self.connection, self.tenant = connection, connection.tenant
        self.opener, self._public_key = opener, public_key
        self.number = 0

    @property
    def tenant_id(self) -> str:
        return self.tenant.tenant_id

    def add_service(self, service: str) -> None:
        """Give the tenant one more service key, as connecting does, with nothing around it."""
        step = self.enrol(service)
        self.tenant.run_with("create-service-key", step)

    def enrol(self, service: str) -> Any:
        request_id = f"request-{service}"
        with self.connection.operator.tenant_tx(self.tenant_id) as tx:
            tx.services.request(ServiceRequestRow(request_id, service, ServiceKind.MICROSERVICE, csr_of(KEY)))
        enrolling = EnrolStep(tenant_id=self.tenant_id, operation_id="service", service=service, request_id=request_id)
        plan = self.tenant.run_with("record-service", enrolling)
        operation = f"service-{service}-{plan.generation}"
        return self.connection.step(plan).model_copy(update={"service": service, "operation_id": operation})

    def ask(self, place: Place, credentials: Credentials | None) -> RootKeyStep:
        """Store a request and return the input of the steps of the next change."""
        request_id = uuid.uuid4().hex
        sealed = credentials and seal(self._public_key, self.tenant_id, request_id, credentials)
        with self.connection.operator.tenant_tx(self.tenant_id) as tx:
            tx.root_keys.request(RootKeyRequestRow(request_id, place, sealed))
        self.number += 1
        return self.step(request_id, self.number)

    def step(self, request_id: str, number: int) -> RootKeyStep:
        return RootKeyStep(
            tenant_id=self.tenant_id, operation_id=f"root-key-{number}", request_id=request_id, number=number
        )

    def run(self, name: str, step: RootKeyStep) -> Any:
        return self.tenant.run_with(name, step)

    def through(self, step: RootKeyStep, *, until: str = STEPS[-1]) -> None:
        """Run the steps up to `until`, as the workflow does."""
        for name in STEPS[: STEPS.index(until) + 1]:
            result = self.run(name, step)
            assert not isinstance(result, PreflightResult) or not result.problems, result

    def to(self, place: Place, credentials: Credentials | None) -> RootKeyStep:
        """Change to another root key, from the request to the end."""
        step = self.ask(place, credentials)
        self.through(step)
        return step

    def to_platform(self) -> RootKeyStep:
        return self.to(PlatformPlace(), None)

    def preflight_alone(self, place: Place, credentials: Credentials) -> RootKeyStep:
        step = self.ask(place, credentials)
        self.number -= 1
        return step.model_copy(update={"number": 0, "operation_id": "preflight-1"})

    def abandon(self, step: RootKeyStep, code: str, reason: str) -> Any:
        return self.run("abandon-root-key", AbandonInput(**step.model_dump(), code=code, reason=reason))

    def opened(self) -> Estate:
        """Open every service key as the crypto service does."""
        return self.opener.open_all(self.tenant_id, REGION)

    def of(self, connection: Connection) -> "Change":
        """Return the same for another tenant."""
        return Change(connection, self.opener, self._public_key)

    def reveal(self, context: Context, ciphertext: str) -> bytes:
        """Decrypt under the tenant's L2, as the worker does."""
        vault, identity = self.tenant.parts.vault, read_secret(self.tenant.parts.settings.secrets, BOUNDARY_IDENTITY)
        return TransitTenantKeys(vault, TenantTokens(vault, identity)).decrypt(context, ciphertext)

    def hold(self, reason: LockReason) -> None:
        with self.tenant.database.tenant_tx(self.tenant_id) as tx:
            tx.tenants.hold(reason)

    def release(self, reason: LockReason) -> None:
        with self.tenant.database.tenant_tx(self.tenant_id) as tx:
            tx.tenants.release(reason)

    # ── what is on record ────────────────────────────────────────────────────────────────────────────────────────

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return rows of the tenant, whatever the worker may select."""
        with self.tenant.database.raw_tx(self.tenant_id) as connection:
            return connection.execute(query).fetchall()

    def staged(self) -> dict[str, bytes]:
        """Return the wraps that wait to take over, by service."""
        return dict(self.rows("select service, staged_wrapped from okcm.service_key where staged_for is not null"))

    @property
    def tenant_row(self) -> TenantRow:
        with self.tenant.database.tenant_tx(self.tenant_id) as tx:
            found = tx.tenants.get()
        assert found is not None
        return found

    @property
    def current(self) -> HeldKeyRow | None:
        with self.tenant.database.tenant_tx(self.tenant_id) as tx:
            return tx.root_keys.current()

    def row(self, service: str) -> ServiceKeyRow:
        with self.tenant.database.tenant_tx(self.tenant_id) as tx:
            key = tx.services.key(service)
        assert key is not None
        return key

    def change(self, number: int) -> RootKeyChangeRow:
        with self.tenant.database.tenant_tx(self.tenant_id) as tx:
            found = tx.root_keys.change(number)
        assert found is not None
        return found

    def problem_codes(self, step: RootKeyStep) -> list[str] | None:
        with self.tenant.database.tenant_tx(self.tenant_id) as tx:
            found = tx.root_keys.problems(step.request_id)
        return None if found is None else [problem.code for problem in found]

    def audited(self, name: str) -> list[tuple[str, str]]:
        """Return (event id's operation, outcome) of the records of a name."""
        found = [record for record in self.tenant.audited() if record["name"] == name]
        return [(record["event_id"].partition("/")[0], record["outcome"]) for record in found]

    def assert_in_force(self, mode: RootKeyMode, root_key_id: str | None) -> None:
        assert_in_force(self.tenant.database, self.tenant_id, mode, root_key_id)


@pytest.fixture(scope="session")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CustomerOpenBao]:
    """The key server of a customer, with two keys."""
    started = CustomerOpenBao.start(tmp_path_factory.mktemp("customer"))
    started.make_key("second")
    yield started
    started.kill()


@pytest.fixture
def opener(settings: Settings) -> Iterator[Opener]:
    with Opener(settings) as opener:
        yield opener


@pytest.fixture
def change(
    tenant: Provisioning, operator: Any, opener: Opener, settings: Settings, bao: CustomerOpenBao
) -> Iterator[Change]:
    """An active tenant with three service keys under the platform's root key."""
    run_steps(tenant, [Step.OPEN_RECORDS, Step.CREATE_KEYS, Step.CREATE_AUTHORITY, Step.ACTIVATE])
    made = Change(Connection(tenant, operator), opener, read_secret(settings.secrets, secrets.INTAKE_PUBLIC_KEY))
    for service in SERVICES:
        made.add_service(service)
    yield made
    bao.allow()
