"""Exhaustive breadth-first search of all reachable states, so that the first breach has a shortest story.

A model consists of an initial state, the steps that are possible in a state, and the forbidden steps. This module knows
nothing of tenants or keys.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Generic, TypeVar

State = TypeVar("State", bound=Hashable)
Successors = Callable[[State], Iterable[tuple[str, State]]]
"""The possible steps of a state: a description, and the state afterwards."""
_COMMON = 0.75
Breach = Callable[[State, str, State], str | None]
"""The name of the invariant that a step from one state to another breaks, or None."""


@dataclass(frozen=True)
class Story(Generic[State]):
    """How a state is reached: the steps, and the state after each."""

    begin: State
    steps: Sequence[tuple[str, State]]

    def __str__(self) -> str:
        return "\n".join(f"{number:3}. {words}" for number, (words, _) in enumerate(self.steps, start=1))


@dataclass(frozen=True)
class Found(Generic[State]):
    """The result of a search; `broken` names the broken invariant, and `story` leads to it."""

    states: int
    steps: int
    broken: str | None = None
    story: Story[State] | None = None

    def __str__(self) -> str:
        seen = f"{self.states:,} states, {self.steps:,} steps"
        return seen if self.broken is None else f"{seen}\nbroken: {self.broken}\n{self.story}"


def explore(begin: State, successors: Successors[State], breach: Breach[State], most: int) -> Found[State]:
    """Visit every state; raise OverflowError above `most` states, because an incomplete search proves nothing."""
    reached_from: dict[State, tuple[State, str] | None] = {begin: None}
    frontier, steps = deque([begin]), 0
    while frontier:
        state = frontier.popleft()
        for words, after in successors(state):
            steps += 1
            broken = breach(state, words, after)
            if broken is not None:
                return Found(len(reached_from), steps, broken, _story(reached_from, state, words, after))
            if after not in reached_from:
                reached_from[after] = (state, words)
                frontier.append(after)
        if len(reached_from) > most:
            raise OverflowError(f"more than {most} states")
    return Found(len(reached_from), steps)


def walks(
    begin: State,
    successors: Successors[State],
    random: Random,
    length: int,
    is_common: Callable[[str], bool] = lambda _words: False,
) -> Iterator[Story[State]]:
    """Yield random stories without end, each as long as possible up to `length`.

    A kind of step is chosen first and then a variant of it, so that kinds with many variants are not preferred. Three
    times out of four a common kind is chosen, if one is possible.
    """
    while True:
        steps: list[tuple[str, State]] = []
        while len(steps) < length:
            state = steps[-1][1] if steps else begin
            kinds: dict[str, list[tuple[str, State]]] = {}
            for words, after in successors(state):
                kinds.setdefault(words.rstrip("0123456789"), []).append((words, after))
            if not kinds:
                break
            common = [kind for kind in sorted(kinds) if is_common(kind)] if random.random() < _COMMON else []
            steps.append(random.choice(kinds[random.choice(common or sorted(kinds))]))
        yield Story(begin, steps)


def _story(reached_from: dict[State, tuple[State, str] | None], state: State, words: str, after: State) -> Story[State]:
    steps, at = [(words, after)], state
    while (before := reached_from[at]) is not None:
        steps.append((before[1], at))
        at = before[0]
    return Story(at, steps[::-1])
