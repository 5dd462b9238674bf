"""Approvals on a real database: requests, votes and actions, each way around the second person, and each crash."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest

from activities.tenants import StoredTenantActivities
from core.errors.keys import RootKeyDisabled
from core.errors.tenants import (
    ApprovalNotNeeded,
    ApprovalPending,
    ApprovalRequired,
    ApprovalUnknown,
    EventSuperseded,
    OperationRepeated,
    PolicyRefused,
    TooManyApprovals,
    VoteRejected,
)
from core.messages.tenants import LeaveReason, PolicyInput, StatusChange
from core.notifications import NotificationKind
from core.tenants.approvals import MOST_PENDING, Action, ApprovalState, VoteChoice
from core.tenants.lifecycle import State, Transition
from core.tenants.policy import TenantPolicy
from core.tenants.provisioning import EventKind
from core.tenants.roles import Person, PersonRole
from tests.activities.approvals.approving import ADA, KAI, TENANT, UMA, Scene, sign_on
from tests.activities.dying import SimulatedCrash
from tests.database.builders import a_connected_service, a_provisioned_tenant, a_root_key, an_event
from tests.database.fixtures import Field

OTHERS_POLICY = TenantPolicy(tenant_key_days=100)


@pytest.fixture
def scene(field: Field) -> Scene:
    """Return an active tenant that requires two people for a lock; Ada, Kai and Uma are signed on."""
    worker = field.open("worker")
    a_provisioned_tenant(worker, TENANT)
    with worker.tenant_tx(TENANT) as tx:
        tx.tenants.move(Transition.ACTIVATE)
    sign_on(field, (ADA, KAI, UMA))
    made = Scene(field)
    made.wants_two_for(Action.LOCK)
    return made


def assert_lock_rejected(scene: Scene, approval_id: str | None) -> None:
    with pytest.raises(ApprovalRequired):
        scene.move(StatusChange.LOCK, approval_id)


def test_approved_action_is_executed_once_and_both_people_are_recorded(scene: Scene) -> None:
    approval_id = scene.asks(ADA)
    admitted = scene.admit(approval_id)
    assert (admitted.state, admitted.notification) == (ApprovalState.PENDING, NotificationKind.APPROVAL_WAITING)
    assert [one.approval_id for one in admitted.waiting] == [approval_id]
    assert scene.announced().count("approval-pending") == 1
    scene.says(KAI, approval_id)
    decided = scene.decide(approval_id)
    assert (decided.state, decided.action, decided.waiting) == (ApprovalState.APPROVED, Action.LOCK, ())
    scene.move(StatusChange.LOCK, approval_id)
    scene.close(approval_id)
    assert scene.state is State.LOCKED
    assert scene.approval(approval_id).state is ApprovalState.DONE
    assert scene.approval(approval_id).decision_reason == "agreed"
    details = {one["name"]: one["details"] for one in scene.records("approval.")}
    assert (details["approval.opened"]["request_reason"], "decision_reason" in details["approval.opened"]) == (
        "maintenance",
        False,
    )
    assert details["approval.granted"]["decision_reason"] == "agreed"
    recorded = [
        (one["name"], one["outcome"], one["details"].get("decided_by", "")) for one in scene.records("approval.")
    ]
    assert recorded == [
        ("approval.opened", "success", ""),
        ("approval.granted", "success", "kai"),
        ("approval.executed", "intended", "kai"),
        ("approval.executed", "success", "kai"),
    ]
    assert {one["details"]["requested_by"] for one in scene.records("approval.")} == {"ada"}


@pytest.mark.parametrize("approval_id", [None, "f" * 32])
def test_lock_needs_an_approval_only_where_the_policy_says_so(scene: Scene, approval_id: str | None) -> None:
    assert_lock_rejected(scene, approval_id)
    scene.move(StatusChange.SUSPEND)
    assert scene.state is State.SUSPENDED
    scene.wants_two_for(Action.OFFBOARD)
    scene.move(StatusChange.LOCK)
    assert scene.state is State.LOCKED


def test_pending_declined_expired_or_used_approval_is_rejected(scene: Scene) -> None:
    waits = scene.asks(ADA)
    scene.admit(waits)
    scene.says(KAI, waits)  # a vote that is not counted yet
    assert_lock_rejected(scene, waits)
    scene.decide(waits)
    scene.let_its_time_pass(waits)
    assert_lock_rejected(scene, waits)

    declined = scene.asks(ADA)
    scene.admit(declined)
    scene.says(KAI, declined, VoteChoice.DECLINE)
    assert scene.decide(declined).state is ApprovalState.REFUSED
    assert scene.records("approval.declined")
    assert_lock_rejected(scene, declined)

    used = scene.approved()
    scene.move(StatusChange.LOCK, used)
    scene.move(StatusChange.UNLOCK)
    for _ in range(2):
        assert_lock_rejected(scene, used)
        scene.close(used)
    assert scene.state is State.ACTIVE


def test_approval_for_one_action_is_not_valid_for_another(scene: Scene) -> None:
    scene.wants_two_for(Action.LOCK)
    policy = scene.approved(Action.CHANGE_POLICY, OTHERS_POLICY.as_argument())
    assert_lock_rejected(scene, policy)
    with pytest.raises(ApprovalRequired):
        scene.set_policy(TenantPolicy(), policy)  # the approval is for another policy
    scene.set_policy(OTHERS_POLICY, policy)
    assert scene.policy == OTHERS_POLICY


def test_offboarding_requires_two_people_and_the_approved_grace_period(scene: Scene) -> None:
    scene.wants_two_for(Action.OFFBOARD)
    usual = scene.approved(Action.OFFBOARD, {"now": False})
    for request in ({}, {"now": True}, {"approval_id": usual, "now": True}, {"approval_id": usual, "grace_seconds": 1}):
        with pytest.raises(ApprovalRequired):
            scene.leave(**request)
    assert scene.state is State.ACTIVE
    left = scene.leave(usual)
    assert (scene.state, left.until - left.since) == (State.LEAVING, timedelta(days=30))


def test_only_the_marketplaces_event_offboards_without_a_second_person(scene: Scene) -> None:
    scene.wants_two_for(Action.OFFBOARD)
    said = {"reason": LeaveReason.MARKETPLACE}
    with pytest.raises(EventSuperseded):
        scene.leave(**said)
    marketplace = scene.field.open("marketplace")
    with marketplace.tenant_tx(TENANT) as tx:
        tx.inbox.accept(an_event(TENANT, event_id="off", kind=EventKind.SERVICE_DISABLED))
    for sooner in ({"now": True}, {"grace_seconds": 1}, {"reason": LeaveReason.OPERATOR}):
        with pytest.raises(ApprovalRequired):
            scene.leave(**said | sooner)
    assert scene.leave(**said).state is State.LEAVING
    scene.restore()
    with pytest.raises(EventSuperseded):
        scene.leave(**said)  # the former event, whose offboarding was restored
    with marketplace.tenant_tx(TENANT) as tx:
        tx.inbox.accept(an_event(TENANT, event_id="off again", kind=EventKind.SERVICE_DISABLED))
    assert scene.leave(**said).state is State.LEAVING


def test_request_is_decided_after_admission_by_a_second_person_with_the_role(scene: Scene) -> None:
    for step in (scene.admit, scene.decide, scene.close):
        with pytest.raises(ApprovalUnknown):
            step("f" * 32)
    early = scene.asks(ADA, Action.OFFBOARD)
    scene.says(KAI, early)
    with pytest.raises(VoteRejected):
        scene.decide(early)
    approval_id = scene.asks(ADA)
    scene.admit(approval_id)
    scene.says(Person("ada", "Kai", TENANT, frozenset({PersonRole.KEY_ADMINISTRATOR})), approval_id)
    with pytest.raises(VoteRejected):
        scene.decide(approval_id)
    scene.says(UMA, approval_id)
    with pytest.raises(VoteRejected):
        scene.decide(approval_id)
    assert scene.approval(approval_id).state is ApprovalState.PENDING
    scene.says(KAI, approval_id)
    assert scene.decide(approval_id).state is ApprovalState.APPROVED


def test_unnecessary_duplicate_or_excessive_request_is_not_admitted(scene: Scene) -> None:
    assert scene.admit(scene.asks(ADA, Action.OFFBOARD)).code == ApprovalNotNeeded.code
    scene.admit(scene.asks(ADA))
    again = scene.asks(KAI)
    for _ in range(2):
        result = scene.admit(again)
        assert (result.state, result.code) == (ApprovalState.REFUSED, ApprovalPending.code)
    for number in range(MOST_PENDING - 1):
        assert not scene.admit(scene.asks(ADA, Action.LOCK, {"n": number})).code
    assert scene.admit(scene.asks(ADA, Action.LOCK, {"n": 99})).code == TooManyApprovals.code


def test_requester_withdraws_the_request(scene: Scene) -> None:
    approval_id = scene.asks(ADA)
    scene.admit(approval_id)
    scene.says(ADA, approval_id, VoteChoice.WITHDRAW)
    assert scene.decide(approval_id).state is ApprovalState.WITHDRAWN
    scene.says(KAI, approval_id)
    assert scene.decide(approval_id).state is ApprovalState.WITHDRAWN
    assert_lock_rejected(scene, approval_id)
    assert scene.records("approval.")[-1]["name"] == "approval.withdrawn"


@pytest.mark.parametrize("approved_before", [True, False])
def test_request_expires_and_can_be_repeated(scene: Scene, *, approved_before: bool) -> None:
    old, new = scene.asks(ADA), scene.asks(KAI)
    scene.admit(old)
    if approved_before:
        scene.says(KAI, old)
    scene.let_its_time_pass(old)
    if approved_before:
        assert scene.decide(old).state is ApprovalState.EXPIRED
    assert not scene.admit(new).code
    if not approved_before:
        scene.says(KAI, old)
    assert [one.approval_id for one in scene.expire().waiting] == [new]
    assert scene.decide(old).state is ApprovalState.EXPIRED
    assert [one["name"] for one in scene.records("approval.")].count("approval.expired") == 1


def test_late_attempt_of_a_policy_change_does_not_replace_a_later_policy(scene: Scene) -> None:
    scene.wants_two_for()
    change = PolicyInput.model_validate(scene.step().model_dump() | TenantPolicy(service_key_days=30).as_argument())
    for _ in range(2):
        scene.run(scene.policies.change_policy, change)
    later = TenantPolicy(four_eyes=frozenset({Action.LOCK}))
    scene.set_policy(later)
    with pytest.raises(OperationRepeated):
        scene.run(scene.policies.change_policy, change)
    assert scene.policy == later


def test_policy_change_needs_no_approval_until_the_policy_requires_two_people(scene: Scene) -> None:
    scene.wants_two_for()
    wants = TenantPolicy(service_key_days=30, four_eyes=frozenset({Action.OFFBOARD}))
    scene.set_policy(wants)
    with pytest.raises(ApprovalRequired):
        scene.set_policy(TenantPolicy())
    with pytest.raises(PolicyRefused):  # out of bounds
        scene.run(
            scene.policies.change_policy,
            PolicyInput(**scene.step().model_dump(), tenant_key_days=29, service_key_days=90),
        )
    assert scene.policy == wants
    [changed] = scene.records("policy.")
    assert changed["details"] == {
        "before": "tenant key 365 d, service keys 90 d, two people for nothing, revoked KMIP keys not readable, "
        "resources not recorded",
        "after": "tenant key 365 d, service keys 30 d, two people for offboard, revoked KMIP keys not readable, "
        "resources not recorded",
    }


def test_lock_after_a_root_key_failure_needs_no_approval(scene: Scene) -> None:
    a_connected_service(scene.field, TENANT)
    a_root_key(scene.field, TENANT)
    key = scene.get(lambda tx: tx.root_keys.current())
    scene.read(lambda tx: tx.root_keys.report(key.root_key_id, RootKeyDisabled.code))
    scene.run(scene.standings.follow_root_key, scene.step())
    assert scene.state is State.LOCKED


def test_workflow_without_a_history_gets_the_approved_requests_whose_action_has_not_begun(scene: Scene) -> None:
    stored = StoredTenantActivities(scene.worker)
    scene.wants_two_for(Action.LOCK, Action.OFFBOARD)
    begun, failed = scene.approved(), scene.approved(Action.OFFBOARD, {"now": True})
    scene.move(StatusChange.LOCK, begun)
    scene.close(failed, "invalid_transition")
    left = scene.approved()
    waiting = scene.asks(ADA, Action.OFFBOARD, {"now": False})
    scene.admit(waiting)
    memory = scene.run(stored.load_tenant, scene.step("load")).memory
    assert memory.approved == (left,)
    assert [one.approval_id for one in memory.waiting] == [waiting]


def test_failure_of_an_approved_action_is_recorded(scene: Scene) -> None:
    approval_id = scene.approved()
    for _ in range(2):
        scene.close(approval_id, "invalid_transition")
    found = scene.approval(approval_id)
    assert (found.state, found.failure) == (ApprovalState.FAILED, "invalid_transition")
    assert_lock_rejected(scene, approval_id)


@contextmanager
def crashing_after_the_commit(scene: Scene) -> Iterator[None]:
    """Crash each step after its commit, the only effect of an approval's step."""
    tenant_tx = scene.worker.tenant_tx

    @contextmanager
    def transaction(tenant_id: str) -> Iterator[Any]:
        with tenant_tx(tenant_id) as tx:
            yield tx
        raise SimulatedCrash

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scene.worker, "tenant_tx", transaction)
        with pytest.raises(SimulatedCrash):
            yield


