"""The model says what the code does: its moves are the product's, and its stories happen in a real database as told."""

import itertools
from collections.abc import Callable, Iterator
from random import Random

import pytest

from tenancy.lifecycle import TRANSITIONS, Move, State
from tests.database.fixtures import Field, field, server, template
from tests.model.explorer import walks
from tests.model.people import PEOPLE, moved
from tests.model.replaying import Replay
from tests.model.scopes import LONG, SHORT
from tests.model.state import Life, Rules, World, begin
from tests.model.tenants import successors

__all__ = ["field", "server", "template"]

LENGTH = 60
STORIES = {False: 4, True: 120}
"""Of each scope, in the short form and in the long one."""
REPLAYED = {
    **{name: SHORT[name] for name in ("standing", "root key changed, tenant key rotated", "two changes, a rotation")},
    **{name: SHORT[name] for name in ("two rotations, a change", "a rotation, with a worker that was given up")},
    "three versions": LONG["three versions"],
}

_MOVES = {
    "suspends": Move.SUSPEND,
    "resumes": Move.RESUME,
    "locks": Move.LOCK,
    "root key holds": Move.LOCK,
    "unlocks": Move.UNLOCK,
    "root key releases": Move.UNLOCK,
    "leaves": Move.LEAVE,
    "restores": Move.RESTORE,
    "offboards": Move.OFFBOARD,
}
_NOT_MODELLED = {State.REQUESTED, State.PROVISIONING, State.FAILED}
"""Before a tenant is active it has no service, and no key of one."""


def test_the_model_makes_every_move_of_the_lifecycle_and_no_other() -> None:
    made, seen = set(), {Life(begin(SHORT["standing"]).tenants[0].life.standing)}
    frontier = list(seen)
    while frontier:
        life = frontier.pop()
        for act in (*PEOPLE, "root key holds", "root key releases"):
            after = moved(Rules(), life, act)
            if after is None:
                continue
            if after.standing.state is not life.standing.state:
                made.add((life.standing.state, _MOVES[act], after.standing.state))
            if after not in seen:
                seen.add(after)
                frontier.append(after)
    listed = {
        (state, move, end) for (state, move), ends in TRANSITIONS.items() for end in ends if state not in _NOT_MODELLED
    }
    assert made == listed


@pytest.fixture
def replay(field: Field) -> Iterator[Callable[[], Replay]]:
    worker, operator, crypto = (field.open(role, max_size=1) for role in ("worker", "operator", "crypto"))
    with field.administrator() as listener:
        listener.execute("listen okcm_changed")
        yield lambda: Replay(worker, operator, crypto, listener)


@pytest.mark.parametrize("name", REPLAYED)
def test_stories_of_the_model_happen_in_the_database_as_told(
    replay: Callable[[], Replay], name: str, request: pytest.FixtureRequest
) -> None:
    scope = REPLAYED[name]
    long = request.config.getoption("--long")

    def hushed(world: World) -> Iterator[tuple[str, World]]:
        """What can happen next; what was announced was heard of, so that each announcement is seen."""
        mine, theirs = world.tenants
        quiet = world._replace(tenants=(mine._replace(unheard=False), theirs))
        yield from successors(scope, Rules())(quiet)

    stories = walks(begin(scope), hushed, Random(name), LENGTH)  # noqa: S311 - stories
    taken = set()
    for story in itertools.islice(stories, STORIES[long]):
        real, before = replay(), story.begin.tenants[0]
        real.begins(before)
        for number, (words, world) in enumerate(story.steps):
            mine, after = words.removeprefix("acme: "), world.tenants[0]
            taken.add(mine.split(",")[0])
            try:
                real.step(mine, before._replace(unheard=False), after, told=after.unheard)
            except AssertionError as broken:
                told = "\n".join(one for one, _ in story.steps[: number + 1])
                raise AssertionError(f"{broken}\nafter:\n{told}") from broken
            before = after
    assert len(taken) > 5
