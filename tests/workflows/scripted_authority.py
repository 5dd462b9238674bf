"""The steps of a roll of the authority, and the platform's looks at all that ends, as a script."""

from collections.abc import Callable

from temporalio import activity
from temporalio.exceptions import ApplicationError

from tenancy.messages import (
    AuthorityFailureInput,
    AuthorityPlan,
    AuthorityStep,
    ExpiryResult,
    LateService,
    RollAuthorityResult,
    ServicesResult,
    StepInput,
    TenantsResult,
)


class AuthorityScript:
    """Everything succeeds unless `down` or `refused` says otherwise."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.down: set[str] = set()
        self.refused: dict[str, str] = {}
        self.was_activated = False
        """Whether an activation that was given up had been done after all."""
        self.unrenewed: tuple[str, ...] = ()
        self.due: tuple[str, ...] = ()
        self.late: tuple[LateService, ...] = ()
        self.operations: list[str] = []
        self._then: dict[str, Callable[[], None]] = {}

    def on(self, name: str, then: Callable[[], None]) -> None:
        """Do something the moment an activity is tried."""
        self._then[name] = then

    def activities(self) -> list[Callable[..., object]]:
        """Return those of a tenant's own queue."""
        return [self._plan, self._prepare, self._verify, self._activate, self._unrenewed, self._abandon, self._publish]

    def platforms(self) -> list[Callable[..., object]]:
        return [self._end, self._due, self._check]

    def _called(self, name: str, step: StepInput | None = None) -> None:
        self._then.get(name, lambda: None)()
        if name in self.down:
            raise ApplicationError("down", "start it", type="vault_unavailable")
        if name in self.refused:
            raise ApplicationError("refused", "mend it", type=self.refused[name], non_retryable=True)
        self.calls.append(name)
        if step is not None:
            self.operations.append(step.operation_id)

    @activity.defn(name="plan-authority")
    async def _plan(self, step: StepInput) -> AuthorityPlan:
        self._called("plan-authority", step)
        return AuthorityPlan(version=2)

    @activity.defn(name="prepare-authority")
    async def _prepare(self, step: AuthorityStep) -> None:
        self._called("prepare-authority", step)

    @activity.defn(name="verify-authority")
    async def _verify(self, step: AuthorityStep) -> None:
        self._called("verify-authority", step)

    @activity.defn(name="activate-authority")
    async def _activate(self, step: AuthorityStep) -> None:
        self._called("activate-authority", step)

    @activity.defn(name="unrenewed-services")
    async def _unrenewed(self, step: StepInput) -> ServicesResult:
        self._called("unrenewed-services", step)
        return ServicesResult(services=self.unrenewed)

    @activity.defn(name="abandon-authority")
    async def _abandon(self, failure: AuthorityFailureInput) -> RollAuthorityResult:
        self._called("abandon-authority", failure)
        return RollAuthorityResult(code="" if self.was_activated else failure.code)

    @activity.defn(name="publish-revocation-list")
    async def _publish(self, step: StepInput) -> None:
        self._called("publish-revocation-list", step)

    @activity.defn(name="end-authorities")
    async def _end(self) -> None:
        self._called("end-authorities")

    @activity.defn(name="due-authorities")
    async def _due(self) -> TenantsResult:
        self._called("due-authorities")
        return TenantsResult(tenants=self.due)

    @activity.defn(name="check-expiry")
    async def _check(self) -> ExpiryResult:
        self._called("check-expiry")
        return ExpiryResult(services=self.late)
