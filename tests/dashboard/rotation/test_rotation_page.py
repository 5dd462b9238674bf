"""Rotation, destruction of old versions and offboarding: the pages on a real database."""

from datetime import UTC, datetime, timedelta

import pytest
from streamlit.testing.v1 import AppTest

from core.errors.platform import TemporalUnavailable
from core.keys.rotation import MEANING, KeyState, RotationPhase, RotationScope
from core.tenants.approvals import Action
from core.tenants.lifecycle import State
from core.tenants.roles import PersonRole
from dashboard.components.tenant_status import sentence
from database.rotation import RotationRequest
from openkcm.contract.services import ServiceKind
from tests.dashboard.scene import ACME, Scene, open_tab, press, shown, text
from workflows.client.updates import OperationQueued, OperationTimeout

KEYS = PersonRole.KEY_ADMINISTRATOR


@pytest.fixture
def acme(scene: Scene) -> Scene:
    scene.tenant(State.ACTIVE)
    scene.service("orders", ServiceKind.MONGODB)
    return scene


def confirmed(at: AppTest, what: str) -> None:
    at.text_input(key=f"{what}.confirm").set_value(ACME).run()


def states(scene: Scene) -> dict[int, KeyState]:
    with scene.worker.tenant_tx(ACME) as tx:
        rows = tx.services.keys()
    return {key.version: key.state for key in rows}


def test_all_keys_are_rotated_after_the_effect_is_shown(acme: Scene) -> None:
    at = shown("keys", acme.page_context(ACME, KEYS))
    assert "Never rotated." in text(at)
    said = press(at, "rotation.everything")
    assert "no service is interrupted" in said
    assert "**orders** version 1: decrypts only" in said
    assert "Rotation completed" in press(at, "rotation.do")
    assert states(acme) == {1: KeyState.DEACTIVATED, 2: KeyState.ACTIVE}
    assert "Last rotation completed" in press(at, "rotation.close")
    assert at.dataframe(key="keys.table").value.iloc[0]["Version"] == "2 (1 old)"


def test_reporting_a_key_as_compromised_requires_the_tenant_id(acme: Scene) -> None:
    at = shown("keys", acme.page_context(ACME, KEYS), service="orders")
    said = press(at, "rotation.compromised-one")
    assert "becomes compromised: decryption requests are rejected" in said
    assert "Nothing was done." in press(at, "rotation.do")
    assert states(acme) == {1: KeyState.ACTIVE}
    confirmed(at, "rotation")
    press(at, "rotation.do")
    assert states(acme) == {1: KeyState.COMPROMISED, 2: KeyState.ACTIVE}
    press(at, "rotation.close")
    shown_states = at.dataframe(key="keys.table").value.iloc[0]["State"]
    assert list(shown_states) == ["Encrypt + decrypt", "Old version compromised"]


def test_only_an_old_and_unused_version_is_destroyed_and_others_show_the_reason(acme: Scene) -> None:
    acme.objects("orders", 2, 2)
    at = shown("keys", acme.page_context(ACME, KEYS), service="orders")
    assert "rotation.retire" not in [button.key for button in at.button]
    press(at, "rotation.one")
    press(at, "rotation.do")
    press(at, "rotation.close")
    assert at.button(key="rotation.retire").label == "Retire version 1…"
    assert "It protects 2 KMIP objects" in press(at, "rotation.retire")
    assert at.button(key="rotation.do").disabled
    with acme.crypto.tenant_tx(ACME) as tx:
        for row in tx.objects.of_service("orders"):
            tx.objects.change(row._replace(state=5, material=None))
    at.run()
    confirmed(at, "rotation")
    assert "Version 1 of the key of orders can no longer decrypt." in press(at, "rotation.do")
    assert states(acme) == {1: KeyState.DESTROYED, 2: KeyState.ACTIVE}
    press(at, "rotation.close")
    assert "rotation.retire" not in [button.key for button in at.button]


