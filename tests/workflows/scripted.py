"""Scripted activities: each activity of the product by name and input type, with a result and no effect.

The tests of workflows verify order, rejections and results; tests/activities run the activities with real servers.
"""

import asyncio
import importlib
import inspect
import pkgutil
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from temporalio import activity
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker

import activities
from activities.offboarding.destruction import WorkflowTerminationActivities
from core import names as ids
from core.errors.tenants import DestructionStarted, OffboardingAlreadyScheduled
from core.keys.root_keys import RootKeyMode
from core.messages.base import AnnounceInput, TenantsResult
from core.messages.keys import (
    DestroyResult,
    DueRotation,
    DueTenants,
    PreflightResult,
    RetireResult,
    RetireVersionStep,
    RotationEnded,
    RotationPlan,
    RotationProgress,
    SwitchResult,
    WatchResult,
    WrapProgress,
)
from core.messages.recovery import RecoveryPage
from core.messages.services import (
    AuthorityFailureInput,
    AuthorityPlan,
    CertificatePlan,
    CertificateResult,
    CertificateStep,
    EnrolStep,
    ExpiryResult,
    RenewalStep,
    RollAuthorityResult,
    ServicesResult,
)
from core.messages.tenants import (
    ActivateResult,
    ApprovalResult,
    ApprovalStep,
    DestructionStartedResult,
    LeaveInput,
    OffboardingResult,
    PayloadKeyResult,
    PendingApproval,
    StatusChange,
    StatusChangeInput,
    StatusChangeResult,
    StoredTenant,
    TenantWorkflowState,
    WaitingResult,
)
from core.notifications import NotificationKind
from core.tenants.approvals import Action, ApprovalState
from core.tenants.lifecycle import State
from openkcm.errors import OpenKcmError
from tests.workflows.queues import ValidatingOnce, run_region
from workflows.recovery import RecoverTenant, RecoverWorkflows

RENEWED_AFTER = timedelta(hours=48)
SWITCHED = SwitchResult(state=State.ACTIVE, switched=True, mode=RootKeyMode.OPENBAO)
_STATES = {StatusChange.SUSPEND: State.SUSPENDED, StatusChange.LOCK: State.LOCKED}


def _definitions() -> list[activity._Definition]:
    modules = [importlib.import_module(one.name) for one in pkgutil.walk_packages(activities.__path__, "activities.")]
    classes = {kind for module in modules for kind in vars(module).values() if inspect.isclass(kind)}
    methods = [method for kind in classes for method in vars(kind).values()]
    return [found for method in methods if (found := activity._Definition.from_callable(method)) is not None]


