"""The handlers of the tenant workflow for approvals and for the key policy.

An approved action runs by the same handlers as a direct request. Pending requests are kept with their expiry and shown
in the Temporal UI. The activity of each action verifies the approval (activities/approvals.py), so a forged, restarted
or outdated workflow cannot bypass it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.approvals import ApprovalActivities
    from activities.tenants import PolicyActivities
    from core.errors.tenants import REFUSALS, ApprovalUnknown, PolicyRefused
    from core.messages.base import ApprovalRef
    from core.messages.keys import RetireVersionRequest, RootKeyRequest, RotateRequest
    from core.messages.tenants import (
        ApprovalRequest,
        ApprovalResult,
        ApprovalStep,
        CloseApprovalInput,
        LeaveReason,
        OffboardRequest,
        PolicyInput,
        PolicyRequest,
        StatusChange,
        StatusChangeRequest,
        TenantInput,
        WaitingResult,
    )
    from core.tenants.approvals import Action, ApprovalState
    from core.tenants.lifecycle import State
    from core.tenants.policy import parse_policy
    from workflows.offboarding import LEAVING, OffboardingHandlers
    from workflows.root_keys import ROOT_KEY_CHANGE, RootKeyHandlers
    from workflows.rotation import RETIREMENT, ROTATION, RotationHandlers
    from workflows.runtime.activity_calls import run_local_activity
    from workflows.runtime.failures import code_of, refusal, refusal_of
    from workflows.runtime.tenant_base import LIVE
    from workflows.runtime.update_limits import UpdateKind


Request = TypeVar("Request", bound=ApprovalRef)

_MIN_WAIT = timedelta(seconds=1)
"""The shortest wait for an expiry: PostgreSQL's clock decides, and it may be slightly behind."""
_EXPIRY_PAUSE = timedelta(minutes=1)
"""The pause after the database rejected an expiry."""


class PolicyHandlers(RootKeyHandlers):
    @workflow.update(name="change-policy", description="Change the policy of the tenant")
    async def change_policy(self, request: PolicyRequest) -> None:
        with self._in_flight.counted(UpdateKind.CHANGE):
            await self._set_policy(request)

    @change_policy.validator
    def _may_change_policy(self, request: PolicyRequest) -> None:
        self._require_state(LIVE)
        self._in_flight.require_capacity(UpdateKind.CHANGE)
        try:
            parse_policy(
                request.tenant_key_days,
                request.service_key_days,
                request.four_eyes,
                revoked_keys_readable=request.revoked_keys_readable,
                resources_recorded=request.resources_recorded,
            )
        except PolicyRefused as refused:
            raise refusal(refused) from None

    async def _set_policy(self, request: PolicyRequest) -> None:
        step = PolicyInput(**self._step("policy").model_dump(), **request.model_dump())
        try:
            await run_local_activity(PolicyActivities.change_policy, step, "change the policy")
        except ActivityError as failed:
            raise refusal_of(failed) from None