def test_a_reloaded_page_shows_a_running_rotation(acme: Scene) -> None:
    with acme.worker.tenant_tx(ACME) as tx:
        tx.rotations.begin(1, RotationRequest(tenant_key=True, services=RotationScope.ALL), 1)
        tx.rotations.enter(1, RotationPhase.PREPARE)
    at = shown("keys", acme.page_context(ACME, KEYS), service="orders")
    said = text(at)
    assert sentence(MEANING[RotationPhase.PREPARE]).removesuffix(".") in said
    assert "A rotation is running. Try again after it has ended." in said
    assert at.button(key="rotation.everything").disabled
    assert at.button(key="rotation.one").disabled
    with acme.worker.tenant_tx(ACME) as tx:
        tx.rotations.end(1)
    at.run()
    assert "Last rotation completed" in text(at)


def test_a_failed_or_long_rotation_is_explained_and_can_be_retried(acme: Scene) -> None:
    acme.gateway.stops = "root_key_disabled"
    at = shown("keys", acme.page_context(ACME, KEYS))
    press(at, "rotation.everything")
    assert "Rotation not completed" in press(at, "rotation.do")
    said = press(at, "rotation.cancel")
    assert "The root key is disabled." in said
    assert "retry" in said
    acme.gateway.stops = None
    press(at, "rotation.everything")
    assert "Rotation completed" in press(at, "rotation.do")
    press(at, "rotation.close")
    acme.gateway.fails = OperationTimeout()
    press(at, "rotation.tenant-key")
    assert "Rotation continues" in press(at, "rotation.do")


def test_a_rotation_that_no_worker_accepts_is_queued_and_names_no_component(acme: Scene) -> None:
    acme.gateway.fails = OperationQueued()
    at = shown("keys", acme.page_context(ACME, KEYS))
    press(at, "rotation.everything")
    said = press(at, "rotation.do")
    assert "Request queued" in said
    assert "starts automatically as soon as the platform can; nothing is lost" in said
    assert "operators have been alerted" in said
    assert not any(component in said.lower() for component in ("temporal", "worker", "openkcmctl"))
    assert "rotation.do" not in [button.key for button in at.button]


def test_the_dialogs_request_approval_if_the_policy_requires_it(acme: Scene) -> None:
    acme.wants_two_for(Action.COMPROMISE, Action.RETIRE_KEY_VERSION, Action.OFFBOARD)
    context = acme.page_context(ACME, KEYS)
    at = shown("keys", context, service="orders")
    press(at, "rotation.one")
    press(at, "rotation.do")
    press(at, "rotation.close")
    for opens in ("rotation.compromised", "rotation.retire"):
        assert "Approval required" in press(at, opens)
        confirmed(at, "rotation")
        assert "A reason is required." in press(at, "rotation.do")
        at.text_input(key="rotation.reason").set_value("key found in a log").run()
        assert "Approval requested" in press(at, "rotation.do")
        press(at, "rotation.close")
    at = shown("settings", context)
    press(at, "leaving.leave")
    confirmed(at, "leaving")
    assert "A reason is required." in press(at, "leaving.leave.do")
    at.text_input(key="leaving.reason").set_value("contract ended").run()
    assert "Approval requested" in press(at, "leaving.leave.do")
    press(at, "leaving.close")
    said = text(shown("approvals", acme.page_context(ACME, KEYS, name="Bob")))
    for exactly in ("Every service key", "The tenant key", "version: `1`", "After the grace period"):
        assert exactly in said
    # The person who decides sees what the requester saw.
    for effect in (
        "becomes compromised: decryption requests are rejected",
        "**Can no longer read older data**",
        "**Stops immediately**",
        "Key of **orders**, 2 versions",
        "Version 1: Decrypt only",
        "It protects no KMIP object.",
    ):
        assert effect in said
    assert said.count("**Reason:** key found in a log") == 2
    assert "**Reason:** contract ended" in said
    assert {"Approve key replacement", "Approve destruction of orders version 1"} <= set(said.splitlines())
    assert acme.standing()[0] is State.ACTIVE
    assert states(acme) == {1: KeyState.DEACTIVATED, 2: KeyState.ACTIVE}


