import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from core.errors.keys import CustomerKeyError, RootKeyDisabled, RootKeyTimeout, RootKeyUnreachable
from core.errors.tenants import InvalidTransition
from core.tenants.lifecycle import State
from core.tenants.locks import (
    HEALTHY,
    OUT_OF_REACH,
    LockReason,
    LockState,
    add_lock,
    may_change_root_key,
    remove_lock,
    requires_lock,
)


def every_failure(kind: type[CustomerKeyError] = CustomerKeyError) -> set[type[CustomerKeyError]]:
    return set(kind.__subclasses__()).union(*(every_failure(subclass) for subclass in kind.__subclasses__()))


class Locks(RuleBasedStateMachine):
    """Locks are added and removed in any order; the tenant returns to its former state when the last is removed."""

    def __init__(self) -> None:
        super().__init__()
        self.before = State.ACTIVE
        self.current = LockState(State.ACTIVE)
        self.reasons: set[LockReason] = set()

    @rule(reason=st.sampled_from(LockReason))
    def add_reason(self, reason: LockReason) -> None:
        self.current = add_lock(self.current, reason)
        self.reasons.add(reason)

    @rule(reason=st.sampled_from(LockReason))
    def remove_reason(self, reason: LockReason) -> None:
        if self.current.state is not State.LOCKED:
            with pytest.raises(InvalidTransition):
                remove_lock(self.current, reason)
            return
        self.current = remove_lock(self.current, reason)
        self.reasons.discard(reason)

    @rule(state=st.sampled_from([State.ACTIVE, State.SUSPENDED]))
    def suspend_or_resume(self, state: State) -> None:
        if self.current.state is not State.LOCKED:
            self.before = state
            self.current = LockState(state)

    @invariant()
    def locked_exactly_with_a_reason(self) -> None:
        assert self.current.locks == self.reasons
        assert self.current.state is (State.LOCKED if self.reasons else self.before)
        assert self.current.unlocks_to is (self.before if self.reasons else None)


TestLocks = Locks.TestCase
TestLocks.settings = settings(max_examples=25, stateful_step_count=30)


@pytest.mark.parametrize("state", [State.REQUESTED, State.PROVISIONING, State.FAILED, State.LEAVING, State.OFFBOARDED])
def test_unused_tenant_cannot_be_locked(state: State) -> None:
    with pytest.raises(InvalidTransition):
        add_lock(LockState(state), LockReason.ROOT_KEY)


def test_removal_of_another_reason_does_not_unlock() -> None:
    locked = add_lock(LockState(State.ACTIVE), LockReason.MANUAL)
    assert remove_lock(locked, LockReason.ROOT_KEY) == locked


@pytest.mark.parametrize(
    "failure", sorted(every_failure(), key=lambda failure: failure.code), ids=lambda kind: kind.code
)
def test_revoked_key_locks_at_once_and_unreachable_key_after_the_grace_period(
    failure: type[CustomerKeyError],
) -> None:
    assert (failure.code in OUT_OF_REACH) == failure.retryable
    assert requires_lock(failure.code, 0, 60) == (not failure.retryable)
    assert requires_lock(failure.code, 60.1, 60)


def test_healthy_key_never_locks() -> None:
    assert not requires_lock(HEALTHY, 1e9, 0)
    assert {RootKeyTimeout.code, RootKeyUnreachable.code} <= OUT_OF_REACH
    assert RootKeyDisabled.code not in OUT_OF_REACH


def test_root_key_may_change_if_no_other_reason_locks() -> None:
    root_key, switch = LockReason.ROOT_KEY, LockReason.MANUAL
    assert may_change_root_key(State.ACTIVE, ())
    assert may_change_root_key(State.SUSPENDED, ())
    assert may_change_root_key(State.LOCKED, [root_key])
    assert not may_change_root_key(State.LOCKED, [root_key, switch])
    assert not may_change_root_key(State.LOCKED, [switch])
    assert not may_change_root_key(State.LOCKED, [])
    assert not may_change_root_key(State.LEAVING, ())


def test_lock_without_reasons_can_be_removed() -> None:
    assert remove_lock(LockState(State.LOCKED), LockReason.MANUAL) == LockState(State.ACTIVE)


def test_unknown_code_locks() -> None:
    assert requires_lock("something_new", 0, 60)
