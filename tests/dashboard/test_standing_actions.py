"""Suspending, resuming, locking and unlocking on a real database: allowed, on record before and after."""

import json
from dataclasses import replace

import pytest

from dashboard import standing_actions
from tenancy.errors import ActionRefused, SessionEnded, TemporalUnavailable, TenantUnknown
from tenancy.lifecycle import State
from tenancy.locks import LockReason
from tenancy.people import PersonRole
from tests.dashboard.scene import Scene, scene
from workflows.gateway import UpdateRefused

__all__ = ["scene"]

ACME = "acme-corp-12345"
ACTS = (standing_actions.suspend, standing_actions.resume, standing_actions.lock, standing_actions.unlock)


def audited(scene: Scene, suffix: str = "_requested") -> list[tuple[str, str, str]]:
    with scene.worker.tenant_tx(ACME) as tx:
        records = [json.loads(record.record) for record in tx.audit.records()]
    return [
        (one["name"], one["outcome"], one["details"].get("code", "")) for one in records if one["name"].endswith(suffix)
    ]


@pytest.mark.parametrize(
    ("act", "before", "after", "name"),
    [
        (standing_actions.suspend, State.ACTIVE, State.SUSPENDED, "tenant.suspend_requested"),
        (standing_actions.resume, State.SUSPENDED, State.ACTIVE, "tenant.resume_requested"),
        (standing_actions.lock, State.ACTIVE, State.LOCKED, "tenant.lock_requested"),
        (standing_actions.lock, State.SUSPENDED, State.LOCKED, "tenant.lock_requested"),
        (standing_actions.unlock, State.LOCKED, State.ACTIVE, "tenant.unlock_requested"),
    ],
)
def test_a_key_administrator_moves_the_tenant_and_it_is_on_record(scene: Scene, act, before, after, name) -> None:
    scene.tenant(before)
    row = act(scene.seat(ACME, PersonRole.KEY_ADMINISTRATOR))
    assert row.state is after
    assert audited(scene) == [(name, "intended", ""), (name, "success", "")]


def test_unlocking_while_the_root_key_fails_leaves_it_locked(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.held_key("root_key_disabled")
    standing_actions.lock(scene.seat())
    row = standing_actions.unlock(scene.seat())
    assert (row.state, row.locks) == (State.LOCKED, (LockReason.ROOT_KEY,))
    scene.report("ok")
    assert scene.standing() == (State.ACTIVE, ())


@pytest.mark.parametrize("role", [PersonRole.AUDITOR, PersonRole.OPERATOR])
def test_who_may_not_manage_keys_is_refused_on_record_and_nothing_is_asked(scene: Scene, role: PersonRole) -> None:
    scene.tenant(State.ACTIVE)
    for act in ACTS:
        with pytest.raises(ActionRefused):
            act(scene.seat(ACME, role))
    assert scene.door.asked == []
    assert audited(scene) == []
    assert [outcome for _, outcome, _ in audited(scene, "action_refused")] == ["refused"] * 4


def test_a_dialog_that_outlives_its_sign_on_does_nothing(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    for act in ACTS:
        with pytest.raises(SessionEnded):
            act(replace(scene.seat(), present=lambda: False))
    assert scene.door.asked == []
    assert audited(scene) == []


def test_what_fails_is_on_record_with_its_code(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.door.fails = TemporalUnavailable()
    with pytest.raises(TemporalUnavailable):
        standing_actions.lock(scene.seat())
    scene.door.fails = None
    with pytest.raises(UpdateRefused):
        standing_actions.unlock(scene.seat())
    assert [code for _, outcome, code in audited(scene) if outcome == "failure"] == [
        "temporal_unavailable",
        "illegal_move",
    ]


def test_without_a_tenant_there_is_nothing_to_do(scene: Scene) -> None:
    with pytest.raises(TenantUnknown):
        standing_actions.lock(scene.seat())
