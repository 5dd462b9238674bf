"""The page Keys on a real database."""

import pytest

from dashboard.views.key_actions import ACTIONS
from tenancy.lifecycle import State
from tenancy.people import PersonRole
from tenancy.services import ServiceKind
from tests.dashboard.scene import Scene, meaning, scene, shown, text

__all__ = ["scene"]


def test_every_key_of_the_chain_is_shown_and_nothing_of_what_it_is_made_of(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.service("customer-db", ServiceKind.MONGODB, uses=1250)
    scene.objects("customer-db", 2, 2, 5)
    said = text(shown("keys", scene.seat()))
    assert "Platform-Managed (default)" in said
    assert "root-eu-west-1" in said
    assert "L2-acme-corp-12345-primary" in said
    assert "**customer-db** (mongodb)" in said
    assert "3 KMIP objects lie under it: 2 active and 1 destroyed." in said
    assert "1,247 operations in the last 24 hours" in said
    assert "wrapped twice" not in said


def test_a_tenant_without_services_is_told_where_their_keys_come_from(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    assert "Connect one on the page Services" in text(shown("keys", scene.seat()))


def test_the_three_choices_are_explained_and_the_one_in_force_is_marked(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    said = text(shown("keys", scene.seat()))
    assert "it does not exclude the platform" in said
    assert "there is no silent fallback to a key of the platform" in said
    assert said.count("In force") == 1


def test_actions_are_explained_and_only_what_can_be_done_now_has_a_button(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    at = shown("keys", scene.seat())
    assert [expander.label for expander in at.expander] == [action.title for action in ACTIONS]
    assert [button.label for button in at.button] == [
        "Change the root key",
        "Rotate all keys",
        "Rotate the tenant key",
        "They may be compromised",
        "Suspend",
        "Lock (kill switch)",
    ]
    assert "Available above, at the root key." in text(at)


def test_who_may_only_look_is_offered_no_action(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    assert not shown("keys", scene.seat("acme-corp-12345", PersonRole.AUDITOR)).button


@pytest.mark.parametrize("state", [state for state in State if state is not State.ACTIVE])
def test_every_other_state_is_said_first(scene: Scene, state: State) -> None:
    scene.tenant(state)
    at = shown("keys", scene.seat())
    assert any(meaning(state) in box.value for box in [*at.info, *at.warning, *at.error])
    assert "In use: it wraps" not in text(at)


def test_many_services_can_be_searched(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    for number in range(14):
        scene.service(f"service-{number}", ServiceKind.MICROSERVICE)
    at = shown("keys", scene.seat())
    at.text_input(key="keys.find").set_value("service-13").run()
    said = text(at)
    assert "**service-13**" in said
    assert "**service-12**" not in said
    at.text_input(key="keys.find").set_value("other").run()
    assert "No service has a name like that." in text(at)


def test_an_organization_without_a_tenant_has_no_keys_yet(scene: Scene) -> None:
    assert "not enabled" in text(shown("keys", scene.seat()))


def test_who_may_not_look_sees_nothing(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    at = shown("keys", scene.seat("acme-corp-12345", PersonRole.OPERATOR))
    assert at.error
    assert not at.title
