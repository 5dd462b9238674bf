"""The steps of a rotation of keys as a script."""

from collections import Counter
from collections.abc import Callable

from temporalio import activity
from temporalio.exceptions import ApplicationError

from tenancy.events import AnnouncementKind
from tenancy.messages import AnnounceInput, StepInput
from tenancy.rotation_messages import (
    DestroyResult,
    DueRotation,
    DueTenants,
    PlanRotationStep,
    RetireResult,
    RetireVersionStep,
    RotationEnded,
    RotationFailedStep,
    RotationPlan,
    RotationProgress,
    RotationStep,
)


class RotationScript:
    """Everything succeeds unless `down` or `refused` says otherwise."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.attempts: Counter[str] = Counter()
        self.down: set[str] = set()
        self.refused: dict[str, str] = {}
        self.plans: list[PlanRotationStep] = []
        self.abandoned: list[RotationFailedStep] = []
        self.plan = RotationPlan(services=2, retires=True, destroys=False)
        self.rewrapped = 0
        self.rounds = 1
        """How often all has to be wrapped anew before the older versions can be retired."""
        self.due = DueRotation()
        self.due_tenants: tuple[str, ...] = ()
        self.behind: tuple[str, ...] = ()
        """Tenants whose root key has a newer version."""
        self._then: dict[str, Callable[[], None]] = {}

    def on(self, name: str, then: Callable[[], None]) -> None:
        """Do something the moment an activity is tried."""
        self._then[name] = then

    def activities(self) -> list[Callable[..., object]]:
        return [
            self._look,
            self._plan,
            *(self._plain(name) for name in ("rotate-tenant-key", "activate-service-keys", "trim-tenant-key")),
            self._prepare,
            self._rewrap,
            self._retire,
            self._destroy,
            self._finish,
            self._abandon,
            self._retire_version,
            self._check,
            self._find_due,
            self._notice,
            self._announce,
        ]

    def _called(self, name: str) -> None:
        self.attempts[name] += 1
        self._then.get(name, lambda: None)()
        if name in self.down:
            raise ApplicationError("down", "start it", type="vault_unavailable")
        if name in self.refused:
            raise ApplicationError("refused", "mend it", type=self.refused[name], non_retryable=True)
        self.calls.append(name)

    def _plain(self, name: str) -> Callable[..., object]:
        @activity.defn(name=name)
        async def scripted(step: RotationStep) -> None:
            assert step.number
            self._called(name)

        return scripted

    @activity.defn(name="look-for-due-rotation")
    async def _look(self, step: StepInput) -> DueRotation:
        assert step.operation_id
        self._called("look-for-due-rotation")
        return self.due

    @activity.defn(name="plan-rotation")
    async def _plan(self, step: PlanRotationStep) -> RotationPlan:
        self._called("plan-rotation")
        self.plans.append(step)
        return self.plan

    @activity.defn(name="prepare-service-keys")
    async def _prepare(self, step: RotationStep) -> RotationProgress:
        assert step.number
        self._called("prepare-service-keys")
        return RotationProgress(total=2, done=2)

    @activity.defn(name="rewrap-keys")
    async def _rewrap(self, step: RotationStep) -> RotationProgress:
        assert step.number
        self._called("rewrap-keys")
        return RotationProgress(total=self.rewrapped, done=self.rewrapped)

    @activity.defn(name="retire-tenant-key")
    async def _retire(self, step: RotationStep) -> RetireResult:
        assert step.number
        self._called("retire-tenant-key")
        return RetireResult(retired=self.calls.count("retire-tenant-key") >= self.rounds)

    @activity.defn(name="destroy-compromised-keys")
    async def _destroy(self, step: RotationStep) -> DestroyResult:
        assert step.number
        self._called("destroy-compromised-keys")
        return DestroyResult(objects=0)

    @activity.defn(name="finish-rotation")
    async def _finish(self, step: RotationStep) -> RotationEnded:
        assert step.number
        self._called("finish-rotation")
        return RotationEnded(told=AnnouncementKind.KEYS_ROTATED)

    @activity.defn(name="abandon-rotation")
    async def _abandon(self, failure: RotationFailedStep) -> None:
        self._called("abandon-rotation")
        self.abandoned.append(failure)

    @activity.defn(name="retire-service-key")
    async def _retire_version(self, step: RetireVersionStep) -> None:
        self._called(f"retire-service-key {step.service} {step.version}")

    @activity.defn(name="check-rotations")
    async def _check(self) -> None:
        self._called("check-rotations")

    @activity.defn(name="find-due-rotations")
    async def _find_due(self) -> DueTenants:
        self._called("find-due-rotations")
        return DueTenants(tenants=self.due_tenants)

    @activity.defn(name="notice-root-key-versions")
    async def _notice(self) -> DueTenants:
        self._called("notice-root-key-versions")
        return DueTenants(tenants=self.behind)

    @activity.defn(name="announce")
    async def _announce(self, step: AnnounceInput) -> None:
        self._called(f"announce {step.kind}")
