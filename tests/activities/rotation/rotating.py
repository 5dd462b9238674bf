"""A tenant with connected services, the single steps of its key rotations, and its records."""

from collections.abc import Callable
from typing import Any

from temporalio.testing import ActivityEnvironment

from activities.keys import context_of
from core import names as ids
from core.keys.rotation import KeyState, RotationScope
from core.messages.base import StepInput
from core.messages.keys import (
    DestroyResult,
    PlanRotationStep,
    RetireResult,
    RetireVersionStep,
    RotateRequest,
    RotationFailedStep,
    RotationPlan,
    RotationStep,
)
from database.keys import KeyRow, ServiceKeyRow
from database.rotation import RotationRow
from kms.platform import PlatformRootKey
from tests.activities.provisioning import REGION
from tests.activities.root_keys.changing import SERVICES, Change

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
"""A service key's row and the inner layer of its wrap, as in an old copy of the database."""


class Rotating(Change):
    """The tenant and the single steps of its rotations."""

    rotations = 0

    def wants(self, **changed: Any) -> PlanRotationStep:
        """Return the input of the first step of the next rotation, by default of all keys."""
        self.rotations += 1
        asked: dict[str, Any] = {"services": RotationScope.ALL, "tenant_key": True} | changed
        return PlanRotationStep(
            tenant_id=self.tenant_id,
            operation_id=f"rotate-{self.rotations}",
            number=self.rotations,
            request=RotateRequest(request_id=f"request-{self.rotations}", **asked),
        )

    def rotate(self, step: PlanRotationStep, *, until: str = STEPS[-1], again: bool = False) -> RotationPlan:
        """Run the steps up to `until` as the workflow does; with `again` each step twice."""
        plan = self.step_of("plan-rotation", step)
        for name in self.path(step, plan):
            if STEPS.index(name) > STEPS.index(until):
                break
            for _ in range(2 if again else 1):
                self.step_of(name, step)
        return plan

    @staticmethod
    def path(step: PlanRotationStep, plan: RotationPlan) -> list[str]:
        """Return the steps of this rotation after its plan."""
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

    @staticmethod
    def following(step: PlanRotationStep) -> RotationStep:
        """Return the input of the steps after the plan."""
        return RotationStep(**step.model_dump(exclude={"request", "scheduled"}))

    def step_of(self, name: str, step: PlanRotationStep) -> Any:
        """Run one step, which must complete."""
        message = step if name == "plan-rotation" else self.following(step)
        result = self.tenant.run_with(name, message)
        assert not isinstance(result, RetireResult) or result.retired
        assert not isinstance(result, DestroyResult) or not result.objects
        return result

    def due(self) -> RotateRequest | None:
        """Return the due rotation, as the tenant workflow finds it."""
        step = StepInput(tenant_id=self.tenant_id, operation_id="due-1")
        return self.tenant.run_with("look-for-due-rotation", step).request

    def give_up(self, step: PlanRotationStep, code: str, reason: str) -> None:
        failed = RotationFailedStep(**step.model_dump(exclude={"request", "scheduled"}), code=code, reason=reason)
        self.tenant.run_with("abandon-rotation", failed)

    @staticmethod
    def in_activity(work: Callable[..., Any], *arguments: Any) -> Any:
        """Run a part of an activity in an activity environment."""
        return ActivityEnvironment().run(work, *arguments)

    def retire(self, service: str, version: int, operation: str = "retire-1") -> None:
        """Destroy a deactivated version, as on an operator's request."""
        self.tenant.run_with(
            "retire-service-key",
            RetireVersionStep(tenant_id=self.tenant_id, operation_id=operation, service=service, version=version),
        )

    def retire_all(self) -> None:
        for (service, version), state in self.states().items():
            if state is KeyState.DEACTIVATED:
                self.retire(service, version)

    # ── what is recorded ─────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def l2(self) -> KeyRow:
        return self.get(lambda tx: tx.keys.get(ids.l2_key(self.tenant_id)))

    def rotation(self, number: int) -> RotationRow:
        return self.get(lambda tx: tx.rotations.get(number))

    def states(self) -> dict[tuple[str, int], KeyState]:
        return {(key.service, key.version): key.state for key in self.read(lambda tx: tx.services.keys())}

    def copies(self) -> list[Copy]:
        """Return the data of an attacker with a database copy and access to the platform's root key."""
        found = self.read(lambda tx: [tx.services.key(service) for service in SERVICES])
        root_key = PlatformRootKey(self.tenant.parts.root_keys, REGION)
        return [(row, root_key.unwrap(self.context(row), row.wrapped)) for row in found if row is not None]

    def context(self, row: ServiceKeyRow) -> Any:
        return context_of(self.tenant_id, row.service, row.version)

    def open_copy(self, copy: Copy) -> bytes:
        row, inner = copy
        return self.tenant_keys.decrypt(self.context(row), inner.decode("ascii"))

    def assert_whole(self) -> None:
        """Assert one active version of each service, valid wraps in all records, and no incomplete rotation."""
        active = [service for (service, _), state in self.states().items() if state is KeyState.ACTIVE]
        assert sorted(active) == sorted(SERVICES)
        assert len(self.opened()) == sum(
            state in {KeyState.ACTIVE, KeyState.DEACTIVATED} for state in self.states().values()
        )
