"""The entity's steps for approvals, policies and tenant status, on the rows of a real database."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any

from temporalio.testing import ActivityEnvironment

from activities.approvals import ApprovalActivities
from activities.notifications import NotificationOutbox
from activities.tenants import PolicyActivities, TenantStatusActivities
from core.errors.compliance import AssessmentFailed
from core.errors.tenants import REFUSALS
from core.messages.tenants import ApprovalStep, CloseApprovalInput, PolicyInput, StatusChange, StatusChangeInput
from core.tenants.approvals import Action, ApprovalState
from core.tenants.policy import TenantPolicy
from database.connection.database import Database
from openkcm.errors import OpenKcmError
from tests.activities.recorded import LockCopies
from workflows.client.updates import OperationTimeout, UpdateRejected


def request(words: Callable[..., str]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Record a request, raise `fails`, and reject as a workflow does: with code, message and hint."""

    def decorate(act: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(act)
        def send(gateway: Any, *arguments: Any, **named: Any) -> Any:
            gateway.asked.append(words(*arguments, **named))
            if gateway.fails is not None:
                raise gateway.fails
            try:
                return act(gateway, *arguments, **named)
            except (UpdateRejected, OperationTimeout, AssessmentFailed):
                raise
            except OpenKcmError as refused:
                raise UpdateRejected(refused.code, refused.message, refused.hint) from None

        return send

    return decorate


class ApprovalRequests:
    """Requests for approvals; an approved action runs immediately."""

    def __init__(self, worker: Database) -> None:
        self.worker = worker
        self.approvals = ApprovalActivities(worker, NotificationOutbox((), ""), timedelta(hours=24))
        self.standing = TenantStatusActivities(
            worker, NotificationOutbox((), ""), LockCopies(), 60.0, lambda: datetime.now(UTC)
        )
        self._approval_steps = 0

    @request(lambda _, approval_id: f"propose {approval_id}")
    def propose(self, tenant_id: str, approval_id: str) -> None:
        result = self._run(self.approvals.admit_approval, self._step(tenant_id, approval_id))
        if result.state is ApprovalState.REFUSED:
            raise REFUSALS[result.code]

    @request(lambda _, approval_id: f"decide {approval_id}")
    def decide(self, tenant_id: str, approval_id: str) -> None:
        step = self._step(tenant_id, approval_id)
        result = self._run(self.approvals.decide_approval, step)
        if result.state is not ApprovalState.APPROVED:
            return
        if result.action is Action.LOCK:
            self._change_standing(tenant_id, StatusChange.LOCK, approval_id)
        elif result.action is Action.CHANGE_POLICY:
            self._set_policy(tenant_id, TenantPolicy.model_validate(result.argument), approval_id)
        self._run(self.approvals.close_approval, CloseApprovalInput(**step.model_dump()))

    @request(lambda tenant_id, move: f"{move} {tenant_id}")
    def change_standing(self, tenant_id: str, move: StatusChange) -> None:
        self._change_standing(tenant_id, move)

    @request(lambda tenant_id, _: f"policy {tenant_id}")
    def change_policy(self, tenant_id: str, policy: TenantPolicy) -> None:
        self._set_policy(tenant_id, policy)

    def _change_standing(self, tenant_id: str, move: StatusChange, approval_id: str | None = None) -> None:
        self._approval_steps += 1
        step = {"tenant_id": tenant_id, "operation_id": f"standing-{self._approval_steps}", "approval_id": approval_id}
        self._run(self.standing.change_standing, StatusChangeInput(move=move, **step))

    def _set_policy(self, tenant_id: str, policy: TenantPolicy, approval_id: str | None = None) -> None:
        self._approval_steps += 1
        step = {"tenant_id": tenant_id, "operation_id": f"policy-{self._approval_steps}", "approval_id": approval_id}
        self._run(PolicyActivities(self.worker).change_policy, PolicyInput.model_validate(policy.as_argument() | step))

    def _step(self, tenant_id: str, approval_id: str) -> ApprovalStep:
        self._approval_steps += 1
        operation_id = f"approval-{self._approval_steps}"
        return ApprovalStep(tenant_id=tenant_id, operation_id=operation_id, approval_id=approval_id)

    @staticmethod
    def _run(activity: Any, step: Any) -> Any:
        return ActivityEnvironment().run(activity, step)