class Script:
    """The script: each activity succeeds unless `down` or `refused` names it, and returns its entry in `answers`.

    A name is the activity's name, for some with a part of the input (`_label`). `calls` are the successful calls in
    order, and `inputs` the inputs of all attempts.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.attempts: Counter[str] = Counter()
        self.inputs: defaultdict[str, list[Any]] = defaultdict(list)
        self.down: set[str] = set()
        self.refused: dict[str, str | OpenKcmError] = {}
        self.row = State.REQUESTED
        """The state of the tenant's row, where a test does not script the steps that change it."""
        self.rounds = 1
        """The number of wrapping rounds before the root key is switched or the tenant key is retired."""
        self.reports: list[tuple[str, ...]] = []
        """The successive results of root key monitoring; after the last one it waits."""
        self.answers: dict[str, Any] = {
            "recover-tenant": RecoveryPage(started=0),
            "recover-workflows": RecoveryPage(started=0),
            "load-payload-key": PayloadKeyResult(exists=True),
            "load-tenant": StoredTenant(memory=TenantWorkflowState(provision=True)),
            "read-tenant-state": lambda _step: StatusChangeResult(state=self.row),
            "activate": ActivateResult(messages=1),
            "preflight-root-key": PreflightResult(problems=0),
            "wrap-service-keys": WrapProgress(total=3, wrapped=3),
            "switch-root-key": self._switch,
            "abandon-root-key": SWITCHED.model_copy(update={"switched": False}),
            "apply-root-key-health": StatusChangeResult(state=State.ACTIVE),
            "change-status": self._change_standing,
            "monitor-root-keys": self._watch,
            "plan-ca": AuthorityPlan(version=2),
            "find-unrenewed-services": ServicesResult(services=()),
            "abandon-ca": self._abandon_authority,
            "find-due-cas": TenantsResult(tenants=()),
            "check-expiry": ExpiryResult(services=()),
            "look-for-due-rotation": DueRotation(),
            "plan-rotation": RotationPlan(services=2, retires=True, destroys=False),
            "prepare-service-keys": RotationProgress(total=2, done=2),
            "rewrap-keys": RotationProgress(total=0, done=0),
            "retire-tenant-key": self._retire,
            "destroy-compromised-keys": DestroyResult(objects=0),
            "finish-rotation": RotationEnded(notification=NotificationKind.KEYS_ROTATED),
            "find-due-rotations": DueTenants(tenants=()),
            "detect-root-key-versions": DueTenants(tenants=()),
        }
        self._then: dict[str, Callable[[], None]] = {}
        self.services = Services(self)
        self.approvals = Approvals(self)
        self.leaving = LeavingTenant(self)

    def on(self, name: str, then: Callable[[], None]) -> None:
        """Call `then` at each attempt of an activity."""
        self._then[name] = then

    def fail_first(self, *names: str) -> None:
        """Make the first attempt of each activity fail."""
        for name in names:
            self.down.add(name)
            self.on(name, lambda name=name: self.down.discard(name) if self.attempts[name] > 1 else None)

    @asynccontextmanager
    async def worker(self, client: Client, region: str, workflows: Sequence[type]) -> AsyncIterator[None]:
        """Run the workers of a region; only the termination of workflows is a real activity.

        The worker of the platform's queue recovers nothing.
        """
        termination = WorkflowTerminationActivities()
        real = [termination.close_workflows, termination.terminate_service_workflows]
        names = {activity._Definition.must_from_callable(one).name for one in real}
        scripted = [self._scripted(one) for one in _DEFINITIONS if one.name not in names]
        recovery = [RecoverWorkflows, RecoverTenant]
        platform = Worker(
            client,
            task_queue=ids.PLATFORM_QUEUE,
            workflows=recovery,
            activities=scripted,
            workflow_runner=ValidatingOnce(),
        )
        async with run_region(client, region, workflows, [*real, *scripted]), platform:
            yield

    def _scripted(self, real: activity._Definition) -> Callable[..., Any]:
        name, kinds = str(real.name), real.arg_types or []
        if not kinds:

            async def scripted() -> Any:
                return await self._run(name, None)
        else:

            async def scripted(step: kinds[0]) -> Any:
                return await self._run(name, step)

        return activity.defn(name=name)(scripted)

    async def _run(self, name: str, step: Any) -> Any:
        label = _label(name, step)
        self.attempts[label] += 1
        self.inputs[name].append(step)
        self._then.get(label, lambda: None)()
        if label in self.down:
            raise ApplicationError("down", "start it", type="vault_unavailable")
        if (why := self.refused.get(label)) is not None:
            code, message, hint = (why, "refused", "ask") if isinstance(why, str) else (why.code, why.message, why.hint)
            raise ApplicationError(message, hint, type=code, non_retryable=True)
        answer = self.answers.get(name)
        if callable(answer):
            answer = answer(step) if step is not None else answer()
        if inspect.isawaitable(answer):
            answer = await answer
        self.calls.append(label)
        return answer

    def _switch(self, _step: object) -> SwitchResult:
        done = self.calls.count("switch-root-key") + 1 >= self.rounds
        notification = NotificationKind.ROOT_KEY_CHANGED if done else None
        return SWITCHED.model_copy(update={"switched": done, "notification": notification})

    def _retire(self, _step: object) -> RetireResult:
        return RetireResult(retired=self.calls.count("retire-tenant-key") + 1 >= self.rounds)

    @staticmethod
    def _change_standing(step: StatusChangeInput) -> StatusChangeResult:
        notification = NotificationKind.LOCKED if step.move is StatusChange.LOCK else None
        return StatusChangeResult(state=_STATES.get(step.move, State.ACTIVE), notification=notification)

    @staticmethod
    def _abandon_authority(failure: AuthorityFailureInput) -> RollAuthorityResult:
        return RollAuthorityResult(code=failure.code)

    async def _watch(self, _step: object) -> WatchResult:
        while not self.reports:
            activity.heartbeat()
            await asyncio.sleep(0.01)
        return WatchResult(tenants=self.reports.pop(0))


def _label(name: str, step: Any) -> str:
    match step:
        case AnnounceInput():
            return f"{name} {step.kind}"
        case RetireVersionStep():
            return f"{name} {step.service} {step.version}"
        case _ if name == "remind-of-offboarding":
            return f"{name} {step.operation_id}"
    return name


