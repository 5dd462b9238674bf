"""The page Settings, what waits there for a second person, and the dialogs that ask for one; on a real database."""

import pytest
from streamlit.testing.v1 import AppTest

from core.tenants.approvals import Action, ApprovalState, VoteChoice
from core.tenants.lifecycle import State
from core.tenants.policy import TenantPolicy
from core.tenants.roles import PersonRole
from dashboard.tenants import actions as standing_actions
from tests.dashboard.scene import ACME, Scene, press, shown, text

KEYS = PersonRole.KEY_ADMINISTRATOR


@pytest.fixture
def two(scene: Scene) -> Scene:
    scene.tenant(State.ACTIVE)
    scene.wants_two_for(Action.LOCK)
    return scene


def settings(scene: Scene, name: str = "Ada", role: PersonRole = KEYS) -> AppTest:
    return shown("settings", scene.seat(ACME, role, name=name))


def policy_of(scene: Scene) -> TenantPolicy:
    with scene.worker.tenant_tx(ACME) as tx:
        return tx.policy.get()


def button(approval_id: str, choice: VoteChoice) -> str:
    return f"approvals.{choice}.{approval_id}"


def test_the_ages_are_changed_with_their_bounds_and_consequences_said(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    at = settings(scene)
    said = text(at)
    assert "30 to 730 days." in said
    assert "7 to 365 days." in said
    assert at.button(key="settings.save").disabled
    at.number_input(key="settings.service_key_days").set_value(30).run()
    assert "Service keys are rotated after: 90 days → 30 days" in text(at)
    assert "The policy is changed" in press(at, "settings.save")
    assert policy_of(scene) == TenantPolicy(service_key_days=30)


def test_two_people_are_wanted_by_one_person_and_taken_back_by_two(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    at = settings(scene)
    at.checkbox(key=f"settings.two.{Action.OFFBOARD}").check().run()
    said = text(at)
    assert "Leave OpenKCM (offboard), and destroy the keys: takes two people from then on" in said
    assert "Change the policy: takes two people from then on" in said
    press(at, "settings.save")
    assert policy_of(scene).four_eyes == {Action.OFFBOARD}
    at.checkbox(key=f"settings.two.{Action.OFFBOARD}").uncheck().run()
    assert "Somebody else of your organization must approve within 24 hours" in text(at)
    assert at.button(key="settings.save").label == "Ask for approval"
    said = press(at, "settings.save")
    assert "Somebody else has to approve" in said
    assert policy_of(scene).four_eyes == {Action.OFFBOARD}
    with scene.worker.tenant_tx(ACME) as tx:
        [waiting] = tx.approvals.pending()
    assert "Leave OpenKCM (offboard), and destroy the keys: takes one person from then on" in said
    at = settings(scene, "Kai")
    press(at, button(waiting.approval_id, VoteChoice.APPROVE))
    assert "Approved and done" in press(at, "approvals.do")
    assert policy_of(scene) == TenantPolicy()


def test_what_waits_says_what_by_whom_until_when_and_what_happens(two: Scene) -> None:
    asked = standing_actions.ask_to_lock(two.seat())
    at = settings(two, "Kai")
    said = text(at)
    assert "Waiting for a second person" in said
    assert "**Lock the tenant (kill switch)**" in said
    assert "Ada (ada@acme\\.example) asked for it" in said
    assert "It can be approved until" in said
    assert "(in 23 hours)" in said
    assert "every service fails to read and write encrypted data" in said
    assert not at.button(key=button(asked.approval_id, VoteChoice.APPROVE)).disabled
    said = press(at, button(asked.approval_id, VoteChoice.APPROVE))
    assert "It is done at once, by your word and in your name." in said
    assert two.standing()[0] is State.ACTIVE
    press(at, "approvals.cancel")
    press(at, button(asked.approval_id, VoteChoice.APPROVE))
    assert "Approved and done" in press(at, "approvals.do")
    assert two.standing()[0] is State.LOCKED
    said = press(at, "approvals.close")
    assert "Nothing waits." in said
    assert "approved and done by Kai (kai@acme\\.example)" in said


def test_whoever_asked_is_told_why_they_cannot_approve_and_withdraws(two: Scene) -> None:
    asked = standing_actions.ask_to_lock(two.seat())
    at = settings(two)
    assert at.button(key=button(asked.approval_id, VoteChoice.APPROVE)).disabled
    assert at.button(key=button(asked.approval_id, VoteChoice.DECLINE)).disabled
    assert "You asked for this, so somebody else has to approve it." in text(at)
    press(at, button(asked.approval_id, VoteChoice.WITHDRAW))
    assert "nobody can approve it any more" in press(at, "approvals.do")
    assert "Waiting" not in press(at, "approvals.close").split("Nothing waits.")[1]
    asked = standing_actions.ask_to_lock(two.seat())
    at = settings(two, "Kai")
    press(at, button(asked.approval_id, VoteChoice.DECLINE))
    assert "Declined" in press(at, "approvals.do")
    assert two.standing()[0] is State.ACTIVE
    with two.worker.tenant_tx(ACME) as tx:
        assert tx.approvals.get(asked.approval_id).state is ApprovalState.REFUSED


def test_who_may_only_look_sees_all_of_it_and_changes_nothing(two: Scene) -> None:
    asked = standing_actions.ask_to_lock(two.seat())
    at = settings(two, "Uma", PersonRole.AUDITOR)
    said = text(at)
    assert "Your role does not manage keys." in said
    assert "key administrators of your organization change them" in said
    assert [one.key for one in at.button if not one.disabled] == []
    assert button(asked.approval_id, VoteChoice.WITHDRAW) not in {one.key for one in at.button}
    assert all(one.disabled for one in (*at.number_input, *at.checkbox))


def test_what_is_over_waits_no_more(two: Scene) -> None:
    standing_actions.ask_to_lock(two.seat())
    with two.field.administrator() as administrator:
        administrator.execute("update okcm.approval set expires_at = clock_timestamp()")
    assert "Nothing waits." in text(settings(two, "Kai"))


def test_the_kill_switch_asks_for_approval_where_the_policy_wants_it(two: Scene) -> None:
    at = shown("keys", two.seat())
    said = press(at, "standing.lock")
    assert "Somebody else of your organization must approve within 24 hours" in said
    assert at.button(key="standing.lock.do").label == "Ask for approval"
    assert "then press Ask for approval again" in press(at, "standing.lock.do")
    at.text_input(key="standing.confirm").set_value(ACME).run()
    assert "Somebody else has to approve" in press(at, "standing.lock.do")
    assert two.standing()[0] is State.ACTIVE
    press(at, "standing.close")
    with two.worker.tenant_tx(ACME) as tx:
        assert [one.action for one in tx.approvals.pending()] == [Action.LOCK]


def test_suspending_needs_nobody_else(two: Scene) -> None:
    at = shown("keys", two.seat())
    assert "takes two people" not in press(at, "standing.suspend")
    press(at, "standing.suspend.do")
    assert two.standing()[0] is State.SUSPENDED


def test_going_back_to_the_platforms_root_key_asks_for_approval(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.held_key()
    scene.wants_two_for(Action.ROOT_KEY_TO_PLATFORM)
    at = shown("keys", scene.seat())
    at.button(key="keys.root-key").click().run()
    at.radio(key="root-key.provider").set_value("openbao").run()
    assert at.button(key="root-key.change").label == "Change"
    at.radio(key="root-key.provider").set_value("platform").run()
    assert "must approve within 24 hours" in text(at)
    assert at.button(key="root-key.change").label == "Ask for approval"
    assert "Somebody else has to approve" in press(at, "root-key.change")
    with scene.worker.tenant_tx(ACME) as tx:
        [waiting] = tx.approvals.pending()
        assert tx.root_keys.current() is not None
    assert waiting.action is Action.ROOT_KEY_TO_PLATFORM
