"""Exhaustive search: every state that can be reached, breadth first, so that the first breach has a shortest story.

A model is told by three things: where it begins, what can happen in a state, and what must never be. Nothing here knows
of tenants or keys.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Generic, TypeVar

State = TypeVar("State", bound=Hashable)
Successors = Callable[[State], Iterable[tuple[str, State]]]
"""What can happen: in words, and the state afterwards."""
_COMMON = 0.75
Breach = Callable[[State, str, State], str | None]
"""The name of what is broken by a step from one state to another, or None."""


@dataclass(frozen=True)
class Story(Generic[State]):
    """How a state is reached: what happened, and the state after each step."""

    begin: State
    steps: Sequence[tuple[str, State]]

    def __str__(self) -> str:
        return "\n".join(f"{number:3}. {words}" for number, (words, _) in enumerate(self.steps, start=1))


@dataclass(frozen=True)
class Found(Generic[State]):
    """What a search has seen; `broken` names what must never be, and `story` is how it came to that."""

    states: int
    steps: int
    broken: str | None = None
    story: Story[State] | None = None

    def __str__(self) -> str:
        seen = f"{self.states:,} states, {self.steps:,} steps"
        return seen if self.broken is None else f"{seen}\nbroken: {self.broken}\n{self.story}"


def explore(begin: State, successors: Successors[State], breach: Breach[State], most: int) -> Found[State]:
    """Visit every state; raises OverflowError where there are more than `most`, for then nothing is shown."""
    came: dict[State, tuple[State, str] | None] = {begin: None}
    frontier, steps = deque([begin]), 0
    while frontier:
        state = frontier.popleft()
        for words, after in successors(state):
            steps += 1
            broken = breach(state, words, after)
            if broken is not None:
                return Found(len(came), steps, broken, _story(came, state, words, after))
            if after not in came:
                came[after] = (state, words)
                frontier.append(after)
        if len(came) > most:
            raise OverflowError(f"more than {most} states")
    return Found(len(came), steps)


def walks(
    begin: State,
    successors: Successors[State],
    random: Random,
    length: int,
    is_common: Callable[[str], bool] = lambda _words: False,
) -> Iterator[Story[State]]:
    """Yield random stories without end, each as long as it can become up to `length`.

    What can happen next is chosen by its words and then among those, so that what has many variants does not crowd out
    what has one. Three times out of four it is something common, where there is any.
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


def _story(came: dict[State, tuple[State, str] | None], state: State, words: str, after: State) -> Story[State]:
    steps, at = [(words, after)], state
    while (before := came[at]) is not None:
        steps.append((before[1], at))
        at = before[0]
    return Story(at, steps[::-1])