class Services:
    """The activities of one service: each certificate has the next generation."""

    def __init__(self, script: Script) -> None:
        self.issued: list[CertificateStep] = []
        self.by_hand = False
        self.renewed_after, self._began = RENEWED_AFTER, datetime.now(UTC)
        script.answers |= {
            "record-service": self._plan,
            "plan-renewal": self._plan,
            "issue-certificate": self._issue,
        }

    def renew_at(self, step: CertificateStep) -> datetime:
        """Return the renewal time, relative to the script's start: tests advance only the workflow's clock."""
        return self._began + self.renewed_after * step.generation

    def _plan(self, step: Any) -> CertificatePlan:
        if self.by_hand and isinstance(step, RenewalStep) and not step.requested:
            newest = self.issued[-1]
            return CertificatePlan(
                request_id=newest.request_id, generation=newest.generation, by_hand_until=self.renew_at(newest)
            )
        known = step if isinstance(step, EnrolStep) else self.issued[-1]
        return CertificatePlan(request_id=known.request_id, generation=len(self.issued) + 1)

    def _issue(self, step: CertificateStep) -> CertificateResult:
        self.issued.append(step)
        return CertificateResult(renew_at=self.renew_at(step), by_hand=self.by_hand)


class Approvals:
    """The activities of approvals: requests are for `asks` with `argument`, and decisions are `says`."""

    def __init__(self, script: Script) -> None:
        self.lasts = timedelta(hours=24)
        self.asks = Action.LOCK
        self.argument: dict[str, object] = {}
        self.says = ApprovalState.APPROVED
        self.code = ""
        self.waiting: dict[str, PendingApproval] = {}
        self.clock_behind = timedelta()
        """The lag of PostgreSQL's clock behind Temporal's."""
        script.answers |= {
            "open-approval": self._admit,
            "decide-approval": self._decide,
            "close-approval": lambda _step: self._waiting(),
            "expire-approvals": self._expire,
        }

    def _admit(self, step: ApprovalStep) -> ApprovalResult:
        if self.code:
            return self._result(ApprovalState.REFUSED, code=self.code)
        self.waiting[step.approval_id] = PendingApproval(
            approval_id=step.approval_id, action=self.asks, expires_at=datetime.now(UTC) + self.lasts
        )
        return self._result(ApprovalState.PENDING, notification=NotificationKind.APPROVAL_WAITING)

    def _decide(self, step: ApprovalStep) -> ApprovalResult:
        self.waiting.pop(step.approval_id, None)
        return self._result(self.says)

    def _expire(self, _step: object) -> WaitingResult:
        now = datetime.now(UTC) - self.clock_behind
        self.waiting = {name: one for name, one in self.waiting.items() if one.expires_at > now}
        return self._waiting()

    def _waiting(self) -> WaitingResult:
        return WaitingResult(waiting=tuple(self.waiting.values()))

    def _result(self, state: ApprovalState, **more: object) -> ApprovalResult:
        result = {"action": self.asks, "argument": self.argument, "state": state}
        return ApprovalResult.model_validate(result | {"waiting": tuple(self.waiting.values())} | more)


class LeavingTenant:
    """The part of a tenant's row that offboarding, restoration and destruction read."""

    def __init__(self, script: Script) -> None:
        self.leaving: OffboardingResult | None = None
        self.destroying = False
        script.answers |= {
            "start-offboarding": self._leave,
            "restore-tenant": self._restore,
            "start-destruction": self._begin_destruction,
        }

    def _leave(self, step: LeaveInput) -> OffboardingResult:
        requested = timedelta() if step.now else step.grace_seconds and timedelta(seconds=step.grace_seconds)
        if self.leaving is not None:
            if requested is not None and self.leaving.until - self.leaving.since != requested:
                raise ApplicationError("at another time", "", type=OffboardingAlreadyScheduled.code, non_retryable=True)
            return self.leaving.model_copy(update={"notification": None})
        since = datetime.now(UTC)
        until = since + (timedelta(days=30) if requested is None else requested)
        self.leaving = OffboardingResult(
            state=State.LEAVING, since=since, until=until, notification=NotificationKind.LEAVING
        )
        return self.leaving

    def _restore(self, _step: object) -> StatusChangeResult:
        if self.destroying:
            raise ApplicationError("too late", "", type=DestructionStarted.code, non_retryable=True)
        self.leaving = None
        return StatusChangeResult(state=State.ACTIVE, notification=NotificationKind.RESTORED)

    def _begin_destruction(self, _step: object) -> DestructionStartedResult:
        self.destroying = self.leaving is not None
        return DestructionStartedResult(begun=self.destroying)


_DEFINITIONS = _definitions()
