"""Approvals: in any order of requests, votes and attempts, no protected action runs with fewer than two persons."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from core.errors.tenants import ApprovalRequired, PolicyRefused, ReasonRequired
from core.names import CANARY_TENANT_ID
from core.tenants.approvals import (
    Action,
    Approval,
    ApprovalState,
    Decision,
    Vote,
    VoteChoice,
    VoteRejection,
    decide,
    obstacle,
    parse_reason,
    refuse_unless_approved,
)
from core.tenants.policy import TenantPolicy, parse_policy
from core.tenants.provisioning import Step, steps_of
from core.tenants.roles import PersonRole

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
DAY = timedelta(hours=24)
ADA, KAI, UMA, OLGA = "ada", "kai", "uma", "olga"
ROLES = {
    ADA: frozenset({PersonRole.ADMINISTRATOR}),
    KAI: frozenset({PersonRole.KEY_ADMINISTRATOR}),
    UMA: frozenset({PersonRole.AUDITOR}),
    OLGA: frozenset({PersonRole.OPERATOR}),
}


def an_approval(**changed: object) -> Approval:
    asked = Approval("1" * 32, Action.LOCK, {}, ADA, "Ada", NOW, ApprovalState.PENDING, NOW + DAY)
    return replace(asked, **changed)


def a_vote(subject: str, choice: VoteChoice = VoteChoice.APPROVE, minutes: float = 1, name: str = "") -> Vote:
    return Vote(subject, name or subject, ROLES[subject], choice, NOW + timedelta(minutes=minutes))


def later(**by: float) -> datetime:
    return NOW + timedelta(**by)


def test_first_vote_of_another_key_administrator_decides() -> None:
    yes, no = a_vote(KAI), a_vote(KAI, VoteChoice.DECLINE)
    assert decide(an_approval(), [yes], later(hours=1)) == Decision(ApprovalState.APPROVED, yes)
    assert decide(an_approval(), [no], later(hours=1)) == Decision(ApprovalState.REFUSED, no)


def test_requester_can_withdraw_but_never_approve() -> None:
    for choice in (VoteChoice.APPROVE, VoteChoice.DECLINE):
        assert decide(an_approval(), [a_vote(ADA, choice, name="Kai")], NOW) == Decision(ApprovalState.PENDING)
    withdrawn = a_vote(ADA, VoteChoice.WITHDRAW)
    assert decide(an_approval(), [withdrawn], NOW) == Decision(ApprovalState.WITHDRAWN, withdrawn)
    assert decide(an_approval(), [a_vote(KAI, VoteChoice.WITHDRAW)], NOW) == Decision(ApprovalState.PENDING)


@pytest.mark.parametrize("subject", [UMA, OLGA])
def test_vote_of_a_role_that_does_not_manage_keys_does_not_count(subject: str) -> None:
    assert obstacle(an_approval(), subject, ROLES[subject]) is VoteRejection.ROLE
    assert decide(an_approval(), [a_vote(subject)], NOW).state is ApprovalState.PENDING


def test_expired_request_ignores_votes() -> None:
    assert decide(an_approval(), [a_vote(KAI)], later(hours=24)).state is ApprovalState.EXPIRED
    assert decide(an_approval(expires_at=None), [a_vote(KAI)], NOW).state is ApprovalState.EXPIRED


@pytest.mark.parametrize("state", [state for state in ApprovalState if state is not ApprovalState.PENDING])
def test_request_that_is_not_pending_is_not_decided(state: ApprovalState) -> None:
    assert decide(an_approval(state=state), [a_vote(KAI)], NOW).state is state


APPROVED = an_approval(state=ApprovalState.APPROVED, decided_by=KAI)


def test_approval_permits_one_operation_with_exactly_its_arguments() -> None:
    refuse_unless_approved(APPROVED, Action.LOCK, {}, "lock-1", NOW)
    used = replace(APPROVED, used_by="lock-1")
    refuse_unless_approved(used, Action.LOCK, {}, "lock-1", later(days=3))
    for approval, action, argument, operation, now in (
        (None, Action.LOCK, {}, "lock-1", NOW),
        (used, Action.LOCK, {}, "lock-2", NOW),
        (APPROVED, Action.OFFBOARD, {}, "lock-1", NOW),
        (APPROVED, Action.LOCK, {"more": 1}, "lock-1", NOW),
        (APPROVED, Action.LOCK, {}, "lock-1", later(hours=24)),
        (replace(APPROVED, decided_by=ADA), Action.LOCK, {}, "lock-1", NOW),
        (replace(APPROVED, decided_by=None), Action.LOCK, {}, "lock-1", NOW),
        (an_approval(), Action.LOCK, {}, "lock-1", NOW),
        (replace(used, state=ApprovalState.DONE), Action.LOCK, {}, "lock-1", NOW),
    ):
        with pytest.raises(ApprovalRequired):
            refuse_unless_approved(approval, action, argument, operation, now)


def test_policy_with_any_protected_action_protects_its_own_change() -> None:
    assert not TenantPolicy().wants_two_for(Action.CHANGE_POLICY)
    for action in Action:
        policy = TenantPolicy(four_eyes=frozenset({action}))
        assert {one for one in Action if policy.wants_two_for(one)} == {action, Action.CHANGE_POLICY}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((29, 90, ()), "tenant key days: 30 to 730"),
        ((731, 90, ()), "tenant key days: 30 to 730"),
        ((365, 6, ()), "service key days: 7 to 365"),
        ((365, 366, ()), "service key days: 7 to 365"),
        ((365, 90, ("everything",)), "two people: any of lock, "),
    ],
)
def test_invalid_policy_is_rejected_with_its_bounds(values: tuple, expected: str) -> None:
    with pytest.raises(PolicyRefused) as rejected:
        parse_policy(*values)
    assert rejected.value.hint.startswith(expected)


def test_equal_policies_have_equal_arguments() -> None:
    policy = parse_policy(400, 30, ["offboard", "lock"])
    assert policy.as_argument() == parse_policy(400, 30, ["lock", "offboard", "lock"]).as_argument()
    assert TenantPolicy.model_validate(policy.as_argument()) == policy


class FourEyes(RuleBasedStateMachine):
    """Users request, vote and execute actions in any order and any number, while time passes.

    The model records which users really took part in each executed action.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.policy = TenantPolicy(four_eyes=frozenset({Action.LOCK}))
        self.approvals: list[Approval] = []
        self.votes: dict[str, dict[str, Vote]] = {}
        self.operations = 0

    @rule(
        who=st.sampled_from([*ROLES]), action=st.sampled_from([Action.LOCK, Action.CHANGE_POLICY]), n=st.integers(0, 1)
    )
    def request(self, who: str, action: Action, n: int) -> None:
        approval_id = str(len(self.approvals))
        self.approvals.append(
            Approval(approval_id, action, {"n": n}, who, "Kai", self.now, ApprovalState.PENDING, self.now + DAY)
        )
        self.votes[approval_id] = {}

    @rule(
        who=st.sampled_from([*ROLES]),
        choice=st.sampled_from(VoteChoice),
        data=st.data(),
    )
    @precondition(lambda self: self.approvals)
    def vote(self, who: str, choice: VoteChoice, data: st.DataObject) -> None:
        approval = data.draw(st.sampled_from(self.approvals))
        self.votes[approval.approval_id].setdefault(who, Vote(who, "Ada", ROLES[who], choice, self.now))

    @rule(hours=st.sampled_from([1, 13, 25]))
    def pass_time(self, hours: int) -> None:
        self.now += timedelta(hours=hours)

    @rule(data=st.data())
    @precondition(lambda self: self.approvals)
    def decide_request(self, data: st.DataObject) -> None:
        approval = data.draw(st.sampled_from(self.approvals))
        decision = decide(approval, self.votes[approval.approval_id].values(), self.now)
        by = approval.decided_by if decision.vote is None else decision.vote.subject
        self._keep(replace(approval, state=decision.state, decided_by=by))

    @rule(
        action=st.sampled_from([Action.LOCK, Action.CHANGE_POLICY, Action.OFFBOARD]),
        n=st.integers(0, 1),
        again=st.booleans(),
        data=st.data(),
    )
    def execute(self, action: Action, n: int, again: bool, data: st.DataObject) -> None:  # noqa: FBT001 - drawn
        named = data.draw(st.sampled_from([None, *self.approvals]))
        self.operations += not again
        operation = f"operation-{self.operations}"
        if not self.policy.wants_two_for(action):
            return
        try:
            refuse_unless_approved(named, action, {"n": n}, operation, self.now)
        except ApprovalRequired:
            return
        assert named is not None
        self._assert_two_people(named)
        assert (named.action, named.argument) == (action, {"n": n})
        assert named.used_by in {None, operation}
        self._keep(replace(named, used_by=operation))

    def _assert_two_people(self, approval: Approval) -> None:
        approvers = {
            vote.subject
            for vote in self.votes[approval.approval_id].values()
            if vote.choice is VoteChoice.APPROVE and vote.at < approval.requested_at + DAY
        }
        assert approvers & {ADA, KAI} - {approval.requested_by}

    def _keep(self, changed: Approval) -> None:
        self.approvals[int(changed.approval_id)] = changed


