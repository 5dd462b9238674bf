from itertools import product

import pytest

from core.errors.tenants import InvalidTransition
from core.tenants.lifecycle import MEANING, TRANSITIONS, State, Transition, transition, transitions_from

LISTED = [(origin, move, end) for (origin, move), ends in TRANSITIONS.items() for end in ends]


def outcome(state: State, move: Transition, back_to: State | None) -> State | InvalidTransition:
    try:
        return transition(state, move, back_to)
    except InvalidTransition as refused:
        return refused


def test_each_transition_from_each_state_follows_the_table():
    for state, move, back_to in product(State, Transition, [None, *State]):
        ends = TRANSITIONS.get((state, move), ())
        found, case = outcome(state, move, back_to), (state, move, back_to)
        if back_to in ends:
            assert found is back_to, case
        elif back_to is None and len(ends) == 1:
            assert found is ends[0], case
        else:
            assert isinstance(found, InvalidTransition), case
        if not ends:
            assert found.message == f"a tenant that is {state} cannot {move.replace('_', ' ')}"
            assert all(possible.replace("_", " ") in found.hint for possible in transitions_from(state)), case


def test_the_table_cannot_be_changed():
    with pytest.raises(TypeError):
        TRANSITIONS[State.OFFBOARDED, Transition.RESTORE] = (State.ACTIVE,)


def reachable(steps: list[tuple[State, State]]) -> set[State]:
    reached = {State.REQUESTED}
    while more := {end for origin, end in steps if origin in reached} - reached:
        reached |= more
    return reached


def test_every_state_can_be_reached_and_only_offboarded_is_final():
    assert reachable([(origin, end) for origin, _, end in LISTED]) == set(State)
    assert [state for state in State if not transitions_from(state)] == [State.OFFBOARDED]


def test_a_tenant_becomes_active_for_the_first_time_only_by_provisioning():
    """No path leads from requested to active without the isolation checks of provisioning.

    A restore returns a tenant to a state in which it was before; tenant_returns_ready_check enforces that.
    """
    listed = [(origin, move, end) for origin, move, end in LISTED if move is not Transition.RESTORE]
    reached = reachable([(origin, end) for origin, move, end in listed if move is not Transition.ACTIVATE])
    assert reached == {State.REQUESTED, State.PROVISIONING, State.FAILED, State.LEAVING, State.OFFBOARDED}
    assert {origin for origin, _, end in listed if end is State.ACTIVE} & reached == {State.PROVISIONING}


def test_every_state_has_a_meaning():
    assert set(MEANING) == set(State)
    assert all(MEANING.values())
