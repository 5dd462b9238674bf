"""The return to the platform's root key where the policy requires two people."""

from datetime import UTC, datetime, timedelta

import pytest

from core.errors.tenants import ApprovalRequired
from core.keys.root_keys import PlatformKeyRef, RootKeyMode
from core.messages.keys import RootKeyStep
from core.messages.tenants import ApprovalStep
from core.tenants.approvals import Action, VoteChoice
from core.tenants.policy import TenantPolicy
from tests.activities.root_keys.changing import Change
from tests.database.builders import a_person


@pytest.fixture
def guarded(change: Change) -> Change:
    change.read(lambda tx: tx.policy.set(TenantPolicy(four_eyes=frozenset({Action.ROOT_KEY_TO_PLATFORM}))))
    return change


def approved(change: Change, field, request_id: str) -> str:
    """Create a request of Ada for this return to the platform, which Kai approves; return the approval's id."""
    approval_id, tenant_id = f"{len(change.audited('approval.granted')) + 1:032x}", change.tenant_id
    ada, kai = a_person(tenant_id, "ada"), a_person(tenant_id, "kai")
    with field.open("dashboard", max_size=1).tenant_tx(tenant_id) as tx:
        for number, person in enumerate((ada, kai)):
            tx.sessions.begin(f"{number:064x}", person.subject, datetime.now(UTC) + timedelta(hours=1))
        tx.approvals.ask(approval_id, Action.ROOT_KEY_TO_PLATFORM, {"request_id": request_id}, ada, "cost")
    step = ApprovalStep(tenant_id=tenant_id, operation_id=f"approval-{approval_id}", approval_id=approval_id)
    change.tenant.run_with("open-approval", step)
    with field.open("dashboard", max_size=1).tenant_tx(tenant_id) as tx:
        tx.approvals.vote(approval_id, kai, VoteChoice.APPROVE)
    change.tenant.run_with("decide-approval", step)
    return approval_id


def with_approval(step: RootKeyStep, approval_id: str) -> RootKeyStep:
    return step.model_copy(update={"approval_id": approval_id})


def test_return_to_the_platforms_key_needs_an_approval_of_this_request(guarded: Change, bao, field) -> None:
    held = guarded.to(bao.place(), bao.token())
    back, other = guarded.ask(PlatformKeyRef(), None), guarded.ask(PlatformKeyRef(), None)
    with pytest.raises(ApprovalRequired):
        guarded.through(back)
    guarded.assert_in_force(RootKeyMode.OPENBAO, held.request_id)
    assert ("root-key-2", "intended") not in guarded.audited("root_key.changed")
    approval_id = approved(guarded, field, back.request_id)
    with pytest.raises(ApprovalRequired):
        guarded.through(with_approval(other, approval_id))
    guarded.through(with_approval(back, approval_id))
    guarded.assert_in_force(RootKeyMode.PLATFORM, None)
    guarded.to(bao.place(), bao.token())
    guarded.number += 1
    with pytest.raises(ApprovalRequired):
        guarded.through(with_approval(guarded.step(back.request_id, guarded.number), approval_id))
    with pytest.raises(ApprovalRequired):
        guarded.to_platform()