TestFourEyes = FourEyes.TestCase
TestFourEyes.settings = settings(max_examples=40, stateful_step_count=30)


def test_policy_returns_ages_and_text_and_canary_has_no_isolation_checks() -> None:
    policy = parse_policy(400, 30, ["lock"], revoked_keys_readable=True)
    assert (policy.tenant_key_age, policy.service_key_age) == (timedelta(days=400), timedelta(days=30))
    assert policy.in_words() == (
        "tenant key 400 d, service keys 30 d, two people for lock, revoked KMIP keys readable, resources not recorded"
    )
    assert parse_policy(400, 30, [], resources_recorded=True).in_words().endswith(", resources recorded")
    assert set(steps_of("acme")) - set(steps_of(CANARY_TENANT_ID)) == {Step.CHECK_BOUNDARIES}


@pytest.mark.parametrize(
    ("text", "reason"),
    [("  drill \n of  May ", "drill of May"), ("a\x00\u202eb", "a b"), ("x" * 500, "x" * 500)],
)
def test_reason_is_one_line_of_printable_characters(text: str, reason: str) -> None:
    assert parse_reason(text) == reason


@pytest.mark.parametrize("text", ["", " \n\t", "\u200b", "x" * 501])
def test_empty_or_long_reason_is_rejected(text: str) -> None:
    with pytest.raises(ReasonRequired):
        parse_reason(text)
