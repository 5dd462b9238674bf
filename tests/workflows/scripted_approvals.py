"""The steps of approvals and of the policy as a script, beside those of the root key and the standing."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import NoReturn

from temporalio import activity
from temporalio.exceptions import ApplicationError

from tenancy.approvals import Action, ApprovalState
from tenancy.events import AnnouncementKind
from tenancy.leaving_messages import LeaveInput, LeavingResult
from tenancy.messages import (
    ApprovalResult,
    ApprovalStep,
    CloseApprovalInput,
    PendingApproval,
    PolicyInput,
    StandingInput,
    StandingResult,
    StepInput,
    WaitingResult,
)
from tenancy.rotation_messages import PlanRotationStep, RetireVersionStep, RotationFailedStep, RotationPlan
from tests.workflows.scripted_root_key import RootKeyScript


class ApprovalScript(RootKeyScript):
    """What people said is in `says`; what they ask for in `asks`, with its argument in `argument`."""

    def __init__(self) -> None:
        super().__init__()
        self.lasts = timedelta(hours=24)
        self.asks = Action.LOCK
        self.argument: dict[str, object] = {}
        self.says = ApprovalState.APPROVED
        self.code = ""
        self.waiting: dict[str, PendingApproval] = {}
        self.closed: list[tuple[str, str]] = []
        self.with_approval: list[str | None] = []
        self.policies: list[PolicyInput] = []
        self.behind = timedelta()
        """How far PostgreSQL's clock is behind Temporal's."""

    def activities(self) -> list[Callable[..., object]]:
        own = [self._admit_approval, self._decide, self._close, self._expire, self._change_policy]
        others = [self._begin_leaving, self._plan_rotation, self._abandon_rotation, self._retire_version]
        return [*super().activities(), *own, *others]

    @activity.defn(name="admit-approval")
    async def _admit_approval(self, step: ApprovalStep) -> ApprovalResult:
        self._called("admit-approval", step)
        if self.code:
            return self._result(ApprovalState.REFUSED, code=self.code)
        self.waiting[step.approval_id] = PendingApproval(
            approval_id=step.approval_id, action=self.asks, expires_at=datetime.now(UTC) + self.lasts
        )
        return self._result(ApprovalState.PENDING, told=AnnouncementKind.APPROVAL_WAITING)

    @activity.defn(name="decide-approval")
    async def _decide(self, step: ApprovalStep) -> ApprovalResult:
        self._called("decide-approval", step)
        self.waiting.pop(step.approval_id, None)
        return self._result(self.says)

    @activity.defn(name="close-approval")
    async def _close(self, step: CloseApprovalInput) -> WaitingResult:
        self._called("close-approval", step)
        self.closed.append((step.approval_id, step.code))
        return WaitingResult(waiting=tuple(self.waiting.values()))

    @activity.defn(name="expire-approvals")
    async def _expire(self, step: StepInput) -> WaitingResult:
        self._called("expire-approvals", step)
        now = datetime.now(UTC) - self.behind
        self.waiting = {name: one for name, one in self.waiting.items() if one.expires_at > now}
        return WaitingResult(waiting=tuple(self.waiting.values()))

    @activity.defn(name="change-policy")
    async def _change_policy(self, step: PolicyInput) -> None:
        self._called("change-policy", step)
        self.policies.append(step)

    @activity.defn(name="change-standing")
    async def _change_standing(self, step: StandingInput) -> StandingResult:
        self.with_approval.append(step.approval_id)
        return await super()._change_standing(step)

    # What else takes two people: that its first step is asked for with the approval is all that is looked at here.
    @activity.defn(name="begin-leaving")
    async def _begin_leaving(self, step: LeaveInput) -> LeavingResult:
        self._asked_with("begin-leaving", step.approval_id)

    @activity.defn(name="plan-rotation")
    async def _plan_rotation(self, step: PlanRotationStep) -> RotationPlan:
        self._asked_with("plan-rotation", step.request.approval_id)

    @activity.defn(name="abandon-rotation")
    async def _abandon_rotation(self, step: RotationFailedStep) -> None:
        self._called("abandon-rotation", step)

    @activity.defn(name="retire-service-key")
    async def _retire_version(self, step: RetireVersionStep) -> None:
        self._asked_with("retire-service-key", step.approval_id)

    def _asked_with(self, name: str, approval_id: str | None) -> NoReturn:
        self.calls.append(name)
        self.with_approval.append(approval_id)
        raise ApplicationError("seen", "nothing", type="seen", non_retryable=True)

    def _result(self, state: ApprovalState, **more: object) -> ApprovalResult:
        return ApprovalResult.model_validate(
            {
                "waiting": tuple(self.waiting.values()),
                "action": self.asks,
                "argument": self.argument,
                "state": state,
            }
            | more
        )
