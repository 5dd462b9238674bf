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
    return set(kind.__subclasses__()).union(*(every_failure(below) for below in kind.__subclasses__()))


class Locks(RuleBasedStateMachine):
    """Locks come and go in any order; the tenant opens as it was when the last is gone, and never before."""

    def __init__(self) -> None:
        super().__init__()
        self.before = State.ACTIVE
        self.standing = LockState(State.ACTIVE)
        self.reasons: set[LockReason] = set()

    @rule(reason=st.sampled_from(LockReason))
    def a_reason_comes(self, reason: LockReason) -> None:
        self.standing = add_lock(self.standing, reason)
        self.reasons.add(reason)

    @rule(reason=st.sampled_from(LockReason))
    def a_reason_goes(self, reason: LockReason) -> None:
        if self.standing.state is not State.LOCKED:
            with pytest.raises(InvalidTransition):
                remove_lock(self.standing, reason)
            return
        self.standing = remove_lock(self.standing, reason)
        self.reasons.discard(reason)

    @rule(state=st.sampled_from([State.ACTIVE, State.SUSPENDED]))
    def somebody_suspends_or_resumes(self, state: State) -> None:
        if self.standing.state is not State.LOCKED:
            self.before = state
            self.standing = LockState(state)

    @invariant()
    def it_is_locked_exactly_while_there_is_a_reason(self) -> None:
        assert self.standing.locks == self.reasons
        assert self.standing.state is (State.LOCKED if self.reasons else self.before)
        assert self.standing.unlocks_to is (self.before if self.reasons else None)


TestLocks = Locks.TestCase
TestLocks.settings = settings(max_examples=25, stateful_step_count=30)


@pytest.mark.parametrize("state", [State.REQUESTED, State.PROVISIONING, State.FAILED, State.LEAVING, State.OFFBOARDED])
def test_what_is_not_in_use_is_not_locked(state: State) -> None:
    with pytest.raises(InvalidTransition):
        add_lock(LockState(state), LockReason.ROOT_KEY)


def test_a_reason_that_never_held_opens_nothing() -> None:
    locked = add_lock(LockState(State.ACTIVE), LockReason.SWITCH)
    assert remove_lock(locked, LockReason.ROOT_KEY) == locked


@pytest.mark.parametrize(
    "failure", sorted(every_failure(), key=lambda failure: failure.code), ids=lambda kind: kind.code
)
def test_what_was_taken_away_locks_at_once_and_what_is_out_of_reach_after_the_grace(
    failure: type[CustomerKeyError],
) -> None:
    assert (failure.code in OUT_OF_REACH) == failure.retryable
    assert requires_lock(failure.code, 0, 60) == (not failure.retryable)
    assert requires_lock(failure.code, 60.1, 60)


def test_a_healthy_key_never_locks() -> None:
    assert not requires_lock(HEALTHY, 1e9, 0)
    assert {RootKeyTimeout.code, RootKeyUnreachable.code} <= OUT_OF_REACH
    assert RootKeyDisabled.code not in OUT_OF_REACH


def test_the_root_key_is_changed_where_nothing_but_it_locks() -> None:
    root_key, switch = LockReason.ROOT_KEY, LockReason.SWITCH
    assert may_change_root_key(State.ACTIVE, ())
    assert may_change_root_key(State.SUSPENDED, ())
    assert may_change_root_key(State.LOCKED, [root_key])
    assert not may_change_root_key(State.LOCKED, [root_key, switch])
    assert not may_change_root_key(State.LOCKED, [switch])
    assert not may_change_root_key(State.LOCKED, [])
    assert not may_change_root_key(State.LEAVING, ())


def test_a_lock_from_before_there_were_reasons_opens() -> None:
    assert remove_lock(LockState(State.LOCKED), LockReason.SWITCH) == LockState(State.ACTIVE)


def test_a_code_nobody_knows_locks() -> None:
    assert requires_lock("something_new", 0, 60)
