"""Rotating, retiring, rolling, leaving and restoring on a real database: allowed, on record before and after."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from dashboard import authority_actions, leaving_actions, rotation_actions
from dashboard.seat import Seat
from dashboard.views import rotation
from tenancy.approvals import Action, ApprovalState
from tenancy.errors import ActionRefused, OpenKcmError, SessionEnded, TemporalUnavailable
from tenancy.lifecycle import State
from tenancy.people import PersonRole
from tenancy.rotation import KeyState
from tenancy.services import ServiceKind
from tests.dashboard.scene import Scene, scene
from workflows.gateway import UpdateRefused

__all__ = ["scene"]

ACME = "acme-corp-12345"
ACTS: tuple[Callable[[Seat], object], ...] = (
    lambda seat: rotation_actions.rotate(seat, rotation.EVERYTHING),
    lambda seat: rotation_actions.rotate(seat, rotation.compromised(rotation.of_service("orders"))),
    lambda seat: rotation_actions.retire(seat, "orders", 1),
    leaving_actions.leave,
    leaving_actions.restore,
    authority_actions.roll,
)


@pytest.fixture
def acme(scene: Scene) -> Scene:
    scene.tenant(State.ACTIVE)
    scene.service("orders", ServiceKind.MONGODB)
    scene.door.asked.clear()
    return scene


def audited(scene: Scene, suffix: str = "_requested") -> list[tuple[str, str, str]]:
    with scene.worker.tenant_tx(ACME) as tx:
        records = [json.loads(record.record) for record in tx.audit.records()]
    return [
        (one["name"], one["outcome"], one["details"].get("code", "")) for one in records if one["name"].endswith(suffix)
    ]


def states(scene: Scene) -> dict[int, KeyState]:
    with scene.worker.tenant_tx(ACME) as tx:
        rows = tx.services.keys()
    return {key.version: key.state for key in rows}


def test_keys_are_rotated_and_an_old_version_destroyed_on_record_before_and_after(acme: Scene) -> None:
    seat = acme.seat(ACME, PersonRole.KEY_ADMINISTRATOR)
    rotation_actions.rotate(seat, rotation.EVERYTHING)
    assert states(acme) == {1: KeyState.DEACTIVATED, 2: KeyState.ACTIVE}
    rotation_actions.rotate(seat, rotation.compromised(rotation.of_service("orders")))
    assert states(acme) == {1: KeyState.COMPROMISED, 2: KeyState.COMPROMISED, 3: KeyState.ACTIVE}
    rotation_actions.retire(seat, "orders", 1)
    assert states(acme)[1] is KeyState.DESTROYED
    assert acme.door.asked == [
        "rotate all None True False",
        "rotate one orders False True",
        "retire orders 1",
    ]
    assert audited(acme) == [
        *(("key.rotate_requested", outcome, "") for outcome in ("intended", "success")),
        *(("key.rotate_requested", outcome, "") for outcome in ("intended", "success")),
        *(("key.retire_requested", outcome, "") for outcome in ("intended", "success")),
    ]


def test_a_tenant_leaves_and_comes_back_on_record(acme: Scene) -> None:
    seat = acme.seat(ACME, PersonRole.KEY_ADMINISTRATOR)
    assert leaving_actions.leave(seat).state is State.LEAVING
    assert leaving_actions.restore(seat).state is State.ACTIVE
    assert acme.door.asked == [f"offboard {ACME} customer", f"restore {ACME}"]
    assert [(name, outcome) for name, outcome, _ in audited(acme)] == [
        ("tenant.offboard_requested", "intended"),
        ("tenant.offboard_requested", "success"),
        ("tenant.restore_requested", "intended"),
        ("tenant.restore_requested", "success"),
    ]


def test_an_authority_is_rolled_by_whoever_manages_services(acme: Scene) -> None:
    authority_actions.roll(acme.seat())
    with acme.worker.tenant_tx(ACME) as tx:
        assert [str(row.state) for row in tx.certificates.authorities()] == ["current", "former"]
    assert [outcome for _, outcome, _ in audited(acme, "roll_requested")] == ["intended", "success"]
    with pytest.raises(ActionRefused):
        authority_actions.roll(acme.seat(ACME, PersonRole.KEY_ADMINISTRATOR))


@pytest.mark.parametrize("role", [PersonRole.AUDITOR, PersonRole.OPERATOR])
def test_who_may_not_is_refused_on_record_and_nothing_is_asked(acme: Scene, role: PersonRole) -> None:
    for act in ACTS:
        with pytest.raises(ActionRefused):
            act(acme.seat(ACME, role))
    assert acme.door.asked == []
    assert audited(acme) == []
    assert [outcome for _, outcome, _ in audited(acme, "action_refused")] == ["refused"] * len(ACTS)


def test_a_dialog_that_outlives_its_sign_on_does_nothing(acme: Scene) -> None:
    for act in ACTS:
        with pytest.raises(SessionEnded):
            act(replace(acme.seat(), present=lambda: False))
    assert acme.door.asked == []


def test_what_fails_is_on_record_with_its_code(acme: Scene) -> None:
    acme.door.fails = TemporalUnavailable()
    for act in ACTS:
        with pytest.raises(OpenKcmError):
            act(acme.seat())
    assert [code for _, outcome, code in audited(acme) if outcome == "failure"] == ["temporal_unavailable"] * len(ACTS)
    acme.door.fails = None
    with pytest.raises(UpdateRefused):
        rotation_actions.retire(acme.seat(), "orders", 1)
    assert audited(acme)[-1] == ("key.retire_requested", "failure", "key_version_in_use")


def test_with_two_wanted_one_alone_is_refused_and_asking_changes_nothing(acme: Scene) -> None:
    acme.wants_two_for(Action.COMPROMISE, Action.OFFBOARD, Action.RETIRE_KEY_VERSION)
    seat, wanted = acme.seat(), rotation.compromised(rotation.of_service("orders"))
    for act in (ACTS[1], ACTS[2], ACTS[3]):
        with pytest.raises(UpdateRefused):
            act(seat)
    asked = [
        rotation_actions.ask_to_compromise(seat, wanted),
        rotation_actions.ask_to_retire(seat, "orders", 1),
        leaving_actions.ask_to_leave(seat),
    ]
    assert [(one.action, dict(one.argument)) for one in asked] == [
        (Action.COMPROMISE, {"services": "one", "service": "orders", "tenant_key": False}),
        (Action.RETIRE_KEY_VERSION, {"service": "orders", "version": 1}),
        (Action.OFFBOARD, {"now": False}),
    ]
    assert {one.state for one in asked} == {ApprovalState.PENDING}
    assert states(acme) == {1: KeyState.ACTIVE}
    assert acme.standing()[0] is State.ACTIVE
