"""Asking a second person and being one, on a real database: allowed, on record before and after, and never alone."""

import json
from dataclasses import replace
from typing import Any

import pytest

from dashboard import approval_actions, root_key_actions, standing_actions
from dashboard.approval_actions import ask_for, decide
from tenancy.approval_errors import ApprovalRequired, ApprovalUnknown, ApprovalWaits, VoteNotCounted
from tenancy.approvals import Action, ApprovalState, Choice
from tenancy.errors import ActionRefused, SessionEnded, TemporalUnavailable
from tenancy.lifecycle import State
from tenancy.people import PersonRole
from tenancy.policy import TenantPolicy
from tests.dashboard.scene import Scene, scene
from workflows.gateway import UpdateRefused

__all__ = ["scene"]

ACME = "acme-corp-12345"
OTHERS_POLICY = TenantPolicy(tenant_key_days=100)


@pytest.fixture
def two(scene: Scene) -> Scene:
    scene.tenant(State.ACTIVE)
    scene.wants_two_for(Action.LOCK)
    return scene


def kai(scene: Scene) -> Any:
    return scene.seat(ACME, PersonRole.KEY_ADMINISTRATOR, name="Kai")


def audited(scene: Scene, name: str) -> list[tuple[str, str]]:
    with scene.worker.tenant_tx(ACME) as tx:
        records = [json.loads(stored.record) for stored in tx.audit.records()]
    return [(one["actor"], one["outcome"]) for one in records if one["name"] == name]


def test_a_lock_is_asked_for_and_another_person_has_it_done(two: Scene) -> None:
    with pytest.raises(UpdateRefused) as refused:
        standing_actions.lock(two.seat())
    assert refused.value.code == ApprovalRequired.code
    asked = standing_actions.ask_to_lock(two.seat())
    assert (asked.state, asked.requested_by) == (ApprovalState.PENDING, "ada@acme.example")
    assert two.standing()[0] is State.ACTIVE
    assert decide(kai(two), asked.approval_id, Choice.APPROVE).state is ApprovalState.DONE
    assert two.standing()[0] is State.LOCKED
    assert audited(two, "approval.ask_requested") == [("ada@acme.example", "intended"), ("ada@acme.example", "success")]
    assert audited(two, "approval.vote_requested") == [
        ("kai@acme.example", "intended"),
        ("kai@acme.example", "success"),
    ]


@pytest.mark.parametrize("choice", [Choice.APPROVE, Choice.DECLINE])
def test_whoever_asked_only_withdraws_and_nobody_else_does(two: Scene, choice: Choice) -> None:
    asked = standing_actions.ask_to_lock(two.seat())
    with pytest.raises(VoteNotCounted):
        decide(two.seat(), asked.approval_id, choice)
    with pytest.raises(VoteNotCounted):
        decide(kai(two), asked.approval_id, Choice.WITHDRAW)
    with two.worker.tenant_tx(ACME) as tx:
        assert tx.approvals.votes(asked.approval_id) == []
    assert decide(two.seat(), asked.approval_id, Choice.WITHDRAW).state is ApprovalState.WITHDRAWN
    assert decide(kai(two), asked.approval_id, Choice.APPROVE).state is ApprovalState.WITHDRAWN
    assert two.standing()[0] is State.ACTIVE


@pytest.mark.parametrize("role", [PersonRole.AUDITOR, PersonRole.OPERATOR])
def test_who_may_not_manage_keys_neither_asks_nor_decides(two: Scene, role: PersonRole) -> None:
    asked, other = standing_actions.ask_to_lock(two.seat()), two.seat(ACME, role, name="Uma")
    for act in (
        lambda: standing_actions.ask_to_lock(other),
        lambda: decide(other, asked.approval_id, Choice.APPROVE),
        lambda: approval_actions.change_policy(other, OTHERS_POLICY),
    ):
        with pytest.raises(ActionRefused):
            act()
    assert audited(two, "dashboard.action_refused") == [("uma@acme.example", "refused")] * 3
    assert len(two.door.asked) == 1


def test_a_dialog_that_outlives_its_sign_on_does_nothing(two: Scene) -> None:
    gone = replace(kai(two), present=lambda: False)
    asked = standing_actions.ask_to_lock(two.seat())
    with pytest.raises(SessionEnded):
        decide(gone, asked.approval_id, Choice.APPROVE)
    with pytest.raises(SessionEnded):
        standing_actions.ask_to_lock(gone)


def test_a_word_that_could_not_be_counted_is_said_again_and_not_changed(two: Scene) -> None:
    asked = standing_actions.ask_to_lock(two.seat())
    two.door.fails = TemporalUnavailable()
    with pytest.raises(TemporalUnavailable):
        decide(kai(two), asked.approval_id, Choice.APPROVE)
    two.door.fails = None
    with pytest.raises(VoteNotCounted, match="approve already"):
        decide(kai(two), asked.approval_id, Choice.DECLINE)
    assert decide(kai(two), asked.approval_id, Choice.APPROVE).state is ApprovalState.DONE
    assert [outcome for _, outcome in audited(two, "approval.vote_requested")] == [
        "intended",
        "failure",
        "intended",
        "success",
    ]


def test_the_same_is_not_asked_for_twice_and_what_is_not_there_is_said_so(two: Scene) -> None:
    standing_actions.ask_to_lock(two.seat())
    with pytest.raises(UpdateRefused) as refused:
        standing_actions.ask_to_lock(kai(two))
    assert refused.value.code == ApprovalWaits.code
    with pytest.raises(ApprovalUnknown):
        decide(kai(two), "f" * 32, Choice.APPROVE)


def test_the_policy_is_changed_by_one_until_it_wants_two(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    wanted = TenantPolicy(four_eyes=frozenset({Action.OFFBOARD}))
    approval_actions.change_policy(scene.seat(), wanted)
    assert approval_actions.policy_of(scene.seat()) == wanted
    with pytest.raises(UpdateRefused) as refused:
        approval_actions.change_policy(scene.seat(), TenantPolicy())
    assert refused.value.code == ApprovalRequired.code
    asked = ask_for(scene.seat(), Action.CHANGE_POLICY, OTHERS_POLICY.as_argument())
    decide(kai(scene), asked.approval_id, Choice.APPROVE)
    assert approval_actions.policy_of(scene.seat()) == OTHERS_POLICY


def test_going_back_to_the_platforms_root_key_is_asked_for_by_its_request(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.held_key()
    scene.wants_two_for(Action.ROOT_KEY_TO_PLATFORM)
    [wish, *_] = root_key_actions.wishes(scene.seat(), {"provider": "platform"}, {})
    asked = root_key_actions.ask_for_platform(scene.seat(), wish)
    assert (asked.action, asked.argument) == (Action.ROOT_KEY_TO_PLATFORM, {"request_id": wish.request_id})
    with scene.worker.tenant_tx(ACME) as tx:
        assert tx.root_keys.requested(wish.request_id).place == wish.place
