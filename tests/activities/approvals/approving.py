"""A tenant whose policy requires two people, its users, and the steps of requests, votes and actions."""

import uuid
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from temporalio.testing import ActivityEnvironment

from activities.approvals import ApprovalActivities
from activities.notifications import NotificationOutbox
from activities.offboarding.grace_period import GracePeriodActivities
from activities.tenants import PolicyActivities, TenantStatusActivities
from core.messages.base import StepInput
from core.messages.tenants import (
    ApprovalResult,
    ApprovalStep,
    CloseApprovalInput,
    LeaveInput,
    OffboardingResult,
    PolicyInput,
    RestoreInput,
    StatusChange,
    StatusChangeInput,
)
from core.notifications import Channel
from core.tenants.approvals import Action, Approval, ApprovalState, Argument, VoteChoice
from core.tenants.lifecycle import State
from core.tenants.policy import TenantPolicy
from core.tenants.roles import Person, PersonRole
from tests.activities.recorded import LockCopies, Recorded
from tests.database.builders import a_person
from tests.database.fixtures import Field

TENANT = "acme"
ADA = a_person(TENANT, "ada")
KAI = a_person(TENANT, "kai", PersonRole.KEY_ADMINISTRATOR)
UMA = a_person(TENANT, "uma", PersonRole.AUDITOR)
DAY = timedelta(hours=24)


class Scene(Recorded):
    def __init__(self, field: Field) -> None:
        self.field, self.worker, self.dashboard = field, field.open("worker"), field.open("dashboard")
        super().__init__(self.worker, TENANT)
        announcer = NotificationOutbox((Channel.EMAIL,), "https://cmk.example/tenant")
        self.approvals = ApprovalActivities(self.worker, announcer, DAY)
        self.policies = PolicyActivities(self.worker)
        self.leaving = GracePeriodActivities(
            self.worker, announcer, LockCopies(), timedelta(days=30), lambda: datetime.now(UTC)
        )
        self.standings = TenantStatusActivities(self.worker, announcer, LockCopies(), 60.0, lambda: datetime.now(UTC))
        self._steps = 0

    def step(self, what: str = "step") -> StepInput:
        self._steps += 1
        return StepInput(tenant_id=TENANT, operation_id=f"{what}-{self._steps}")

    def run(self, activity: Any, step: StepInput) -> Any:
        return ActivityEnvironment().run(activity, step)

    # ── actions in the dashboard ─────────────────────────────────────────────────────────────────────────────────

    def asks(self, person: Person, action: Action = Action.LOCK, argument: Argument | None = None) -> str:
        approval_id = uuid.uuid4().hex
        with self.dashboard.tenant_tx(TENANT) as tx:
            tx.approvals.ask(approval_id, action, argument or {}, person, "maintenance")
        return approval_id

    def says(self, person: Person, approval_id: str, choice: VoteChoice = VoteChoice.APPROVE) -> None:
        with self.dashboard.tenant_tx(TENANT) as tx:
            assert tx.approvals.vote(approval_id, person, choice, "agreed")

    # ── the steps ────────────────────────────────────────────────────────────────────────────────────────────────

    def of(self, approval_id: str) -> ApprovalStep:
        return ApprovalStep(**self.step("approval").model_dump(), approval_id=approval_id)

    def admit(self, approval_id: str) -> ApprovalResult:
        return self.run(self.approvals.admit_approval, self.of(approval_id))

    def decide(self, approval_id: str) -> ApprovalResult:
        return self.run(self.approvals.decide_approval, self.of(approval_id))

    def close(self, approval_id: str, code: str = "") -> Any:
        step = CloseApprovalInput(**self.of(approval_id).model_dump(), code=code)
        return self.run(self.approvals.close_approval, step)

    def expire(self) -> Any:
        return self.run(self.approvals.expire_approvals, self.step("expiry"))

    def move(self, move: StatusChange, approval_id: str | None = None, operation_id: str = "") -> None:
        step = self.step(move)
        self.run(
            self.standings.change_standing,
            StatusChangeInput(
                tenant_id=TENANT, operation_id=operation_id or step.operation_id, move=move, approval_id=approval_id
            ),
        )

    def leave(self, approval_id: str | None = None, **request: Any) -> OffboardingResult:
        fields = self.step("leave").model_dump() | {"approval_id": approval_id} | request
        return self.run(self.leaving.begin_leaving, LeaveInput.model_validate(fields))

    def restore(self) -> None:
        self.run(self.leaving.restore_tenant, RestoreInput.model_validate(self.step("restore").model_dump()))

    def set_policy(self, policy: TenantPolicy, approval_id: str | None = None) -> None:
        request = policy.as_argument() | {"approval_id": approval_id}
        self.run(self.policies.change_policy, PolicyInput.model_validate(self.step().model_dump() | request))

    def approved(self, action: Action = Action.LOCK, argument: Argument | None = None) -> str:
        """Create a request of Ada that Kai approves; return its id."""
        approval_id = self.asks(ADA, action, argument)
        self.admit(approval_id)
        self.says(KAI, approval_id)
        assert self.decide(approval_id).state is ApprovalState.APPROVED
        return approval_id

    # ── what is recorded ─────────────────────────────────────────────────────────────────────────────────────────────

    def wants_two_for(self, *actions: Action) -> None:
        self.read(lambda tx: tx.policy.set(TenantPolicy(four_eyes=frozenset(actions))))

    @property
    def policy(self) -> TenantPolicy:
        return self.read(lambda tx: tx.policy.get())

    @property
    def state(self) -> State:
        return self.tenant_row.state

    def approval(self, approval_id: str) -> Approval:
        return self.get(lambda tx: tx.approvals.get(approval_id))

    def let_its_time_pass(self, approval_id: str) -> None:
        with self.field.administrator() as administrator:
            administrator.execute(
                "update okcm.approval set expires_at = clock_timestamp() where approval_id = %s", [approval_id]
            )


def sign_on(field: Field, people: Iterable[Person]) -> None:
    with field.open("dashboard", max_size=1).tenant_tx(TENANT) as tx:
        for number, person in enumerate(people):
            tx.sessions.begin(f"{number:064x}", person.subject, datetime.now(UTC) + timedelta(hours=1))
