import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenancy.errors import IllegalMove
from tenancy.lifecycle import MEANING, TRANSITIONS, Move, State, advance, moves_from

LISTED = [(origin, move, end) for (origin, move), ends in TRANSITIONS.items() for end in ends]
UNLISTED = [(state, move) for state in State for move in Move if (state, move) not in TRANSITIONS]


@pytest.mark.parametrize(("origin", "move", "end"), LISTED)
def test_a_listed_move_leads_to_each_of_its_ends_when_named(origin, move, end):
    assert advance(origin, move, back_to=end) is end


@pytest.mark.parametrize(("origin", "move"), [key for key, ends in TRANSITIONS.items() if len(ends) == 1])
def test_a_move_with_one_end_needs_no_name(origin, move):
    assert advance(origin, move) is TRANSITIONS[origin, move][0]


@pytest.mark.parametrize(("origin", "move"), [key for key, ends in TRANSITIONS.items() if len(ends) > 1])
def test_a_way_back_must_say_where_to(origin, move):
    with pytest.raises(IllegalMove):
        advance(origin, move)


@pytest.mark.parametrize(("state", "move"), UNLISTED)
@pytest.mark.parametrize("back_to", [None, *State])
def test_an_unlisted_move_is_refused_and_says_what_is_possible(state, move, back_to):
    with pytest.raises(IllegalMove) as refused:
        advance(state, move, back_to)
    assert refused.value.message == f"a tenant that is {state} cannot {move}"
    assert all(possible in refused.value.hint for possible in moves_from(state))


@pytest.mark.parametrize(("origin", "move"), TRANSITIONS)
def test_a_listed_move_cannot_end_elsewhere(origin, move):
    for elsewhere in set(State) - set(TRANSITIONS[origin, move]):
        with pytest.raises(IllegalMove):
            advance(origin, move, back_to=elsewhere)


def test_the_table_cannot_be_changed_by_anybody():
    with pytest.raises(TypeError):
        TRANSITIONS[State.OFFBOARDED, Move.RESTORE] = (State.ACTIVE,)


def test_every_state_can_be_reached():
    reached = {State.REQUESTED}
    while more := {end for origin, _, end in LISTED if origin in reached} - reached:
        reached |= more
    assert reached == set(State)


def test_only_offboarded_is_final():
    assert [state for state in State if not moves_from(state)] == [State.OFFBOARDED]


def test_a_tenant_becomes_active_for_the_first_time_only_by_provisioning():
    """From requested, active cannot be reached without passing the boundary checks of provisioning."""
    origins = {origin for origin, _, end in LISTED if end is State.ACTIVE}
    reached = {State.REQUESTED}
    without = [(origin, end) for origin, move, end in LISTED if move is not Move.ACTIVATE]
    while more := {end for origin, end in without if origin in reached} - reached:
        reached |= more
    assert reached == {State.REQUESTED, State.PROVISIONING, State.FAILED}
    assert origins & reached == {State.PROVISIONING}


@given(st.lists(st.tuples(st.sampled_from(Move), st.none() | st.sampled_from(State)), max_size=40))
def test_any_walk_stays_within_the_table(walk):
    state = State.REQUESTED
    for move, back_to in walk:
        try:
            after = advance(state, move, back_to)
        except IllegalMove:
            continue
        assert (state, move, after) in LISTED
        state = after


def test_every_state_says_what_it_means():
    assert set(MEANING) == set(State)
    assert all(MEANING.values())
