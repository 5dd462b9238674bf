"""The root key's card and the dialog that changes it, on a real database, with a gateway that decrypts credentials."""

import json

from streamlit.testing.v1 import AppTest

from core.errors.platform import TemporalUnavailable
from core.keys.root_keys import Problem, RootKeyMode
from core.tenants.lifecycle import State
from core.tenants.roles import PersonRole
from dashboard.components.tenant_status import sentence
from dashboard.root_keys.view import NO_FALLBACK, PROBLEMS
from openkcm.contract.services import ServiceKind
from tests.dashboard.scene import ACME, KEY_ARN, ROLE_ARN, Scene, press, shown, text
from workflows.client.updates import OperationQueued

SECRET = "hvs.very-secret-0123456789"
TOKEN = "root-key.secret.openbao.token"


def mode_of(scene: Scene) -> str:
    with scene.worker.tenant_tx(ACME) as tx:
        row = tx.tenants.get()
    assert row is not None
    return row.root_key_mode


def open_dialog(scene: Scene, provider: RootKeyMode = RootKeyMode.OPENBAO, *roles: PersonRole) -> AppTest:
    at = shown("keys", scene.page_context(ACME, *roles))
    press(at, "keys.root-key")
    at.radio(key="root-key.provider").set_value(provider).run()
    assert not at.exception
    return at


def fill(at: AppTest, secret: str = SECRET) -> None:
    at.text_input(key="root-key.field.openbao.address").set_value("https://bao.acme.example:8200")
    at.text_input(key="root-key.field.openbao.key").set_value("acme")
    at.text_input(key=TOKEN).set_value(secret).run()


