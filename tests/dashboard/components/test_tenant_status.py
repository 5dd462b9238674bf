"""The status of a tenant on its pages: state, notices, and the dialogs of the emergency controls."""

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

PAGES = ("overview", "keys", "services", "approvals", "usage", "reports", "audit", "settings")
APPROVAL = "Approval needed"


@pytest.mark.parametrize("page", PAGES)
def test_every_page_shows_the_notices_of_the_tenant(scene: Scene, page: str) -> None:
    scene.tenant(State.ACTIVE)
    scene.held_key()
    scene.measured()
    at = shown(page, scene.page_context())
    assert not [*at.warning, *at.error]

    scene.report("root_key_unreachable")
    scene.wants_two_for(Action.LOCK)
    standing_actions.ask_to_lock(scene.page_context(), "drill")
    at = shown(page, scene.page_context())
    [warning] = at.warning
    assert "Root key unreachable" in text(at)
    assert "The root key's server does not answer." in warning.value
    assert "There is no fallback" in warning.value
    assert APPROVAL not in text(at)
    said = text(shown(page, scene.page_context(name="Kai")))
    assert APPROVAL in said
    assert "[Review requests](approvals)" in said
    assert APPROVAL not in text(shown(page, scene.page_context(ACME, PersonRole.AUDITOR, name="Uma")))

    with scene.worker.tenant_tx(ACME) as tx:
        tx.rotations.begin(1, RotationRequest(tenant_key=False, services=RotationScope.DUE, scheduled=True), 1)
        tx.rotations.enter(1, RotationPhase.PREPARE)
        tx.rotations.end(1, "root_key_disabled")
    assert "The root key is disabled." in text(shown(page, scene.page_context()))

    scene.report("root_key_pending_deletion")
    at = shown(page, scene.page_context())
    assert "Tenant locked" in text(at)
    [error] = [one.value for one in at.error if "scheduled for deletion" in one.value]
    assert "The tenant unlocks automatically" in error

    with scene.worker.tenant_tx(ACME) as tx:
        tx.leaving.begin(timedelta(days=30))
    at = shown(page, scene.page_context())
    assert "restorable until" in text(at)
    assert "leaving.restore" in {button.key for button in at.button}


@pytest.mark.parametrize("state", [state for state in State if state is not State.ACTIVE])
def test_every_page_explains_a_state_other_than_active(scene: Scene, state: State) -> None:
    scene.tenant(state)
    pages = {
        page: shown(page, scene.page_context()) for page in ("overview", "keys", "services", "settings", "reports")
    }
    said = {page: text(at) for page, at in pages.items()}
    for page in ("overview", "keys", "services"):
        boxes = [*pages[page].info, *pages[page].warning, *pages[page].error]
        assert any(meaning(state) in box.value for box in boxes), page
        assert "Operational" not in said[page]
    assert f"Tenant Status: {state.capitalize()}" in said["overview"]
    assert "Ready ✓" not in said["overview"]
    assert "Active: wraps" not in said["keys"]
    assert f"Services cannot be connected while the tenant is {state}." in said["services"]
    offered = {str(button.key) for button in pages["services"].button}
    assert {key for key in offered if not key.startswith("standing.")} <= {"authorities.roll", "leaving.restore"}
    assert state is State.OFFBOARDED or "Current compliance status" in said["reports"]
    if state in {State.PROVISIONING, State.FAILED, State.LEAVING, State.OFFBOARDED}:
        assert f"It cannot be changed while the tenant is {state}" in said["settings"]
        assert not [one for one in pages["settings"].button if one.key == "settings.save"]


@pytest.mark.parametrize("page", ["overview", "keys", "services", "settings"])
def test_a_page_shows_nothing_without_a_tenant_or_without_the_permission(scene: Scene, page: str) -> None:
    at = shown(page, scene.page_context())
    assert "not enabled" in text(at)
    assert not at.metric
    scene.tenant(State.ACTIVE)
    at = shown(page, scene.page_context(ACME, PersonRole.OPERATOR))
    assert at.error
    assert not at.title
    assert "ACME" not in text(at)


def test_the_kill_switch_lists_what_stops_and_requires_the_tenant_id(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    at = shown("keys", scene.page_context())
    assert "No service is connected" in press(at, "standing.lock")
    scene.service("orders", ServiceKind.MONGODB, uses=10)
    scene.service("billing", ServiceKind.MICROSERVICE)
    at = shown("keys", scene.page_context())
    said = press(at, "standing.lock")
    assert "**orders**, MongoDB cluster: last used" in said
    assert "**billing**, Microservice: not used so far" in said
    assert "Nothing is destroyed" in said
    assert "Nothing was done." in press(at, "standing.lock.do")
    assert scene.standing() == (State.ACTIVE, ())
    at.text_input(key="standing.confirm").set_value(ACME).run()
    assert "Tenant locked" in press(at, "standing.lock.do")
    assert scene.standing() == (State.LOCKED, (LockReason.MANUAL,))
    assert "Locked by an administrator" in press(at, "standing.close")
    assert [button.key for button in at.button if str(button.key).startswith("standing.")] == ["standing.unlock"]
    press(at, "standing.unlock")
    assert "Tenant unlocked" in press(at, "standing.unlock.do")
    assert scene.standing() == (State.ACTIVE, ())


def test_suspend_and_resume_take_one_more_click_and_can_be_cancelled(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.gateway.fails = TemporalUnavailable()
    at = shown("keys", scene.page_context(ACME, PersonRole.KEY_ADMINISTRATOR))
    press(at, "standing.suspend")
    assert "Tenant not suspended" in press(at, "standing.suspend.do")
    press(at, "standing.cancel")
    assert scene.standing() == (State.ACTIVE, ())
    scene.gateway.fails = None
    for move, after in (("suspend", State.SUSPENDED), ("resume", State.ACTIVE)):
        press(at, f"standing.{move}")
        assert f"Tenant {'suspended' if after is State.SUSPENDED else 'resumed'}" in press(at, f"standing.{move}.do")
        assert scene.standing() == (after, ())
        press(at, "standing.close")


def test_unlock_while_the_root_key_fails_reports_that_the_tenant_stays_locked(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.held_key("root_key_disabled")
    with scene.worker.tenant_tx(ACME) as tx:
        tx.tenants.hold(LockReason.MANUAL)
    at = shown("keys", scene.page_context())
    assert "Tenant stays locked" in press(at, "standing.unlock")
    assert "Administrator's lock removed; tenant still locked" in press(at, "standing.unlock.do")
    assert scene.standing() == (State.LOCKED, (LockReason.ROOT_KEY,))


def test_the_overview_shows_the_health_of_the_root_key(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.held_key()
    scene.measured()
    said = text(shown("overview", scene.page_context()))
    assert "**Root key:** Your own key in AWS KMS (BYOK)" in said
    assert "Works, monitored." in said
    scene.report("root_key_throttled")
    said = text(shown("overview", scene.page_context()))
    assert "Root key: Unreachable" in said
    assert "The root key's server throttles requests. Since" in said
