"""A tenant with connected services and the single steps of its root key changes, and its records."""

import uuid
from typing import Any, TypeVar

from activities.services import service_operation
from config.credential_encryption import encrypt_credentials
from config.secrets import INTAKE_PUBLIC_KEY, read_secret
from core.keys.root_keys import Credentials, Place, PlatformKeyRef, RootKeyMode
from core.messages.keys import AbandonInput, PreflightResult, RootKeyStep
from core.messages.services import EnrolStep
from core.tenants.locks import LockReason
from database.connection.database import Database
from database.keys import ServiceKeyRow
from database.root_keys import CustomerRootKeyRow, RootKeyChangeRow, RootKeyRequestRow
from database.services.repository import ServiceRequestRow
from openkcm.contract.services import ServiceKind
from tests.activities.provisioning import REGION, Provisioning
from tests.activities.recorded import Recorded
from tests.activities.services.connecting import KEY, Connection, csr_of
from tests.kms.estate import assert_in_force
from tests.kms.opening import Estate, Opener
from vault.transit.tenant_keys import TransitTenantKeys

SERVICES = ("billing", "ledger", "orders")
STEPS = ("register-root-key", "preflight-root-key", "wrap-service-keys", "switch-root-key")


class Change(Recorded):
    """The tenant, its requests and the steps of its changes one by one."""

    def __init__(self, connection: Connection, opener: Opener, public_key: str) -> None:
        super().__init__(connection.database, connection.tenant_id)
        self.connection, self.tenant = connection, connection.tenant
        self.opener, self._public_key = opener, public_key
        self.number = 0

    def add_service(self, service: str) -> None:
        """Create one more service key, as a connection does, without a certificate."""
        step = self.enrol(service)
        self.tenant.run_with("create-service-key", step)

    def enrol(self, service: str) -> Any:
        request_id = f"request-{service}"
        with self.connection.operator.tenant_tx(self.tenant_id) as tx:
            tx.services.request(ServiceRequestRow(request_id, service, ServiceKind.MICROSERVICE, csr_of(KEY)))
        enrolling = EnrolStep(tenant_id=self.tenant_id, operation_id="service", service=service, request_id=request_id)
        plan = self.tenant.run_with("record-service", enrolling)
        operation = service_operation(service, plan)
        return self.connection.step(plan).model_copy(update={"service": service, "operation_id": operation})

    def ask(self, place: Place, credentials: Credentials | None) -> RootKeyStep:
        """Store a request and return the input of the steps of the next change."""
        request_id = uuid.uuid4().hex
        sealed = credentials and encrypt_credentials(self._public_key, self.tenant_id, request_id, credentials)
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
        return self.to(PlatformKeyRef(), None)

    def preflight_alone(self, place: Place, credentials: Credentials) -> RootKeyStep:
        step = self.ask(place, credentials)
        self.number -= 1
        return step.model_copy(update={"number": 0, "operation_id": "preflight-1"})

    def abandon(self, step: RootKeyStep, code: str, reason: str) -> Any:
        return self.run("abandon-root-key", AbandonInput(**step.model_dump(), code=code, reason=reason))

    def opened(self) -> Estate:
        """Unwrap every service key as the crypto service does."""
        return self.opener.open_all(self.tenant_id, REGION)

    def of(self, connection: Connection) -> "Change":
        """Return the same for another tenant."""
        return Change(connection, self.opener, self._public_key)

    @property
    def tenant_keys(self) -> TransitTenantKeys:
        return self.tenant.tenant_keys

    def hold(self, reason: LockReason) -> None:
        self.read(lambda tx: tx.tenants.hold(reason))

    def release(self, reason: LockReason) -> None:
        self.read(lambda tx: tx.tenants.release(reason))

    # ── what is recorded ─────────────────────────────────────────────────────────────────────────────────────────────

    def staged(self) -> dict[str, bytes]:
        """Return the staged wraps, by service."""
        return dict(self.rows("select service, staged_wrapped from okcm.service_key where staged_for is not null"))

    @property
    def current(self) -> CustomerRootKeyRow:
        return self.get(lambda tx: tx.root_keys.current())

    def row(self, service: str) -> ServiceKeyRow:
        return self.get(lambda tx: tx.services.key(service))

    def change(self, number: int) -> RootKeyChangeRow:
        return self.get(lambda tx: tx.root_keys.change(number))

    def problem_codes(self, step: RootKeyStep) -> list[str]:
        return [problem.code for problem in self.get(lambda tx: tx.root_keys.problems(step.request_id))]

    def audited(self, name: str) -> list[tuple[str, str]]:
        """Return (event id's operation, outcome) of the records of a name."""
        return [(record["event_id"].partition("/")[0], record["outcome"]) for record in self.records(name)]

    def assert_in_force(self, mode: RootKeyMode, root_key_id: str | None) -> None:
        assert_in_force(self.tenant.database, self.tenant_id, mode, root_key_id)


Made = TypeVar("Made", bound=Change)


def connect_services(kind: type[Made], active: Provisioning, operator: Database, opener: Opener) -> Made:
    """Create three service keys of an active tenant under the platform's root key."""
    public_key = read_secret(active.parts.settings.secrets, INTAKE_PUBLIC_KEY)
    made = kind(Connection(active, operator), opener, public_key)
    for service in SERVICES:
        made.add_service(service)
    return made
