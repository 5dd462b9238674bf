"""Suspend, lock and unlock on a real database; the tenant state after changes of the root key's health."""

from datetime import UTC, datetime, timedelta

import pytest
from temporalio.testing import ActivityEnvironment

from activities.notifications import NotificationOutbox
from activities.tenants import TenantStatusActivities
from core.errors.keys import RootKeyDisabled, RootKeyUnreachable
from core.errors.tenants import InvalidTransition, OperationRepeated
from core.messages.base import StepInput
from core.messages.tenants import StatusChange, StatusChangeInput, StatusChangeResult
from core.notifications import Channel, NotificationKind
from core.tenants.lifecycle import State, Transition
from core.tenants.locks import HEALTHY, LockReason
from tests.activities.recorded import LockCopies, Recorded
from tests.database.builders import a_connected_service, a_provisioned_tenant, a_root_key
from tests.database.fixtures import Field

TENANT = "acme"
GRACE = 60.0


class Scene(Recorded):
    def __init__(self, field: Field) -> None:
        self.worker = field.open("worker")
        super().__init__(self.worker, TENANT)
        self.later = timedelta()
        announcer = NotificationOutbox((Channel.EMAIL,), "https://cmk.example")
        self.copies = LockCopies()
        self.activities = TenantStatusActivities(
            self.worker, announcer, self.copies, GRACE, lambda: datetime.now(UTC) + self.later
        )
        self._steps = 0

    def _step(self) -> StepInput:
        self._steps += 1
        return StepInput(tenant_id=TENANT, operation_id=f"standing-{self._steps}")

    def ask(self, move: StatusChange) -> StatusChangeResult:
        return self.attempt(self.request(move))

    def request(self, move: StatusChange) -> StatusChangeInput:
        return StatusChangeInput(**self._step().model_dump(), move=move)

    def attempt(self, step: StatusChangeInput) -> StatusChangeResult:
        return ActivityEnvironment().run(self.activities.change_standing, step)

    def follow(self) -> StatusChangeResult:
        return ActivityEnvironment().run(self.activities.follow_root_key, self._step())

    def root_key_is(self, health: str) -> None:
        key = self.get(lambda tx: tx.root_keys.current())
        self.read(lambda tx: tx.root_keys.report(key.root_key_id, health))

    @property
    def standing(self) -> tuple[State, set[LockReason]]:
        return self.tenant_row.state, set(self.tenant_row.locks)

    def audited(self) -> list[str]:
        return [record["name"] for record in self.records()]


@pytest.fixture
def active(field: Field) -> Field:
    """Return a database with an active tenant."""
    a_provisioned_tenant(field.open("worker"), TENANT)
    with field.open("worker").tenant_tx(TENANT) as tx:
        tx.tenants.move(Transition.ACTIVATE)
    return field


@pytest.fixture
def scene(active: Field) -> Scene:
    """Return the tenant with a service and a customer root key."""
    a_connected_service(active, TENANT)
    a_root_key(active, TENANT)
    return Scene(active)


@pytest.mark.parametrize("move", StatusChange)
def test_provisioning_tenant_rejects_every_status_change(field, move):
    a_provisioned_tenant(field.open("worker"), TENANT)
    provisioning = Scene(field)
    before = provisioning.audited()
    with pytest.raises(InvalidTransition):
        provisioning.ask(move)
    assert provisioning.standing == (State.PROVISIONING, set())
    assert provisioning.audited() == before


ACTIVE, SUSPENDED = (State.ACTIVE, set[LockReason]()), (State.SUSPENDED, set[LockReason]())


def locked(*reasons: LockReason) -> tuple[State, set[LockReason]]:
    return State.LOCKED, set(reasons)


def test_suspend_and_resume_are_idempotent(scene: Scene) -> None:
    for _ in range(2):
        assert scene.ask(StatusChange.SUSPEND).state is State.SUSPENDED
    for _ in range(2):
        assert scene.ask(StatusChange.RESUME).notification is None
    assert scene.standing == ACTIVE


