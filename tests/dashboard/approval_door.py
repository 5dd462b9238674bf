"""What the entity does about requests for a second person: its own steps, on the rows of a real database."""

from datetime import timedelta
from typing import Any

from temporalio.testing import ActivityEnvironment

from activities.announcing import Announcer
from activities.approvals import ApprovalActivities
from activities.policies import PolicyActivities
from database.connection import Database
from tenancy.approval_errors import REFUSALS
from tenancy.approvals import Action, ApprovalState
from tenancy.errors import OpenKcmError
from tenancy.locks import LockReason
from tenancy.messages import ApprovalStep, CloseApprovalInput, PolicyInput
from tenancy.policy import TenantPolicy
from workflows.gateway import UpdateRefused


class ApprovalDoor:
    """`lasts` is how long a request waits; what is approved is done at once."""

    def __init__(self, worker: Database) -> None:
        self.worker = worker
        self.approvals = ApprovalActivities(worker, Announcer((), ""), timedelta(hours=24))
        self._approval_steps = 0

    def admit_approval(self, tenant_id: str, approval_id: str) -> None:
        result = self._run(self.approvals.admit_approval, self._step(tenant_id, approval_id))
        if result.state is ApprovalState.REFUSED:
            refused = REFUSALS[result.code]()
            raise UpdateRefused(refused.code, refused.message, refused.hint)

    def decide_approval(self, tenant_id: str, approval_id: str) -> Action | None:
        """Count the votes; return what is to be done now, and was closed as done."""
        step = self._step(tenant_id, approval_id)
        result = self._run(self.approvals.decide_approval, step)
        if result.state is not ApprovalState.APPROVED:
            return None
        if result.action is Action.LOCK:
            with self.worker.tenant_tx(tenant_id) as tx:
                tx.tenants.hold(LockReason.SWITCH)
        elif result.action is Action.CHANGE_POLICY:
            policy = TenantPolicy.model_validate(result.argument)
            self.set_policy(tenant_id, policy, approval_id)
        self._run(self.approvals.close_approval, CloseApprovalInput(**step.model_dump()))
        action: Action = result.action
        return action

    def set_policy(self, tenant_id: str, policy: TenantPolicy, approval_id: str | None = None) -> None:
        self._approval_steps += 1
        request = {"tenant_id": tenant_id, "operation_id": f"policy-{self._approval_steps}", "approval_id": approval_id}
        activity = PolicyActivities(self.worker).change_policy
        self._run(activity, PolicyInput.model_validate(policy.as_argument() | request))

    def _step(self, tenant_id: str, approval_id: str) -> ApprovalStep:
        self._approval_steps += 1
        operation_id = f"approval-{self._approval_steps}"
        return ApprovalStep(tenant_id=tenant_id, operation_id=operation_id, approval_id=approval_id)

    @staticmethod
    def _run(activity: Any, step: Any) -> Any:
        try:
            return ActivityEnvironment().run(activity, step)
        except OpenKcmError as refused:
            raise UpdateRefused(refused.code, refused.message, refused.hint) from None
