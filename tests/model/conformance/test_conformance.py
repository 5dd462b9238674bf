"""The model conforms to the code: its moves are the product's, and its stories replay in a real database."""

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
from tests.model.conformance.replaying import Replay
from tests.model.conformance.serving import Serving
from tests.model.explorer import Story, walks
from tests.model.people import PEOPLE, apply_move
from tests.model.scopes import LONG, SHORT
from tests.model.state import Life, Rules, Scope, T, World, begin
from tests.model.tenants import successors

LENGTH = 60
STORIES = {False: 4, True: 40}
"""The number of stories of each scope, in the short and in the long form."""
REPLAYED = {
    **{
        name: SHORT[name]
        for name in ("tenant status", "root key changed, tenant key rotated", "two changes, a rotation")
    },
    **{name: SHORT[name] for name in ("two rotations, a change", "a rotation, with an abandoned worker")},
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
"""Before a tenant is active it has neither a service nor a service key."""


def test_model_makes_exactly_the_moves_of_the_lifecycle() -> None:
    made, seen = set(), {Life(begin(SHORT["tenant status"]).tenants[0].life.lock_state)}
    frontier = list(seen)
    while frontier:
        life = frontier.pop()
        for act in (*PEOPLE, "root key holds", "root key releases"):
            after = apply_move(Rules(), life, act)
            if after is None:
                continue
            if after.lock_state.state is not life.lock_state.state:
                made.add((life.lock_state.state, _MOVES[act], after.lock_state.state))
            if after not in seen:
                seen.add(after)
                frontier.append(after)
    listed = {
        (state, move, end)
        for (state, move), ends in TRANSITIONS.items()
        for end in ends
        if not {state, end} & _NOT_MODELLED
    }
    assert made == listed


@pytest.fixture
def replay(field: Field) -> Iterator[Callable[[], Replay]]:
    worker, operator, crypto = (field.open(role, max_size=1) for role in ("worker", "operator", "crypto"))
    with field.administrator() as administrator:
        yield lambda: Replay(worker, operator, crypto, administrator)


@pytest.mark.parametrize("name", REPLAYED)
def test_stories_replay_in_the_database(
    replay: Callable[[], Replay], name: str, request: pytest.FixtureRequest
) -> None:
    scope = REPLAYED[name]
    long = request.config.getoption("--long")

    def notified_steps(world: World) -> Iterator[tuple[str, World]]:
        """Yield the possible steps; each notification is delivered immediately, so that every one is visible."""
        mine, theirs = world.tenants
        quiet = world._replace(tenants=(mine._replace(unnotified=False), theirs))
        yield from successors(scope, Rules())(quiet)

    stories = walks(begin(scope), notified_steps, Random(name), LENGTH)  # noqa: S311 - stories
    taken = set()
    for story in itertools.islice(stories, STORIES[long]):
        real, before = replay(), story.begin.tenants[0]
        real.set_root_key(before)
        for number, (words, world) in enumerate(story.steps):
            mine, after = words.removeprefix("acme: "), world.tenants[0]
            taken.add(mine.split(",")[0])
            try:
                real.step(mine, before._replace(unnotified=False), after, notified=after.unnotified)
            except AssertionError as broken:
                so_far = "\n".join(one for one, _ in story.steps[: number + 1])
                raise AssertionError(f"{broken}\nafter:\n{so_far}") from broken
            before = after
    assert len(taken) > 3


SERVED = ("manual lock", "root key disabled", "served while keys rotate", "served while the root key changes")


@pytest.mark.parametrize("name", SERVED)
def test_stories_replay_in_the_crypto_service(name: str, request: pytest.FixtureRequest) -> None:
    scope, seed = replace(SHORT[name], links=False), Random(name)  # noqa: S311 - stories
    stories = walks(begin(scope), refreshing_in_time(scope), seed, 3 * LENGTH, is_of_a_request)
    ends: Counter[str] = Counter()
    with capture_logs():
        for story in itertools.islice(stories, STORIES[request.config.getoption("--long")] * 4):
            asyncio.run(serve(story, ends))
    assert ends["answers"] > 3


def is_of_a_request(words: str) -> bool:
    kinds = (
        "asked",
        "refreshes",
        "takes the key",
        "begins",
        "waits",
        "reads",
        "finds",
        "has the",
        "unwraps",
        "answers",
    )
    return any(kind in words for kind in kinds)


def refreshing_in_time(scope: Scope) -> Callable[[World], Iterator[tuple[str, World]]]:
    """Yield the possible steps; a caller after half of its cache time is refreshed before any other request.

    The code does that automatically at the first request. A younger entry is not refreshed, even after a change.
    """

    def steps(world: World) -> Iterator[tuple[str, World]]:
        tenant = world.tenants[0]
        outdated = tenant.seen is None or tenant.seen[1] * 2 >= T
        for words, after in successors(scope, Rules())(world):
            looks = words.endswith(": refreshes the caller")
            asks = any(part in words for part in (": is asked", ": answers", ": rejects"))
            if (looks and outdated) or (not looks and not (asks and outdated)):
                yield words, after

    return steps


async def serve(story: Story[World], ends: Counter[str]) -> None:
    before = story.begin.tenants[0]
    real = Serving(before)
    await real.begin()
    for number, (words, world) in enumerate(story.steps):
        mine, after = words.removeprefix("acme: "), world.tenants[0]
        failed = before.unwrap is not None and after.unwrap is None and not mine.startswith(("unwraps", "a tick"))
        ends[mine.split(",")[0]] += 1
        try:
            await real.step(mine, after, failed=failed)
        except AssertionError as broken:
            so_far = "\n".join(one for one, _ in story.steps[: number + 1])
            raise AssertionError(f"{broken}\nafter:\n{so_far}") from broken
        before = after
    await real.end()
