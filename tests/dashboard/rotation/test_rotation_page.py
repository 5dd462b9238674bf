"""Rotating keys, destroying old versions, leaving and what is shown afterwards: the pages on a real database."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from streamlit.testing.v1 import AppTest

from core.errors.platform import TemporalUnavailable
from core.keys.rotation import KeyState, RotationPhase, RotationScope
from core.tenants.approvals import Action
from core.tenants.lifecycle import State
from core.tenants.roles import PersonRole
from database.rotation import RotationRequest
from openkcm.contract.services import ServiceKind
from tests.dashboard.scene import ACME, Scene, press, shown, text
from workflows.client.workflow_client import OperationTimeout

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


def test_all_keys_are_rotated_after_saying_what_happens(acme: Scene) -> None:
    at = shown("keys", acme.seat(ACME, KEYS))
    assert "It was never rotated." in text(at)
    said = press(at, "rotation.everything")
    assert "no service is interrupted" in said
    assert "**orders** version 1: decrypts only" in said
    assert "The keys are rotated" in press(at, "rotation.do")
    assert states(acme) == {1: KeyState.DEACTIVATED, 2: KeyState.ACTIVE}
    said = press(at, "rotation.close")
    assert "The last rotation is done" in said
    assert "**Version 2**: active, it encrypts" in said
    assert "**Version 1**: deactivated, it decrypts only" in said


def test_keys_that_may_be_compromised_take_the_tenants_id(acme: Scene) -> None:
    at = shown("keys", acme.seat(ACME, KEYS))
    said = press(at, "rotation.compromised.orders")
    assert "becomes compromised: it opens nothing your services bring" in said
    assert "Nothing was done." in press(at, "rotation.do")
    assert states(acme) == {1: KeyState.ACTIVE}
    confirmed(at, "rotation")
    press(at, "rotation.do")
    assert states(acme) == {1: KeyState.COMPROMISED, 2: KeyState.ACTIVE}


def test_only_an_old_and_empty_version_is_destroyed_and_the_reason_is_said(acme: Scene) -> None:
    acme.objects("orders", 2, 2)
    at = shown("keys", acme.seat(ACME, KEYS))
    assert "It is active: your service encrypts with it." in press(at, "rotation.retire.orders")
    assert at.button(key="rotation.do").disabled
    press(at, "rotation.cancel")
    press(at, "rotation.one.orders")
    press(at, "rotation.do")
    press(at, "rotation.close")
    assert "2 KMIP objects lie under it." in press(at, "rotation.retire.orders")
    assert at.button(key="rotation.do").disabled
    with acme.crypto.tenant_tx(ACME) as tx:
        for row in tx.objects.of_service("orders"):
            tx.objects.change(replace(row, state=5, material=None))
    at.run()
    confirmed(at, "rotation")
    assert "Version 1 of the key of orders opens nothing any more." in press(at, "rotation.do")
    assert states(acme) == {1: KeyState.DESTROYED, 2: KeyState.ACTIVE}
    assert "1 older version destroyed" in press(at, "rotation.close")


def test_a_page_that_is_loaded_again_shows_a_running_rotation_where_it_is(acme: Scene) -> None:
    with acme.worker.tenant_tx(ACME) as tx:
        tx.rotations.begin(1, RotationRequest(tenant_key=True, services=RotationScope.ALL), 1)
        tx.rotations.enter(1, RotationPhase.PREPARE)
    at = shown("keys", acme.seat(ACME, KEYS))
    said = text(at)
    assert "New versions of service keys are made and opened once" in said
    assert "A rotation runs. The next one can be asked for when it has ended." in said
    assert at.button(key="rotation.everything").disabled
    assert at.button(key="rotation.retire.orders").disabled
    with acme.worker.tenant_tx(ACME) as tx:
        tx.rotations.end(1)
    at.run()
    assert "The last rotation is done" in text(at)


def test_a_rotation_that_fails_or_takes_long_is_explained_and_can_be_repeated(acme: Scene) -> None:
    acme.door.stops = "root_key_disabled"
    at = shown("keys", acme.seat(ACME, KEYS))
    press(at, "rotation.everything")
    assert "Not rotated to the end" in press(at, "rotation.do")
    said = press(at, "rotation.cancel")
    assert "The root key is disabled." in said
    assert "ask again" in said
    acme.door.stops = None
    press(at, "rotation.everything")
    assert "The keys are rotated" in press(at, "rotation.do")
    press(at, "rotation.close")
    acme.door.fails = OperationTimeout()
    press(at, "rotation.tenant-key")
    assert "It goes on by itself" in press(at, "rotation.do")


def test_where_two_are_wanted_the_dialogs_ask_for_approval(acme: Scene) -> None:
    acme.wants_two_for(Action.COMPROMISE, Action.RETIRE_KEY_VERSION, Action.OFFBOARD)
    seat = acme.seat(ACME, KEYS)
    at = shown("keys", seat)
    press(at, "rotation.one.orders")
    press(at, "rotation.do")
    press(at, "rotation.close")
    for opens in ("rotation.compromised", "rotation.retire.orders"):
        assert "This takes two people" in press(at, opens)
        confirmed(at, "rotation")
        assert "Somebody else has to approve" in press(at, "rotation.do")
        press(at, "rotation.close")
    at = shown("settings", seat)
    press(at, "leaving.leave")
    confirmed(at, "leaving")
    assert "Somebody else has to approve" in press(at, "leaving.leave.do")
    press(at, "leaving.close")
    said = text(shown("settings", acme.seat(ACME, KEYS, name="Bob")))
    for exactly in ("Every service key", "The tenant key", "version: `1`", "At the end of the grace"):
        assert exactly in said
    assert acme.standing()[0] is State.ACTIVE
    assert states(acme) == {1: KeyState.DEACTIVATED, 2: KeyState.ACTIVE}


def test_leaving_says_what_stops_and_is_destroyed_and_takes_the_tenants_id(acme: Scene) -> None:
    at = shown("settings", acme.seat(ACME, KEYS))
    said = press(at, "leaving.leave")
    assert "**orders**, MongoDB cluster" in said
    assert "Tenant key `L2-acme-corp-12345-primary`" in said
    assert f"{datetime.now(UTC) + timedelta(days=30):%b %Y}" in said
    assert "Nothing was done." in press(at, "leaving.leave.do")
    assert acme.standing()[0] is State.ACTIVE
    confirmed(at, "leaving")
    assert "restorable until" in press(at, "leaving.leave.do")
    assert acme.standing()[0] is State.LEAVING
    assert "Leave OpenKCM" not in [button.label for button in shown("settings", acme.seat()).button]


def test_who_may_only_look_has_no_way_back_and_no_way_out(scene: Scene) -> None:
    scene.tenant(State.LEAVING)
    at = shown("overview", scene.seat(ACME, PersonRole.AUDITOR))
    assert "restorable until" in text(at)
    assert not at.button
    scene.tenant(State.ACTIVE, "other-corp-1")
    at = shown("settings", scene.seat("other-corp-1", PersonRole.AUDITOR))
    assert "A key administrator of your organization does it." in text(at)


def test_restore_brings_the_tenant_back_until_its_destruction_has_begun(scene: Scene) -> None:
    scene.tenant(State.LEAVING)
    at = shown("overview", scene.seat())
    assert "as it did before it left" in press(at, "leaving.restore")
    assert "The tenant is restored" in press(at, "leaving.restore.do")
    assert scene.standing()[0] is State.ACTIVE
    with scene.worker.tenant_tx(ACME) as tx:
        tx.leaving.begin(timedelta(days=30))
    assert "restorable until" in press(at, "leaving.close")
    press(at, "leaving.restore")
    with scene.worker.tenant_tx(ACME) as tx:
        tx.leaving.begin_destruction(datetime.now(UTC) + timedelta(days=31))
    assert "Not restored" in press(at, "leaving.restore.do")
    said = press(at, "leaving.cancel")
    assert "Your tenant is being destroyed" in said
    assert not [button for button in at.button if button.key == "leaving.restore"]


def test_a_tenant_that_has_left_says_so_and_offers_the_certificate(scene: Scene) -> None:
    scene.tenant(State.OFFBOARDED)
    said = text(shown("dashboard.offboarding.section", scene.seat(ACME, PersonRole.AUDITOR)))
    assert "Your tenant has left" in said
    assert "1 L2 tenant key" in said
    assert "Download the certificate" in said
    at = shown("dashboard.offboarding.section", scene.seat(ACME, PersonRole.OPERATOR))
    assert "not for your role" in text(at)
    assert not at.title


def test_the_authority_is_rolled_and_the_former_one_says_until_when(acme: Scene) -> None:
    at = shown("services", acme.seat())
    assert "**Current**" in text(at)
    assert "no service is interrupted" in press(at, "authorities.roll")
    acme.door.fails = TemporalUnavailable()
    assert "Not rolled" in press(at, "authorities.do")
    acme.door.fails = None
    assert "The authority is rolled" in press(at, "authorities.do")
    said = press(at, "authorities.close")
    assert "**Former**" in said
    assert at.button(key="authorities.roll").disabled
    assert not [
        button for button in shown("services", acme.seat(ACME, KEYS)).button if button.key == "authorities.roll"
    ]