def test_a_key_is_checked_and_then_changed_to_with_the_credentials_given_once(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.service("orders", ServiceKind.MONGODB)
    at = open_dialog(scene)
    fill(at)
    said = press(at, "root-key.check")
    assert "Check passed" in said
    assert mode_of(scene) == "platform"
    assert at.text_input(key=TOKEN).value == ""
    said = press(at, "root-key.change")
    assert "Root key changed" in said
    assert NO_FALLBACK in said
    assert mode_of(scene) == "openbao"
    assert [one.token.get_secret_value() for one in scene.gateway.taken] == [SECRET, SECRET]
    scene.measured()
    said = press(at, "root-key.close")
    assert "Your own key in your key server (HYOK)" in said
    assert "**Health:** Healthy, checked continuously." in said
    assert "1 version of service keys re-wrapped" in said


def test_credentials_are_never_shown_and_leave_the_session_when_encrypted(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    at = open_dialog(scene)
    fill(at)
    said = press(at, "root-key.check")
    assert "The credentials are encrypted and kept" in said
    assert SECRET not in said
    everything = object.__getattribute__(at.session_state._state, "_state")
    assert "root-key.supply" in repr(everything)
    assert SECRET not in repr(everything)
    at.button(key="root-key.cancel").click().run()
    assert "root-key.supply" not in at.session_state
    assert TOKEN not in at.session_state


def test_a_changed_or_invalid_address_is_rejected_and_the_input_stays(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    at = open_dialog(scene)
    fill(at)
    press(at, "root-key.check")
    asked = list(scene.gateway.asked)
    at.text_input(key="root-key.field.openbao.address").set_value("https://other.example").run()
    assert "openbao needs token" in press(at, "root-key.change").lower()
    at.text_input(key="root-key.field.openbao.address").set_value("bao.acme.example").run()
    assert "Address: an address such as https://vault.example.com:8200" in press(at, "root-key.check")
    assert at.text_input(key="root-key.field.openbao.key").value == "acme"
    assert scene.gateway.asked == asked
    assert mode_of(scene) == "platform"


def test_the_credentials_are_kept_after_a_refused_check_and_a_corrected_key_name(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.gateway.problems = [Problem(code="root_key_missing", message="the key does not exist", hint="create it")]
    at = open_dialog(scene)
    fill(at)
    assert "Check failed" in press(at, "root-key.check")
    scene.gateway.problems = []
    at.text_input(key="root-key.field.openbao.key").set_value("not a name").run()
    said = press(at, "root-key.check")
    assert "Invalid root key" in said
    assert "The credentials are encrypted and kept" in said
    at.text_input(key="root-key.field.openbao.key").set_value("acme-2").run()
    assert "Check passed" in press(at, "root-key.check")
    assert "Root key changed" in press(at, "root-key.change")
    assert [one.token.get_secret_value() for one in scene.gateway.taken] == [SECRET] * 3


def test_credentials_are_not_sent_to_another_server_than_they_were_entered_for(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    at = open_dialog(scene)
    fill(at)
    press(at, "root-key.check")
    at.text_input(key="root-key.field.openbao.address").set_value("https://other.example").run()
    assert "The credentials are encrypted and kept" not in text(at)
    assert "openbao needs token" in press(at, "root-key.check").lower()
    assert len(scene.gateway.taken) == 1
    at.text_input(key="root-key.field.openbao.address").set_value("https://bao.acme.example:8200").run()
    assert "Check passed" in press(at, "root-key.check")


def test_a_failed_check_shows_each_problem_with_its_fix(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    statement = json.dumps({"Sid": "OpenKcmRootKey"})
    scene.gateway.problems = [
        Problem(code="root_key_denied", message="kms:Decrypt denied", hint=f"add to the key's policy: {statement}"),
        Problem(code="root_key_disabled", message="the root key is disabled", hint="enable it"),
    ]
    at = open_dialog(scene, RootKeyMode.AWS_KMS)
    at.text_input(key="root-key.field.aws-kms.key_arn").set_value(KEY_ARN)
    at.text_input(key="root-key.field.aws-kms.role_arn").set_value(ROLE_ARN).run()
    said = press(at, "root-key.check")
    assert "Check failed" in said
    assert "The root key is disabled." in said
    assert statement in [code.value for code in at.code]
    assert "Kms:Decrypt denied." in said
    scene.gateway.problems = []
    assert "Check passed" in press(at, "root-key.check")


def test_a_rejected_change_shows_the_reason_and_keeps_the_former_key(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.gateway.problems = [Problem(code="root_key_missing", message="the key does not exist", hint="create it")]
    at = open_dialog(scene)
    fill(at)
    said = press(at, "root-key.change")
    assert "Root key not changed" in said
    assert "The key does not exist." in said
    assert "The former root key is in effect." in said
    assert "without effect" in press(at, "root-key.cancel")


def test_a_long_change_is_reported_and_shown_on_the_page(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    for number in range(3):
        scene.service(f"service-{number}", ServiceKind.MICROSERVICE)
    scene.gateway.wraps = 1
    at = open_dialog(scene)
    fill(at)
    assert "continues automatically" in press(at, "root-key.change")
    said = press(at, "root-key.cancel")
    assert "1 of 3 key versions are wrapped" in said
    assert "A change is running. Try again after it has ended." in said
    assert "keys.root-key" not in [button.key for button in at.button]


def test_with_temporal_down_the_input_is_kept(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.gateway.fails = TemporalUnavailable()
    at = open_dialog(scene)
    fill(at)
    said = press(at, "root-key.change")
    assert "Root key not changed" in said
    assert "The platform's control service does not answer." in said
    assert "Temporal" not in said
    scene.gateway.fails = None
    assert "Root key changed" in press(at, "root-key.change")
    assert len(set(scene.gateway.asked)) == 1


def test_a_change_that_no_worker_accepts_is_queued_and_can_be_repeated(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.gateway.fails = OperationQueued()
    at = open_dialog(scene)
    fill(at)
    said = press(at, "root-key.change")
    assert "Request queued" in said
    assert "nothing is lost" in said
    assert "worker runs" not in said
    scene.gateway.fails = None
    assert "Root key changed" in press(at, "root-key.change")
    assert len(set(scene.gateway.asked)) == 1


def test_the_card_shows_the_health_and_the_dialog_explains_each_provider(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.held_key()
    said = text(shown("keys", scene.page_context()))
    assert "**Health:** Not checked now." in said
    assert "Last known as healthy." in said
    scene.measured()
    said = text(shown("keys", scene.page_context()))
    assert "**Health:** Healthy, checked continuously." in said
    assert "1111" in said  # the account in the key's ARN
    at = open_dialog(scene)
    for provider in RootKeyMode:
        at.radio(key="root-key.provider").set_value(provider).run()
        assert "Prepare your provider" in text(at)
        assert "there is no fallback" in text(at)
        assert ("openkcm/acme-corp-12345" in text(at)) is (provider is RootKeyMode.AWS_KMS)
    at.radio(key="root-key.provider").set_value(RootKeyMode.PLATFORM).run()
    assert "Root key changed" in press(at, "root-key.change")
    assert mode_of(scene) == "platform"


def test_the_card_names_the_problem_of_a_failing_root_key(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.held_key()
    for code in ("root_key_unreachable", "root_key_denied"):
        scene.report(code)
        said = text(shown("keys", scene.page_context()))
        assert f"**Health:** {sentence(PROBLEMS[code].message)}" in said
        assert NO_FALLBACK in said
    auditor = shown("keys", scene.page_context(ACME, PersonRole.AUDITOR))
    assert "A key administrator of your organization can change" in text(auditor)
