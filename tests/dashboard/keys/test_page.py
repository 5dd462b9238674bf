"""The page Keys on a real database."""

from core.tenants.lifecycle import State
from core.tenants.roles import PersonRole
from dashboard.components.key_actions import ACTIONS
from openkcm.contract.services import ServiceKind
from tests.dashboard.scene import ACME, Scene, shown, text


def test_an_auditor_sees_every_key_without_key_material_or_buttons(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.service("customer-db", ServiceKind.MONGODB, uses=1250)
    scene.objects("customer-db", 2, 2, 5)
    at = shown("keys", scene.page_context(ACME, PersonRole.AUDITOR))
    said = text(at)
    assert not at.button
    assert "Platform-Managed (default)" in said
    assert "root-eu-west-1" in said
    assert "L2-acme-corp-12345-primary" in said
    assert "**customer-db** (mongodb)" in said
    assert "Protects 3 KMIP objects: 2 active and 1 destroyed." in said
    assert "1,247 operations in the last 24 hours" in said
    assert "wrapped twice" not in said


def test_root_key_choices_and_actions_are_explained_and_offered_by_role(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    auditor = shown("keys", scene.page_context(ACME, PersonRole.AUDITOR))
    assert not auditor.button
    assert "A key administrator of your organization can use these controls." in text(auditor)
    at = shown("keys", scene.page_context())
    said = text(at)
    assert "Connect one on the page Services" in said
    assert "but not the platform" in said
    assert "there is no fallback to a key of the platform" in said
    assert said.count(":material/check: Current]") == 1
    assert [expander.label for expander in at.expander] == [action.title for action in ACTIONS]
    assert [button.label for button in at.button] == [
        "Change root key",
        "Rotate all keys",
        "Rotate tenant key",
        "Replace compromised keys…",
        "Suspend",
        "Lock (kill switch)",
    ]
    assert "Available above, at the root key." in said


def test_many_services_can_be_searched(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    for number in range(14):
        scene.service(f"service-{number}", ServiceKind.MICROSERVICE)
    at = shown("keys", scene.page_context())
    at.text_input(key="keys.find").set_value("service-13").run()
    said = text(at)
    assert "**service-13**" in said
    assert "**service-12**" not in said
    at.text_input(key="keys.find").set_value("other").run()
    assert "No matching services." in text(at)