def test_offboarding_shows_its_effect_and_requires_the_tenant_id(acme: Scene) -> None:
    at = shown("settings", acme.page_context(ACME, KEYS))
    said = press(at, "leaving.leave")
    assert "**orders**, MongoDB cluster" in said
    assert "Tenant key `L2-acme-corp-12345-primary`" in said
    assert f"{datetime.now(UTC) + timedelta(days=30):%b %Y}" in said
    assert "Nothing was done." in press(at, "leaving.leave.do")
    assert acme.standing()[0] is State.ACTIVE
    confirmed(at, "leaving")
    assert "restorable until" in press(at, "leaving.leave.do")
    assert acme.standing()[0] is State.LEAVING
    assert "Offboard tenant" not in [button.label for button in shown("settings", acme.page_context()).button]


def test_an_auditor_can_neither_restore_nor_offboard(scene: Scene) -> None:
    scene.tenant(State.LEAVING)
    at = shown("overview", scene.page_context(ACME, PersonRole.AUDITOR))
    assert "restorable until" in text(at)
    assert not at.button
    scene.tenant(State.ACTIVE, "other-corp-1")
    at = shown("settings", scene.page_context("other-corp-1", PersonRole.AUDITOR))
    assert "A key administrator of your organization can offboard the tenant." in text(at)


def test_a_tenant_can_be_restored_until_its_destruction_starts(scene: Scene) -> None:
    scene.tenant(State.LEAVING)
    at = shown("overview", scene.page_context())
    assert "returns to its former state" in press(at, "leaving.restore")
    assert "Tenant restored" in press(at, "leaving.restore.do")
    assert scene.standing()[0] is State.ACTIVE
    with scene.worker.tenant_tx(ACME) as tx:
        tx.leaving.begin(timedelta(days=30))
    assert "restorable until" in press(at, "leaving.close")
    press(at, "leaving.restore")
    with scene.worker.tenant_tx(ACME) as tx:
        tx.leaving.begin_destruction(datetime.now(UTC) + timedelta(days=31))
    assert "Tenant not restored" in press(at, "leaving.restore.do")
    said = press(at, "leaving.cancel")
    assert "Destroying keys" in said
    assert not [button for button in at.button if button.key == "leaving.restore"]


def test_an_offboarded_tenant_shows_its_erasure_certificate(scene: Scene) -> None:
    scene.tenant(State.OFFBOARDED)
    said = text(shown("dashboard.offboarding.section", scene.page_context(ACME, PersonRole.AUDITOR)))
    assert "Tenant closed" in said
    assert "1 L2 tenant key" in said
    assert "Download certificate" in said
    at = shown("dashboard.offboarding.section", scene.page_context(ACME, PersonRole.OPERATOR))
    assert "Access denied" in text(at)
    assert not at.title


def test_the_authority_is_replaced_and_the_former_one_shows_its_end(acme: Scene) -> None:
    at = shown("services", acme.page_context())
    assert "**Current**" in open_tab(at, "services.parts", "Certificate authority")
    assert "No service is interrupted" in press(at, "authorities.roll")
    acme.gateway.fails = TemporalUnavailable()
    assert "Authority not replaced" in press(at, "authorities.do")
    acme.gateway.fails = None
    assert "Authority replaced" in press(at, "authorities.do")
    said = press(at, "authorities.close")
    assert "**Former**" in said
    assert at.button(key="authorities.roll").disabled
    reader = shown("services", acme.page_context(ACME, KEYS))
    assert "Read-only for your role" in open_tab(reader, "services.parts", "Certificate authority")
    assert not [button for button in reader.button if button.key == "authorities.roll"]
