"""The page Settings, and the dialogs that request an approval; on a real database."""

import pytest
from streamlit.testing.v1 import AppTest

from core.tenants.approvals import Action
from core.tenants.lifecycle import State
from core.tenants.policy import TenantPolicy
from core.tenants.roles import PersonRole
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
    assert "A reason is required." in press(at, "settings.save")
    at.text_input(key="settings.reason").set_value("one administrator left").run()
    said = press(at, "settings.save")
    assert "Approval requested" in said
    assert "[Approvals](approvals)" in said
    assert "unsaved change" not in said
    assert policy_of(scene).four_eyes == {Action.OFFBOARD}
    assert at.checkbox(key=f"settings.two.{Action.OFFBOARD}").value
    with scene.worker.tenant_tx(ACME) as tx:
        [waiting] = tx.approvals.pending()
    at = shown("approvals", scene.page_context(ACME, KEYS, name="Kai"))
    assert "Offboard tenant and destroy keys: no approval" in text(at)
    press(at, f"approvals.approve.{waiting.approval_id}")
    assert "Approved and completed" in press(at, "approvals.do")
    assert policy_of(scene) == TenantPolicy()


IMPLIED = f"settings.two.{Action.CHANGE_POLICY}.implied"


def test_a_change_of_the_policy_requires_approval_as_soon_as_another_action_does(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    at = settings(scene)
    assert not at.checkbox(key=f"settings.two.{Action.CHANGE_POLICY}").disabled
    for action in (Action.OFFBOARD, Action.LOCK):
        at.checkbox(key=f"settings.two.{action}").check().run()
    implied = at.checkbox(key=IMPLIED)
    assert (implied.value, implied.disabled) == (True, True)
    assert "**3 unsaved changes:**" in text(at)
    press(at, "settings.save")
    assert policy_of(scene).four_eyes == {Action.OFFBOARD, Action.LOCK}
    implied = at.checkbox(key=IMPLIED)
    assert (implied.value, implied.disabled) == (True, True)
    at.checkbox(key=f"settings.two.{Action.LOCK}").uncheck().run()
    assert at.checkbox(key=IMPLIED).value
    at.checkbox(key=f"settings.two.{Action.OFFBOARD}").uncheck().run()
    assert not at.checkbox(key=f"settings.two.{Action.CHANGE_POLICY}").value


@pytest.mark.parametrize("way", ["settings.save", "settings.discard"])
def test_each_field_shows_the_stored_policy_after_save_and_discard_without_a_reload(scene: Scene, way: str) -> None:
    scene.tenant(State.ACTIVE)
    at = settings(scene)
    at.checkbox(key=f"settings.two.{Action.OFFBOARD}").check().run()
    at.checkbox(key="settings.revoked_keys_readable").check().run()
    at.number_input(key="settings.service_key_days").set_value(30).run()
    entered = {one.proto.id: one.value for one in (*at.checkbox, *at.number_input)}
    said = press(at, way)
    assert ("Policy changed" in said) == (way == "settings.save")
    assert "unsaved change" not in said
    for one in (*at.checkbox, *at.number_input):
        # The browser keeps what was entered in a field with the same id, unless the server sets its value.
        shows = one.value if one.proto.set_value else entered.get(one.proto.id, one.proto.default)
        assert shows == one.value, one.key
    stored = policy_of(scene)
    assert at.number_input(key="settings.service_key_days").value == stored.service_key_days
    assert at.checkbox(key="settings.revoked_keys_readable").value == stored.revoked_keys_readable
    assert at.button(key="settings.save").disabled


def test_a_change_by_another_person_is_shown_and_keeps_what_the_user_entered(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    at = settings(scene)
    at.number_input(key="settings.service_key_days").set_value(30).run()
    with scene.worker.tenant_tx(ACME) as tx:
        tx.policy.set(TenantPolicy(tenant_key_days=100))
    at.run()
    assert at.number_input(key="settings.tenant_key_days").value == 100
    assert "**1 unsaved change:** Service key rotation after: 90 days → 30 days" in text(at)


def test_a_role_without_the_permission_sees_the_settings_and_changes_nothing(two: Scene) -> None:
    at = settings(two, "Uma", PersonRole.AUDITOR)
    assert "Key administrators of your organization can change it" in text(at)
    assert [one.key for one in at.button if not one.disabled] == []
    assert all(one.disabled for one in (*at.number_input, *at.checkbox))


def test_a_lock_requests_approval_if_the_policy_requires_it(two: Scene) -> None:
    at = shown("keys", two.page_context())
    said = press(at, "standing.lock")
    assert "Another person of your organization must approve within 24 hours" in said
    assert at.button(key="standing.lock.do").label == "Request approval"
    assert "then select Request approval again" in press(at, "standing.lock.do")
    at.text_input(key="standing.confirm").set_value(ACME).run()
    assert "A reason is required." in press(at, "standing.lock.do")
    at.text_input(key="standing.reason").set_value("suspicious reads at 17:14").run()
    assert "Approval requested" in press(at, "standing.lock.do")
    assert two.standing()[0] is State.ACTIVE
    press(at, "standing.close")
    with two.worker.tenant_tx(ACME) as tx:
        assert [(one.action, one.request_reason) for one in tx.approvals.pending()] == [
            (Action.LOCK, "suspicious reads at 17:14")
        ]


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
    assert "A reason is required." in press(at, "root-key.change")
    at.text_input(key="root-key.reason").set_value("our HSM is retired").run()
    assert "Approval requested" in press(at, "root-key.change")
    with scene.worker.tenant_tx(ACME) as tx:
        [waiting] = tx.approvals.pending()
        assert tx.root_keys.current() is not None
    assert (waiting.action, waiting.request_reason) == (Action.ROOT_KEY_TO_PLATFORM, "our HSM is retired")
    said = text(shown("approvals", scene.page_context(name="Kai")))
    assert "**Re-wrapped with the platform's root key**" in said
    assert "No service stops." in said
