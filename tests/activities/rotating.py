"""A tenant with connected services whose keys are rotated step by step, and what is on record of it afterwards."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment

from activities.wrapping import context_of
from config import secrets
from config.secrets import BOUNDARY_IDENTITY, read_secret
from config.settings import Settings
from database.interfaces import KeyRow, RotationRow, ServiceKeyRow
from keystores.platform import PlatformRootKey
from tenancy import ids
from tenancy.provisioning import Step
from tenancy.rotation import KeyState, Scope
from tenancy.rotation_messages import (
    DestroyResult,
    PlanRotationStep,
    RetireResult,
    RetireVersionStep,
    RotateRequest,
    RotationFailedStep,
    RotationPlan,
    RotationStep,
)
from tests.activities.changing import SERVICES, Change
from tests.activities.conftest import REGION, Provisioning, run_steps
from tests.activities.connecting import Connection
from tests.keystores.customer_openbao import CustomerOpenBao
from tests.keystores.opening import Opener
from tests.vault.server import Server
from vault.tokens import TenantTokens
from vault.transit import TransitTenantKeys

STEPS = (
    "plan-rotation",
    "rotate-tenant-key",
    "prepare-service-keys",
    "activate-service-keys",
    "rewrap-keys",
    "retire-tenant-key",
    "trim-tenant-key",
    "destroy-compromised-keys",
    "finish-rotation",
)
Copy = tuple[ServiceKeyRow, bytes]
"""A service key's row and the text that lay under its root key, as an old copy of the database has them."""


class Rotating(Change):
    """The tenant, its rotations one by one, and what is on record of them."""

    rotations = 0

    def wants(self, **changed: Any) -> PlanRotationStep:
        """Return the input of the first step of the next rotation, of everything unless it says otherwise."""
        self.rotations += 1
        asked: dict[str, Any] = {"services": Scope.ALL, "tenant_key": True} | changed
        return PlanRotationStep(
            tenant_id=self.tenant_id,
            operation_id=f"rotate-{self.rotations}",
            number=self.rotations,
            request=RotateRequest(request_id=f"request-{self.rotations}", **asked),
        )

    def rotate(self, step: PlanRotationStep, *, until: str = STEPS[-1], again: bool = False) -> RotationPlan:
        """Run the steps up to `until` as the workflow does; with `again` each of them twice."""
        plan = self.step_of("plan-rotation", step)
        for name in self.path(step, plan)[: STEPS.index(until)]:
            if STEPS.index(name) > STEPS.index(until):
                break
            for _ in range(2 if again else 1):
                self.step_of(name, step)
        return plan

    @staticmethod
    def path(step: PlanRotationStep, plan: RotationPlan) -> list[str]:
        """Return the steps behind the plan that this rotation takes."""
        request = step.request
        taken = {
            "rotate-tenant-key": request.tenant_key,
            "prepare-service-keys": bool(plan.services),
            "activate-service-keys": bool(plan.services),
            "rewrap-keys": plan.retires,
            "retire-tenant-key": plan.retires,
            "trim-tenant-key": request.tenant_key and request.compromised,
            "destroy-compromised-keys": plan.destroys,
            "finish-rotation": True,
        }
        return [name for name in STEPS[1:] if taken[name]]

    def step_of(self, name: str, step: PlanRotationStep) -> Any:
        """Run one step; whatever it says, it must have come to its end."""
        message = step if name == "plan-rotation" else RotationStep(**step.model_dump(exclude={"request", "scheduled"}))
        result = self.tenant.run_with(name, message)
        assert not isinstance(result, RetireResult) or result.retired
        assert not isinstance(result, DestroyResult) or not result.objects
        return result

    def give_up(self, step: PlanRotationStep, code: str, reason: str) -> None:
        failed = RotationFailedStep(**step.model_dump(exclude={"request", "scheduled"}), code=code, reason=reason)
        self.tenant.run_with("abandon-rotation", failed)

    @staticmethod
    def in_activity(work: Callable[..., Any], *arguments: Any) -> Any:
        """Run a part of an activity as if it were one."""
        return ActivityEnvironment().run(work, *arguments)

    def retire(self, service: str, version: int, operation: str = "retire-1") -> None:
        """Destroy a version that encrypts nothing any more, as somebody may ask."""
        self.tenant.run_with(
            "retire-service-key",
            RetireVersionStep(tenant_id=self.tenant_id, operation_id=operation, service=service, version=version),
        )

    def retire_all(self) -> None:
        for (service, version), state in self.states().items():
            if state is KeyState.DEACTIVATED:
                self.retire(service, version)

    # ── what is on record ────────────────────────────────────────────────────────────────────────────────────────

    @property
    def tenant_keys(self) -> TransitTenantKeys:
        vault, identity = self.tenant.parts.vault, read_secret(self.tenant.parts.settings.secrets, BOUNDARY_IDENTITY)
        return TransitTenantKeys(vault, TenantTokens(vault, identity))

    @property
    def l2(self) -> KeyRow:
        with self.tenant.database.tenant_tx(self.tenant_id) as tx:
            key = tx.keys.get(ids.l2_key(self.tenant_id))
        assert key is not None
        return key

    def rotation(self, number: int) -> RotationRow:
        with self.tenant.database.tenant_tx(self.tenant_id) as tx:
            found = tx.rotations.get(number)
        assert found is not None
        return found

    def states(self) -> dict[tuple[str, int], KeyState]:
        with self.tenant.database.tenant_tx(self.tenant_id) as tx:
            versions = tx.services.keys()
        return {(key.service, key.version): key.state for key in versions}

    def copies(self) -> list[Copy]:
        """Return what a thief has who copied the database and can use the platform's root key."""
        with self.tenant.database.tenant_tx(self.tenant_id) as tx:
            rows = [row for service in SERVICES if (row := tx.services.key(service)) is not None]
        root_key = PlatformRootKey(self.tenant.parts.root_keys, REGION)
        return [(row, root_key.unwrap(self.context(row), row.wrapped)) for row in rows]

    def context(self, row: ServiceKeyRow) -> Any:
        return context_of(self.tenant_id, row.service, row.version)

    def open_copy(self, copy: Copy) -> bytes:
        row, inner = copy
        return self.tenant_keys.decrypt(self.context(row), inner.decode("ascii"))

    def assert_whole(self) -> None:
        """Each service has one version that encrypts, everything on record opens, and nothing is half done."""
        active = [service for (service, _), state in self.states().items() if state is KeyState.ACTIVE]
        assert sorted(active) == sorted(SERVICES)
        assert len(self.opened()) == sum(
            state in {KeyState.ACTIVE, KeyState.DEACTIVATED} for state in self.states().values()
        )


@pytest.fixture(scope="session")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CustomerOpenBao]:
    """The key server of a customer."""
    started = CustomerOpenBao.start(tmp_path_factory.mktemp("customer"))
    yield started
    started.kill()


@pytest.fixture
def opener(settings: Settings) -> Iterator[Opener]:
    with Opener(settings) as opener:
        yield opener


@pytest.fixture
def rotating(tenant: Provisioning, operator: Any, opener: Opener, settings: Settings, key_server: Server) -> Rotating:
    """An active tenant with three service keys under the platform's root key."""
    assert key_server.url
    run_steps(tenant, [Step.OPEN_RECORDS, Step.CREATE_KEYS, Step.CREATE_AUTHORITY, Step.ACTIVATE])
    made = Rotating(Connection(tenant, operator), opener, read_secret(settings.secrets, secrets.INTAKE_PUBLIC_KEY))
    for service in SERVICES:
        made.add_service(service)
    return made