class ApprovalHandlers(PolicyHandlers, RotationHandlers, OffboardingHandlers):
    def __init__(self, tenant: TenantInput) -> None:
        super().__init__(tenant)
        self._approval_lock = asyncio.Lock()
        self._executed: set[str] = set()
        self._expire_after: datetime | None = None

    @workflow.update(name="request-approval", description="Admit a stored request for approval by a second person")
    async def propose(self, request: ApprovalRequest) -> None:
        with self._in_flight.counted(UpdateKind.PROPOSAL):
            async with self._approval_lock:
                step = self._approval_step(request.approval_id)
                try:
                    result = await run_local_activity(
                        ApprovalActivities.admit_approval, step, "admit a request for approval"
                    )
                except ActivityError as failed:
                    raise refusal_of(failed) from None
                self._store(result)
        if result.notification is not None:
            self._queue_notification(step, result.notification)
        if result.state is ApprovalState.REFUSED:
            raise refusal(REFUSALS.get(result.code, ApprovalUnknown)())

    @propose.validator
    def _may_propose(self, request: ApprovalRequest) -> None:
        del request
        self._require_state(LIVE | {State.LEAVING})
        self._in_flight.require_capacity(UpdateKind.PROPOSAL)

    @workflow.update(name="decide-approval", description="Approve or reject a request by its votes")
    async def decide(self, request: ApprovalRequest) -> None:
        with self._in_flight.counted(self._kind_of_decision(request.approval_id)):
            await self._decide(request.approval_id)

    @decide.validator
    def _may_decide(self, request: ApprovalRequest) -> None:
        self._require_state(LIVE | {State.LEAVING})
        self._in_flight.require_capacity(self._kind_of_decision(request.approval_id))

    def _kind_of_decision(self, approval_id: str) -> UpdateKind:
        is_lock = any(one.approval_id == approval_id and one.action is Action.LOCK for one in self._memory.waiting)
        return UpdateKind.LOCK if is_lock else UpdateKind.DECISION

    async def _decide(self, approval_id: str) -> None:
        async with self._approval_lock:
            step = self._approval_step(approval_id)
            try:
                result = await run_local_activity(
                    ApprovalActivities.decide_approval, step, "count the votes on a request"
                )
            except ActivityError as failed:
                raise refusal_of(failed) from None
            self._store(result)
        if result.state is ApprovalState.APPROVED and approval_id not in self._executed:
            await self._execute_approved(approval_id, result)

    async def _execute_next_approved(self) -> None:
        """Execute an approved request that a lost workflow had not begun; the action's step verifies the approval."""
        approval_id, *left = self._memory.approved
        self._remember(approved=tuple(left))
        try:
            await self._decide(approval_id)
        except ApplicationError as failed:
            workflow.logger.warning("approved request not executed", extra={"code": failed.type})

    async def _execute_approved(self, approval_id: str, result: ApprovalResult) -> None:
        self._executed.add(approval_id)
        code, failed = "", None
        try:
            await self._approved_action(result, approval_id)
        except ApplicationError as stopped:
            code, failed = stopped.type or "internal", stopped
        step = CloseApprovalInput(**self._approval_step(approval_id).model_dump(), code=code)
        async with self._approval_lock:
            try:
                self._store(
                    await run_local_activity(
                        ApprovalActivities.close_approval, step, f"{result.action} · record the result"
                    )
                )
            except ActivityError as unrecorded:
                raise refusal_of(unrecorded) from None
        if failed is not None:
            raise failed

    def _approved_action(self, result: ApprovalResult, approval_id: str) -> Awaitable[None]:
        """Return the execution of an approved action, which gets `approval_id` for its verification."""
        argument = result.argument | {"approval_id": approval_id}
        match result.action:
            case Action.LOCK:
                return self._move(StatusChangeRequest(move=StatusChange.LOCK, approval_id=approval_id))
            case Action.CHANGE_POLICY:
                return self._set_policy(PolicyRequest.model_validate(argument))
            case Action.ROOT_KEY_TO_PLATFORM:
                return self._run_when_idle(ROOT_KEY_CHANGE, self._change, RootKeyRequest.model_validate(argument))
            case Action.OFFBOARD:
                leave = OffboardRequest.model_validate(argument | {"reason": LeaveReason.CUSTOMER})
                return self._run_when_idle(LEAVING, self._leave_on_demand, leave)
            case Action.COMPROMISE:
                rotate = RotateRequest.model_validate(argument | {"request_id": approval_id, "compromised": True})
                return self._run_when_idle(ROTATION, self._rotate_on_demand, rotate)
            case Action.RETIRE_KEY_VERSION:
                return self._run_when_idle(RETIREMENT, self._retire, RetireVersionRequest.model_validate(argument))

    async def _run_when_idle(self, operation: str, do: Callable[[Request], Awaitable[None]], request: Request) -> None:
        """Run an approved action after the current operation, because a rejection would need a new approval."""
        while self._operation is not None:
            await workflow.wait_condition(lambda: self._operation is None)
        with self._running(operation):
            await do(request)

    def _next_expiry(self) -> datetime | None:
        """Return when the next pending request expires, or is expired again; None when none is pending."""
        ends = min((one.expires_at for one in self._memory.waiting), default=None)
        return ends if ends is None or self._expire_after is None else max(ends, self._expire_after)

    def _until(self, ends: datetime | None) -> timedelta | None:
        return None if ends is None else max(ends - workflow.now(), _MIN_WAIT)

    def _is_overdue(self) -> bool:
        ends = self._next_expiry()
        return ends is not None and workflow.now() >= ends

    async def _expire(self) -> None:
        async with self._approval_lock:
            try:
                self._store(
                    await run_local_activity(
                        ApprovalActivities.expire_approvals, self._step("expiry"), "expire requests"
                    )
                )
            except ActivityError as failed:
                workflow.logger.warning("requests not expired", extra={"code": code_of(failed)})
                self._expire_after = workflow.now() + _EXPIRY_PAUSE
                return
        if self._is_overdue():
            await workflow.sleep(_MIN_WAIT, summary="retry the expiry of requests")

    def _store(self, result: WaitingResult) -> None:
        self._remember(waiting=result.waiting)
        self._show(self._memory.state)

    def _approval_step(self, approval_id: str) -> ApprovalStep:
        return ApprovalStep(**self._step("approval").model_dump(), approval_id=approval_id)

    def _shown(self, state: State) -> str:
        waiting = [
            f"- `{one.action}` waits for a second person until {one.expires_at:%Y-%m-%d %H:%M} UTC"
            for one in self._memory.waiting
        ]
        return "\n\n".join([super()._shown(state), *(["\n".join(waiting)] if waiting else [])])
