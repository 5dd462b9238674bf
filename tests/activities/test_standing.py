"""Suspend, lock and unlock on a real database; and how a tenant's standing follows its root key."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from temporalio.testing import ActivityEnvironment

from activities.announcing import Announcer
from activities.examination import ExaminationActivities
from activities.standing import StandingActivities
from database.connection import Database
from tenancy.boundaries import CheckResult
from tenancy.errors import IllegalMove
from tenancy.events import AnnouncementKind, Channel
from tenancy.lifecycle import Move, State
from tenancy.locks import HEALTHY, LockReason
from tenancy.messages import ExamineInput, StandingInput, StandingMove, StandingResult, StepInput
from tenancy.root_key_errors import RootKeyDisabled, RootKeyUnreachable
from tests.database.builders import a_connected_service, a_provisioned_tenant, a_root_key, an_examination
from tests.database.fixtures import Field
from tests.database.signing import SIGNER

TENANT = "acme"
GRACE = 60.0


class Scene:
    def __init__(self, field: Field) -> None:
        self.field, self.worker = field, field.open("worker")
        self.later = timedelta()
        announcer = Announcer((Channel.EMAIL,), "https://cmk.example")
        self.activities = StandingActivities(self.worker, announcer, GRACE, lambda: datetime.now(UTC) + self.later)
        self._steps = 0

    def _step(self) -> StepInput:
        self._steps += 1
        return StepInput(tenant_id=TENANT, operation_id=f"standing-{self._steps}")

    def ask(self, move: StandingMove) -> StandingResult:
        step = StandingInput(**self._step().model_dump(), move=move)
        return ActivityEnvironment().run(self.activities.change_standing, step)

    def follow(self) -> StandingResult:
        return ActivityEnvironment().run(self.activities.follow_root_key, self._step())

    def root_key_is(self, health: str) -> None:
        with self.worker.tenant_tx(TENANT) as tx:
            key = tx.root_keys.current()
            assert key is not None
            tx.root_keys.report(key.root_key_id, health)

    @property
    def standing(self) -> tuple[State, set[LockReason]]:
        with self.worker.tenant_tx(TENANT) as tx:
            row = tx.tenants.get()
        assert row is not None
        return row.state, set(row.locks)

    def audited(self) -> list[str]:
        with self.worker.tenant_tx(TENANT) as tx:
            return [json.loads(stored.record)["name"] for stored in tx.audit.records()]


@pytest.fixture
def scene(field: Field) -> Scene:
    a_provisioned_tenant(field.open("worker"), TENANT)
    with field.open("worker").tenant_tx(TENANT) as tx:
        tx.tenants.move(Move.ACTIVATE)
    a_connected_service(field, TENANT)
    a_root_key(field, TENANT)
    return Scene(field)


ACTIVE, SUSPENDED = (State.ACTIVE, set[LockReason]()), (State.SUSPENDED, set[LockReason]())


def locked(*reasons: LockReason) -> tuple[State, set[LockReason]]:
    return State.LOCKED, set(reasons)


def test_a_person_suspends_and_resumes_and_again_is_no_change(scene: Scene) -> None:
    for _ in range(2):
        assert scene.ask(StandingMove.SUSPEND).state is State.SUSPENDED
    for _ in range(2):
        assert scene.ask(StandingMove.RESUME).told is None
    assert scene.standing == ACTIVE


def test_a_kill_switch_opens_again_into_what_it_closed(scene: Scene) -> None:
    scene.ask(StandingMove.SUSPEND)
    for _ in range(2):
        scene.ask(StandingMove.LOCK)
    assert scene.standing == locked(LockReason.SWITCH)
    with pytest.raises(IllegalMove):
        scene.ask(StandingMove.RESUME)
    for _ in range(2):
        scene.ask(StandingMove.UNLOCK)
    assert scene.standing == SUSPENDED


def test_a_root_key_that_was_taken_away_locks_at_once_and_unlocks_when_it_is_back(scene: Scene) -> None:
    scene.root_key_is(RootKeyDisabled.code)
    assert scene.follow() == StandingResult(state=State.LOCKED, told=AnnouncementKind.LOCKED)
    assert scene.standing == locked(LockReason.ROOT_KEY)
    assert scene.follow() == StandingResult(state=State.LOCKED)
    scene.root_key_is(HEALTHY)
    assert scene.follow() == StandingResult(state=State.ACTIVE, told=AnnouncementKind.UNLOCKED)
    assert scene.standing == ACTIVE


def test_a_root_key_out_of_reach_is_told_of_and_locks_only_after_the_grace(scene: Scene) -> None:
    scene.root_key_is(RootKeyUnreachable.code)
    assert scene.follow() == StandingResult(state=State.ACTIVE, told=AnnouncementKind.ROOT_KEY_WARNING)
    scene.later = timedelta(seconds=GRACE - 5)
    assert scene.follow().state is State.ACTIVE
    scene.later = timedelta(seconds=GRACE + 1)
    assert scene.follow().told is AnnouncementKind.LOCKED
    assert scene.standing == locked(LockReason.ROOT_KEY)


def test_neither_lock_opens_the_other(scene: Scene) -> None:
    scene.root_key_is(RootKeyDisabled.code)
    scene.follow()
    scene.ask(StandingMove.LOCK)
    assert scene.standing == locked(LockReason.ROOT_KEY, LockReason.SWITCH)
    scene.ask(StandingMove.UNLOCK)
    assert scene.standing == locked(LockReason.ROOT_KEY)
    scene.ask(StandingMove.LOCK)
    scene.root_key_is(HEALTHY)
    assert scene.follow().told is None
    assert scene.standing == locked(LockReason.SWITCH)
    scene.ask(StandingMove.UNLOCK)
    assert scene.standing == ACTIVE


def test_each_move_is_on_record_once_with_before_and_after(scene: Scene) -> None:
    scene.ask(StandingMove.LOCK)
    scene.ask(StandingMove.UNLOCK)
    assert scene.audited()[-2:] == ["tenant.locked", "tenant.unlocked"]


def test_a_tenant_of_the_platforms_key_follows_nobody(field: Field) -> None:
    worker: Database = field.open("worker")
    a_provisioned_tenant(worker, TENANT)
    with worker.tenant_tx(TENANT) as tx:
        tx.tenants.move(Move.ACTIVATE)
    assert Scene(field).follow() == StandingResult(state=State.ACTIVE)


def test_the_release_after_a_breach_is_on_record_under_a_name_of_its_own(scene: Scene) -> None:
    with scene.worker.tenant_tx(TENANT) as tx:
        tx.tenants.lock()
        tx.tenants.hold(LockReason.BREACH)
        an_examination(tx, run="examination-9", at=datetime.now(UTC))
    scene.ask(StandingMove.CLEAR_BREACH)
    assert scene.audited()[-1] == "tenant.breach_cleared"


def test_an_attack_that_succeeded_is_on_record_under_a_name_of_its_own(scene: Scene) -> None:
    breach = CheckResult(clause="U2", name="use", outcome="breached", seconds=0.1, evidence="answered 200")
    examination = ExaminationActivities(
        scene.worker, scene.worker, [lambda _tenant: [breach]], cast("Any", SIGNER), lambda: datetime.now(UTC)
    )
    asked = ExamineInput(tenant_id=TENANT, operation_id="examination-7")
    ActivityEnvironment().run(examination.examine_tenant, asked)
    assert scene.audited()[-2:] == ["boundary.checked", "boundary.breached"]
