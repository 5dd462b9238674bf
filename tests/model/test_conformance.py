"""The model says what the code does: its moves are the product's, and its stories happen in a real database as told."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random

import pytest
from structlog.testing import capture_logs

from core.tenants.lifecycle import TRANSITIONS, State, Transition
from tests.database.fixtures import Field
from tests.model.explorer import Story, walks
from tests.model.people import PEOPLE, moved
from tests.model.replaying import Replay
from tests.model.scopes import LONG, SHORT
from tests.model.serving import Serving
from tests.model.state import Life, Rules, Scope, T, World, begin
from tests.model.tenants import successors

LENGTH = 60
STORIES = {False: 4, True: 40}
"""Of each scope, in the short form and in the long one."""
REPLAYED = {
    **{name: SHORT[name] for name in ("standing", "root key changed, tenant key rotated", "two changes, a rotation")},
    **{name: SHORT[name] for name in ("two rotations, a change", "a rotation, with a worker that was given up")},
    "three versions": LONG["three versions"],
}

_MOVES = {
    "suspends": Transition.SUSPEND,
    "resumes": Transition.RESUME,
    "locks": Transition.LOCK,
    "root key holds": Transition.LOCK,
    "unlocks": Transition.UNLOCK,
    "root key releases": Transition.UNLOCK,
    "leaves": Transition.LEAVE,
    "restores": Transition.RESTORE,
    "offboards": Transition.OFFBOARD,
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
    assert len(taken) > 3


SERVED = ("kill switch", "root key taken away", "served while keys rotate", "served while the root key changes")


@pytest.mark.parametrize("name", SERVED)
def test_stories_of_the_model_happen_in_the_crypto_service_as_told(name: str, request: pytest.FixtureRequest) -> None:
    scope, seed = replace(SHORT[name], links=False), Random(name)  # noqa: S311 - stories
    stories = walks(begin(scope), looking_in_time(scope), seed, 3 * LENGTH, is_of_a_request)
    ends: Counter[str] = Counter()
    with capture_logs():
        for story in itertools.islice(stories, STORIES[request.config.getoption("--long")] * 4):
            asyncio.run(serve(story, ends))
    assert ends["answers"] > 3


def is_of_a_request(words: str) -> bool:
    kinds = ("asked", "looks", "takes the key", "begins", "waits", "reads", "finds", "has the", "opens", "answers")
    return any(kind in words for kind in kinds)


def looking_in_time(scope: Scope) -> Callable[[World], Iterator[tuple[str, World]]]:
    """What can happen, where a caller of whom half of the time is over is looked at before anything else is asked.

    The code does that itself, at the first question. While it is young it is not looked at, whatever the record says.
    """

    def steps(world: World) -> Iterator[tuple[str, World]]:
        tenant = world.tenants[0]
        old = tenant.seen is None or tenant.seen[1] * 2 >= T
        for words, after in successors(scope, Rules())(world):
            looks = words.endswith(": looks at the caller")
            asks = any(part in words for part in (": is asked", ": answers", ": refuses"))
            if (looks and old) or (not looks and not (asks and old)):
                yield words, after

    return steps


async def serve(story: Story[World], ends: Counter[str]) -> None:
    before = story.begin.tenants[0]
    real = Serving(before)
    await real.begin()
    for number, (words, world) in enumerate(story.steps):
        mine, after = words.removeprefix("acme: "), world.tenants[0]
        failed = before.opening is not None and after.opening is None and not mine.startswith(("opens", "a tick"))
        ends[mine.split(",")[0]] += 1
        try:
            await real.step(mine, after, failed=failed)
        except AssertionError as broken:
            told = "\n".join(one for one, _ in story.steps[: number + 1])
            raise AssertionError(f"{broken}\nafter:\n{told}") from broken
        before = after
    await real.end()
