"""The standing of a tenant on its pages: its state, its notices, and the dialogs that stop and start it."""

from datetime import timedelta

import pytest

from core.errors.platform import TemporalUnavailable
from core.keys.rotation import RotationPhase, RotationScope
from core.tenants.approvals import Action
from core.tenants.lifecycle import State
from core.tenants.locks import LockReason
from core.tenants.roles import PersonRole
from dashboard.tenants import actions as standing_actions
from database.rotation import RotationRequest
from openkcm.contract.services import ServiceKind
from tests.dashboard.scene import ACME, Scene, meaning, press, shown, text

PAGES = ("overview", "keys", "services", "usage", "audit", "settings")
APPROVAL = "Something waits for your decision"


@pytest.mark.parametrize("page", PAGES)
def test_every_page_shows_the_notices_of_the_tenant(scene: Scene, page: str) -> None:
    scene.tenant(State.ACTIVE)
    scene.held_key()
    at = shown(page, scene.seat())
    assert not [*at.warning, *at.error]

    scene.report("root_key_unreachable")
    scene.wants_two_for(Action.LOCK)
    standing_actions.ask_to_lock(scene.seat())
    at = shown(page, scene.seat())
    [warning] = at.warning
    assert "Your root key is out of reach" in text(at)
    assert "The root key's server does not answer." in warning.value
    assert "There is no silent fallback" in warning.value
    assert APPROVAL not in text(at)
    assert APPROVAL in text(shown(page, scene.seat(name="Kai")))
    assert APPROVAL not in text(shown(page, scene.seat(ACME, PersonRole.AUDITOR, name="Uma")))

    with scene.worker.tenant_tx(ACME) as tx:
        tx.rotations.begin(1, RotationRequest(tenant_key=False, services=RotationScope.DUE, scheduled=True), 1)
        tx.rotations.enter(1, RotationPhase.PREPARE)
        tx.rotations.end(1, "root_key_disabled")
    assert "The root key is disabled." in text(shown(page, scene.seat()))

    scene.report("root_key_pending_deletion")
    at = shown(page, scene.seat())
    assert "Your tenant is locked" in text(at)
    [error] = [one.value for one in at.error if "The root key is about to be deleted." in one.value]
    assert "Your tenant opens by itself" in error

    with scene.worker.tenant_tx(ACME) as tx:
        tx.leaving.begin(timedelta(days=30))
    at = shown(page, scene.seat())
    assert "restorable until" in text(at)
    assert "leaving.restore" in {button.key for button in at.button}


@pytest.mark.parametrize("state", [state for state in State if state is not State.ACTIVE])
def test_every_page_explains_a_state_in_which_the_tenant_does_not_work(scene: Scene, state: State) -> None:
    scene.tenant(state)
    pages = {page: shown(page, scene.seat()) for page in ("overview", "keys", "services", "settings", "reports")}
    said = {page: text(at) for page, at in pages.items()}
    for page in ("overview", "keys", "services"):
        boxes = [*pages[page].info, *pages[page].warning, *pages[page].error]
        assert any(meaning(state) in box.value for box in boxes), page
    assert pages["overview"].metric[0].value == state.capitalize()
    assert "Ready ✓" not in said["overview"]
    assert "In use: it wraps" not in said["keys"]
    assert f"No service can be connected while the tenant is {state}." in said["services"]
    assert {button.key for button in pages["services"].button} <= {"authorities.roll", "leaving.restore"}
    assert state is State.OFFBOARDED or "At a glance" in said["reports"]
    if state in {State.PROVISIONING, State.FAILED, State.LEAVING, State.OFFBOARDED}:
        assert f"nobody changes them while the tenant is {state}" in said["settings"]
        assert not [one for one in pages["settings"].button if one.key == "settings.save"]


@pytest.mark.parametrize("page", ["overview", "keys", "services", "settings"])
def test_a_page_shows_nothing_without_a_tenant_or_without_the_permission(scene: Scene, page: str) -> None:
    at = shown(page, scene.seat())
    assert "not enabled" in text(at)
    assert not at.metric
    scene.tenant(State.ACTIVE)
    at = shown(page, scene.seat(ACME, PersonRole.OPERATOR))
    assert at.error
    assert not at.title
    assert "ACME" not in text(at)


def test_the_kill_switch_lists_what_stops_and_requires_the_tenant_id(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    at = shown("keys", scene.seat())
    assert "nothing stops" in press(at, "standing.lock")
    scene.service("orders", ServiceKind.MONGODB, uses=10)
    scene.service("billing", ServiceKind.MICROSERVICE)
    at = shown("keys", scene.seat())
    said = press(at, "standing.lock")
    assert "**orders**, MongoDB cluster: last used" in said
    assert "**billing**, Microservice: not used so far" in said
    assert "nothing is destroyed" in said
    assert "Nothing was done." in press(at, "standing.lock.do")
    assert scene.standing() == (State.ACTIVE, ())
    at.text_input(key="standing.confirm").set_value(ACME).run()
    assert "The tenant is locked" in press(at, "standing.lock.do")
    assert scene.standing() == (State.LOCKED, (LockReason.SWITCH,))
    assert "somebody pulled the kill switch here" in press(at, "standing.close")
    assert [button.key for button in at.button if str(button.key).startswith("standing.")] == ["standing.unlock"]
    press(at, "standing.unlock")
    assert "The tenant is unlocked" in press(at, "standing.unlock.do")
    assert scene.standing() == (State.ACTIVE, ())


def test_suspend_and_resume_take_one_more_click_and_can_be_cancelled(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.door.fails = TemporalUnavailable()
    at = shown("keys", scene.seat(ACME, PersonRole.KEY_ADMINISTRATOR))
    press(at, "standing.suspend")
    assert "Not suspended yet" in press(at, "standing.suspend.do")
    press(at, "standing.cancel")
    assert scene.standing() == (State.ACTIVE, ())
    scene.door.fails = None
    for move, after in (("suspend", State.SUSPENDED), ("resume", State.ACTIVE)):
        press(at, f"standing.{move}")
        assert f"The tenant is {'suspended' if after is State.SUSPENDED else 'resumed'}" in press(
            at, f"standing.{move}.do"
        )
        assert scene.standing() == (after, ())
        press(at, "standing.close")


def test_unlock_while_the_root_key_fails_reports_that_the_tenant_stays_locked(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.held_key("root_key_disabled")
    with scene.worker.tenant_tx(ACME) as tx:
        tx.tenants.hold(LockReason.SWITCH)
    at = shown("keys", scene.seat())
    assert "It will stay locked for now" in press(at, "standing.unlock")
    assert "Unlocked here, and locked still" in press(at, "standing.unlock.do")
    assert scene.standing() == (State.LOCKED, (LockReason.ROOT_KEY,))


def test_the_overview_says_in_its_line_how_the_root_key_does(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.held_key()
    assert "It answers now." in text(shown("overview", scene.seat()))
    scene.report("root_key_throttled")
    said = text(shown("overview", scene.seat()))
    assert "**Master Key:** Your own key in AWS KMS (BYOK)" in said
    assert "The root key's server asks to slow down. Since" in said
