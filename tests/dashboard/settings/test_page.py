"""The page Settings, its pending approvals, and the dialogs that request one; on a real database."""

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
    return shown("settings", scene.page_context(ACME, role, name=name))


def policy_of(scene: Scene) -> TenantPolicy:
    with scene.worker.tenant_tx(ACME) as tx:
        return tx.policy.get()


def button(approval_id: str, choice: VoteChoice) -> str:
    return f"approvals.{choice}.{approval_id}"


def test_the_rotation_schedule_is_changed_with_stated_bounds_and_effects(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    at = settings(scene)
    said = text(at)
    assert "30 to 730 days." in said
    assert "7 to 365 days." in said
    assert at.button(key="settings.save").disabled
    at.number_input(key="settings.service_key_days").set_value(30).run()
    assert "Service key rotation after: 90 days → 30 days" in text(at)
    assert "Policy changed" in press(at, "settings.save")
    assert policy_of(scene) == TenantPolicy(service_key_days=30)


def test_revoked_kmip_keys_are_readable_only_by_choice(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    at = settings(scene)
    assert "revoking a KMIP key does not stop its service from getting it" in text(at)
    assert not at.checkbox(key="settings.revoked_keys_readable").value
    at.checkbox(key="settings.revoked_keys_readable").check().run()
    assert "Revoked KMIP keys: readable" in text(at)
    assert "Policy changed" in press(at, "settings.save")
    assert policy_of(scene) == TenantPolicy(revoked_keys_readable=True)
    at = settings(scene)
    at.checkbox(key="settings.revoked_keys_readable").uncheck().run()
    assert "Revoked KMIP keys: not readable" in text(at)
    press(at, "settings.save")
    assert policy_of(scene) == TenantPolicy()


def test_resources_are_recorded_only_by_choice_and_the_page_says_what_it_costs(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    at = settings(scene)
    assert "increases the audit volume up to one record for each operation" in text(at)
    assert "a resource name may be personal data" in text(at)
    assert not at.checkbox(key="settings.resources_recorded").value
    at.checkbox(key="settings.resources_recorded").check().run()
    assert "Resources in audit records: recorded" in text(at)
    assert "Policy changed" in press(at, "settings.save")
    assert policy_of(scene) == TenantPolicy(resources_recorded=True)
    at = settings(scene)
    at.checkbox(key="settings.resources_recorded").uncheck().run()
    assert "Resources in audit records: not recorded" in text(at)
    press(at, "settings.save")
    assert policy_of(scene) == TenantPolicy()


def test_one_person_requires_approval_and_two_people_remove_it(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    at = settings(scene)
    at.checkbox(key=f"settings.two.{Action.OFFBOARD}").check().run()
    said = text(at)
    assert "Offboard tenant and destroy keys: approval required" in said
    assert "Change policy: approval required" in said
    press(at, "settings.save")
    assert policy_of(scene).four_eyes == {Action.OFFBOARD}
    at.checkbox(key=f"settings.two.{Action.OFFBOARD}").uncheck().run()
    assert "Another person of your organization must approve within 24 hours" in text(at)
    assert at.button(key="settings.save").label == "Request approval"
    said = press(at, "settings.save")
    assert "Approval requested" in said
    assert policy_of(scene).four_eyes == {Action.OFFBOARD}
    with scene.worker.tenant_tx(ACME) as tx:
        [waiting] = tx.approvals.pending()
    assert "Offboard tenant and destroy keys: no approval" in said
    at = settings(scene, "Kai")
    press(at, button(waiting.approval_id, VoteChoice.APPROVE))
    assert "Approved and completed" in press(at, "approvals.do")
    assert policy_of(scene) == TenantPolicy()


def test_a_pending_request_shows_action_requester_expiry_and_effect(two: Scene) -> None:
    asked = standing_actions.ask_to_lock(two.page_context())
    at = settings(two, "Kai")
    said = text(at)
    assert "Pending approvals" in said
    assert "**Lock tenant (kill switch)**" in said
    assert "Requested by Ada (ada@acme\\.example)" in said
    assert "Expires" in said
    assert "(in 1 day)" in said
    assert "no service can read or write encrypted data" in said
    assert not at.button(key=button(asked.approval_id, VoteChoice.APPROVE)).disabled
    said = press(at, button(asked.approval_id, VoteChoice.APPROVE))
    assert "Runs immediately; recorded as your approval." in said
    assert two.standing()[0] is State.ACTIVE
    press(at, "approvals.cancel")
    press(at, button(asked.approval_id, VoteChoice.APPROVE))
    assert "Approved and completed" in press(at, "approvals.do")
    assert two.standing()[0] is State.LOCKED
    said = press(at, "approvals.close")
    assert "No pending requests." in said
    assert "approved and completed by Kai (kai@acme\\.example)" in said


def test_the_requester_cannot_approve_and_can_withdraw(two: Scene) -> None:
    asked = standing_actions.ask_to_lock(two.page_context())
    at = settings(two)
    assert at.button(key=button(asked.approval_id, VoteChoice.APPROVE)).disabled
    assert at.button(key=button(asked.approval_id, VoteChoice.DECLINE)).disabled
    assert "You requested this. Another person must approve it." in text(at)
    press(at, button(asked.approval_id, VoteChoice.WITHDRAW))
    assert "can no longer be approved" in press(at, "approvals.do")
    assert "Expires" not in press(at, "approvals.close").split("No pending requests.")[1]
    asked = standing_actions.ask_to_lock(two.page_context())
    at = settings(two, "Kai")
    press(at, button(asked.approval_id, VoteChoice.DECLINE))
    assert "Declined" in press(at, "approvals.do")
    assert two.standing()[0] is State.ACTIVE
    with two.worker.tenant_tx(ACME) as tx:
        assert tx.approvals.get(asked.approval_id).state is ApprovalState.REFUSED


def test_a_role_without_the_permission_sees_the_settings_and_changes_nothing(two: Scene) -> None:
    asked = standing_actions.ask_to_lock(two.page_context())
    at = settings(two, "Uma", PersonRole.AUDITOR)
    said = text(at)
    assert "Your role does not manage keys." in said
    assert "Key administrators of your organization can change it" in said
    assert [one.key for one in at.button if not one.disabled] == []
    assert button(asked.approval_id, VoteChoice.WITHDRAW) not in {one.key for one in at.button}
    assert all(one.disabled for one in (*at.number_input, *at.checkbox))


def test_an_expired_request_is_not_pending(two: Scene) -> None:
    standing_actions.ask_to_lock(two.page_context())
    with two.field.administrator() as administrator:
        administrator.execute("update okcm.approval set expires_at = clock_timestamp()")
    assert "No pending requests." in text(settings(two, "Kai"))


def test_a_lock_requests_approval_if_the_policy_requires_it(two: Scene) -> None:
    at = shown("keys", two.page_context())
    said = press(at, "standing.lock")
    assert "Another person of your organization must approve within 24 hours" in said
    assert at.button(key="standing.lock.do").label == "Request approval"
    assert "then select Request approval again" in press(at, "standing.lock.do")
    at.text_input(key="standing.confirm").set_value(ACME).run()
    assert "Approval requested" in press(at, "standing.lock.do")
    assert two.standing()[0] is State.ACTIVE
    press(at, "standing.close")
    with two.worker.tenant_tx(ACME) as tx:
        assert [one.action for one in tx.approvals.pending()] == [Action.LOCK]


def test_suspending_needs_no_approval(two: Scene) -> None:
    at = shown("keys", two.page_context())
    assert "Approval required" not in press(at, "standing.suspend")
    press(at, "standing.suspend.do")
    assert two.standing()[0] is State.SUSPENDED


def test_a_return_to_the_platforms_root_key_requests_approval(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.held_key()
    scene.wants_two_for(Action.ROOT_KEY_TO_PLATFORM)
    at = shown("keys", scene.page_context())
    at.button(key="keys.root-key").click().run()
    at.radio(key="root-key.provider").set_value("openbao").run()
    assert at.button(key="root-key.change").label == "Change"
    at.radio(key="root-key.provider").set_value("platform").run()
    assert "must approve within 24 hours" in text(at)
    assert at.button(key="root-key.change").label == "Request approval"
    assert "Approval requested" in press(at, "root-key.change")
    with scene.worker.tenant_tx(ACME) as tx:
        [waiting] = tx.approvals.pending()
        assert tx.root_keys.current() is not None
    assert waiting.action is Action.ROOT_KEY_TO_PLATFORM
