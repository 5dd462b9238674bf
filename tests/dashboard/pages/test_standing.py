"""Stopping and starting a tenant on the page Keys, and what every page says of one that does not stand as it should."""

import pytest
from streamlit.testing.v1 import AppTest

from tenancy.errors import TemporalUnavailable
from tenancy.lifecycle import State
from tenancy.locks import LockReason
from tenancy.people import PersonRole
from tenancy.services import ServiceKind
from tests.dashboard.scene import Scene, scene, shown, text

__all__ = ["scene"]

ACME = "acme-corp-12345"
PAGES = ("overview", "keys", "services", "usage", "audit")


def press(at: AppTest, move: str) -> AppTest:
    at.button(key=f"standing.{move}").click().run()
    assert not at.exception
    return at


def done(at: AppTest, move: str) -> str:
    at.button(key=f"standing.{move}.do").click().run()
    assert not at.exception
    return text(at)


def test_the_kill_switch_lists_what_stops_and_takes_the_tenants_id(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.service("orders", ServiceKind.MONGODB, uses=10)
    scene.service("billing", ServiceKind.MICROSERVICE)
    at = press(shown("keys", scene.seat()), "lock")
    said = text(at)
    assert "**orders**, MongoDB cluster: last used" in said
    assert "**billing**, Microservice: not used so far" in said
    assert "nothing is destroyed" in said
    assert "Nothing was done." in done(at, "lock")
    assert scene.standing() == (State.ACTIVE, ())
    at.text_input(key="standing.confirm").set_value(ACME).run()
    assert "The tenant is locked" in done(at, "lock")
    assert scene.standing() == (State.LOCKED, (LockReason.SWITCH,))
    at.button(key="standing.close").click().run()
    assert "somebody pulled the kill switch here" in text(at)
    assert [button.key for button in at.button if str(button.key).startswith("standing.")] == ["standing.unlock"]


def test_without_services_nothing_stops(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    assert "nothing stops" in text(press(shown("keys", scene.seat()), "lock"))


@pytest.mark.parametrize(
    ("before", "move", "after", "title"),
    [
        (State.ACTIVE, "suspend", State.SUSPENDED, "The tenant is suspended"),
        (State.SUSPENDED, "resume", State.ACTIVE, "The tenant is resumed"),
        (State.LOCKED, "unlock", State.ACTIVE, "The tenant is unlocked"),
    ],
)
def test_the_other_moves_take_one_more_click(scene: Scene, before: State, move: str, after: State, title: str) -> None:
    scene.tenant(before)
    at = press(shown("keys", scene.seat(ACME, PersonRole.KEY_ADMINISTRATOR)), move)
    assert title in done(at, move)
    assert scene.standing() == (after, ())
    at.button(key="standing.close").click().run()
    assert not at.exception


def test_unlocking_while_the_root_key_fails_says_that_it_stays_locked(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.held_key("root_key_disabled")
    with scene.worker.tenant_tx(ACME) as tx:
        tx.tenants.hold(LockReason.SWITCH)
    at = press(shown("keys", scene.seat()), "unlock")
    assert "It will stay locked for now" in text(at)
    assert "Unlocked here, and locked still" in done(at, "unlock")
    assert scene.standing() == (State.LOCKED, (LockReason.ROOT_KEY,))


def test_what_could_not_be_asked_for_is_said_so_and_cancelling_does_nothing(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.door.fails = TemporalUnavailable()
    at = press(shown("keys", scene.seat()), "suspend")
    assert "Not suspended yet" in done(at, "suspend")
    at.button(key="standing.cancel").click().run()
    assert not at.exception
    assert scene.standing() == (State.ACTIVE, ())


def test_who_may_only_look_has_no_switch(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    at = shown("keys", scene.seat(ACME, PersonRole.AUDITOR))
    assert "A key administrator of your organization does it." in text(at)
    assert not at.button


@pytest.mark.parametrize("page", PAGES)
def test_every_page_warns_while_the_root_key_is_out_of_reach(scene: Scene, page: str) -> None:
    scene.tenant(State.ACTIVE)
    scene.held_key("root_key_unreachable")
    at = shown(page, scene.seat())
    [warning] = at.warning
    assert "Your root key is out of reach" in text(at)
    assert "The root key's server does not answer." in warning.value
    assert "There is no silent fallback" in warning.value


@pytest.mark.parametrize("page", PAGES)
def test_every_page_says_why_the_tenant_is_locked_and_what_unlocks_it(scene: Scene, page: str) -> None:
    scene.tenant(State.ACTIVE)
    scene.held_key("root_key_pending_deletion")
    at = shown(page, scene.seat())
    [error] = at.error
    assert "Your tenant is locked" in text(at)
    assert "The root key is about to be deleted." in error.value
    assert "Your tenant opens by itself" in error.value


@pytest.mark.parametrize("page", PAGES)
def test_a_root_key_that_works_asks_for_no_notice(scene: Scene, page: str) -> None:
    scene.tenant(State.ACTIVE)
    scene.held_key()
    at = shown(page, scene.seat())
    assert not at.warning
    assert not at.error


def test_the_overview_says_in_its_line_how_the_root_key_does(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.held_key()
    assert "It answers now." in text(shown("overview", scene.seat()))
    scene.report("root_key_throttled")
    said = text(shown("overview", scene.seat()))
    assert "**Master Key:** Your own key in AWS KMS (BYOK)" in said
    assert "The root key's server asks to slow down. Since" in said