def test_every_step_that_crashes_after_its_commit_has_one_effect(scene: Scene) -> None:
    approval_id = scene.asks(ADA)

    def again(activity: Any, step: Any) -> Any:
        with crashing_after_the_commit(scene):
            scene.run(activity, step)
        return scene.run(activity, step)

    assert again(scene.approvals.admit_approval, scene.of(approval_id)).state is ApprovalState.PENDING
    scene.says(KAI, approval_id)
    assert again(scene.approvals.decide_approval, scene.of(approval_id)).state is ApprovalState.APPROVED
    with crashing_after_the_commit(scene):
        scene.move(StatusChange.LOCK, approval_id, "lock-of-one")
    scene.move(StatusChange.LOCK, approval_id, "lock-of-one")
    assert scene.state is State.LOCKED
    with pytest.raises(ApprovalRequired):
        scene.move(StatusChange.LOCK, approval_id, "lock-of-another")
    scene.close(approval_id)
    over = scene.asks(ADA)
    scene.admit(over)
    scene.let_its_time_pass(over)
    assert again(scene.approvals.expire_approvals, scene.step("expiry")).waiting == ()
    policy = scene.approved(Action.CHANGE_POLICY, OTHERS_POLICY.as_argument())
    request = OTHERS_POLICY.as_argument() | {"approval_id": policy} | scene.step("policy").model_dump()
    again(scene.policies.change_policy, PolicyInput.model_validate(request))
    events = Counter(record["event_id"] for record in scene.records())
    assert set(events.values()) == {1}
    names = Counter((one["name"], one["outcome"]) for one in scene.records("approval."))
    assert names == {
        ("approval.opened", "success"): 3,
        ("approval.granted", "success"): 2,
        ("approval.executed", "intended"): 2,
        ("approval.executed", "success"): 1,
        ("approval.expired", "refused"): 1,
    }
    assert scene.announced().count("approval-pending") == 3
