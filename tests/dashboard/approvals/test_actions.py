"""Votes on a request for approval, on a real database: the requester never decides, and a vote is final."""

from typing import Any

import pytest

from core.errors.platform import TemporalUnavailable
from core.errors.tenants import ApprovalPending, ApprovalUnknown, VoteRejected
from core.tenants.approvals import Action, ApprovalState, VoteChoice
from core.tenants.lifecycle import State
from core.tenants.roles import PersonRole
from dashboard.approvals.actions import decide
from dashboard.tenants import actions as standing_actions
from tests.dashboard.scene import ACME, Scene
from workflows.client.updates import UpdateRejected


@pytest.fixture
def two(scene: Scene) -> Scene:
    scene.tenant(State.ACTIVE)
    scene.wants_two_for(Action.LOCK)
    return scene


def kai(scene: Scene) -> Any:
    return scene.page_context(ACME, PersonRole.KEY_ADMINISTRATOR, name="Kai")


def test_the_requester_can_withdraw_and_neither_approve_nor_decline(two: Scene) -> None:
    asked = standing_actions.ask_to_lock(two.page_context(), "drill")
    for context, choice in (
        (two.page_context(), VoteChoice.APPROVE),
        (two.page_context(), VoteChoice.DECLINE),
        (kai(two), VoteChoice.WITHDRAW),
    ):
        with pytest.raises(VoteRejected):
            decide(context, asked.approval_id, choice, "no drill")
    with two.worker.tenant_tx(ACME) as tx:
        assert tx.approvals.votes(asked.approval_id) == []
    assert decide(two.page_context(), asked.approval_id, VoteChoice.WITHDRAW).state is ApprovalState.WITHDRAWN
    assert decide(kai(two), asked.approval_id, VoteChoice.APPROVE).state is ApprovalState.WITHDRAWN
    assert two.standing()[0] is State.ACTIVE


def test_a_vote_that_was_not_counted_can_be_repeated_and_not_changed(two: Scene) -> None:
    asked = standing_actions.ask_to_lock(two.page_context(), "drill")
    two.gateway.fails = TemporalUnavailable()
    with pytest.raises(TemporalUnavailable):
        decide(kai(two), asked.approval_id, VoteChoice.APPROVE)
    two.gateway.fails = None
    with pytest.raises(VoteRejected, match="already voted approve"):
        decide(kai(two), asked.approval_id, VoteChoice.DECLINE, "no drill")
    assert decide(kai(two), asked.approval_id, VoteChoice.APPROVE).state is ApprovalState.DONE
    outcomes = [outcome for _, outcome in two.recorded("approval.vote_submitted")]
    assert outcomes == ["intended", "failure", "intended", "success"]


def test_a_second_request_for_the_same_action_and_an_unknown_request_are_refused(two: Scene) -> None:
    standing_actions.ask_to_lock(two.page_context(), "drill")
    with pytest.raises(UpdateRejected) as refused:
        standing_actions.ask_to_lock(kai(two), "drill")
    assert refused.value.code == ApprovalPending.code
    with pytest.raises(ApprovalUnknown):
        decide(kai(two), "f" * 32, VoteChoice.APPROVE)