def test_unlock_restores_the_state_before_the_lock(scene: Scene) -> None:
    scene.ask(StatusChange.SUSPEND)
    for _ in range(2):
        scene.ask(StatusChange.LOCK)
    assert scene.standing == locked(LockReason.MANUAL)
    with pytest.raises(InvalidTransition):
        scene.ask(StatusChange.RESUME)
    for _ in range(2):
        scene.ask(StatusChange.UNLOCK)
    assert scene.standing == SUSPENDED
    assert {"tenant.locked", "tenant.unlocked"} <= set(scene.audited())


@pytest.mark.parametrize(
    ("before", "late", "after"),
    [
        (StatusChange.LOCK, StatusChange.UNLOCK, StatusChange.LOCK),
        (StatusChange.SUSPEND, StatusChange.RESUME, StatusChange.SUSPEND),
        (StatusChange.RESUME, StatusChange.SUSPEND, StatusChange.RESUME),
    ],
)
def test_late_attempt_of_a_status_change_does_not_revoke_a_later_one(scene: Scene, before, late, after) -> None:
    """A worker that was suspended in the activity continues after the request was completed by another attempt."""
    scene.ask(before)
    change = scene.request(late)
    for _ in range(2):
        scene.attempt(change)
    scene.ask(after)
    state, recorded = scene.standing, scene.audited()
    with pytest.raises(OperationRepeated):
        scene.attempt(change)
    assert (scene.standing, scene.audited()) == (state, recorded)


def test_repeated_lock_is_applied_and_recorded_again(scene: Scene) -> None:
    lock = scene.request(StatusChange.LOCK)
    scene.attempt(lock)
    scene.ask(StatusChange.UNLOCK)
    recorded = scene.audited()
    assert scene.attempt(lock).notification is NotificationKind.LOCKED
    assert scene.standing == locked(LockReason.MANUAL)
    assert scene.audited() == [*recorded, "tenant.locked"]


def test_disabled_root_key_locks_at_once_and_an_enabled_one_unlocks(scene: Scene) -> None:
    scene.root_key_is(RootKeyDisabled.code)
    assert scene.follow() == StatusChangeResult(state=State.LOCKED, notification=NotificationKind.LOCKED)
    assert scene.standing == locked(LockReason.ROOT_KEY)
    assert scene.follow() == StatusChangeResult(state=State.LOCKED)
    scene.root_key_is(HEALTHY)
    assert scene.follow() == StatusChangeResult(state=State.ACTIVE, notification=NotificationKind.UNLOCKED)
    assert scene.standing == ACTIVE


def test_unreachable_root_key_is_notified_and_locks_after_the_grace_period(scene: Scene) -> None:
    scene.root_key_is(RootKeyUnreachable.code)
    assert scene.follow() == StatusChangeResult(state=State.ACTIVE, notification=NotificationKind.ROOT_KEY_WARNING)
    scene.later = timedelta(seconds=GRACE - 5)
    assert scene.follow().state is State.ACTIVE
    scene.later = timedelta(seconds=GRACE + 1)
    assert scene.follow().notification is NotificationKind.LOCKED
    assert scene.standing == locked(LockReason.ROOT_KEY)


def test_each_lock_is_released_separately(scene: Scene) -> None:
    scene.root_key_is(RootKeyDisabled.code)
    scene.follow()
    scene.ask(StatusChange.LOCK)
    assert scene.standing == locked(LockReason.ROOT_KEY, LockReason.MANUAL)
    scene.ask(StatusChange.UNLOCK)
    assert scene.standing == locked(LockReason.ROOT_KEY)
    scene.ask(StatusChange.LOCK)
    scene.root_key_is(HEALTHY)
    assert scene.follow().notification is None
    assert scene.standing == locked(LockReason.MANUAL)
    scene.ask(StatusChange.UNLOCK)
    assert scene.standing == ACTIVE


def test_tenant_under_the_platforms_root_key_is_not_locked(active: Field) -> None:
    assert Scene(active).follow() == StatusChangeResult(state=State.ACTIVE)
