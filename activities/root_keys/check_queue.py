"""The order of root key checks: by rank and due time, with a limit of concurrent checks for each lane.

A lane has the checks that the same key server delays. Without a limit, the checks at a silent server would take all
threads for its timeout, again and again, and the other servers would not be asked.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import islice
from typing import Generic, TypeVar

_SLOW_SECONDS = 0.5
"""A lane is slow when its last check took longer, or when as many run longer as a slow lane may run.

A single slow call, such as that of one customer's account, does not make a large lane slow.
"""


@dataclass(slots=True, eq=False)
class QueuedCheck:
    """A check that repeats; `CheckQueue` changes the fields. `due` is monotonic, rank 0 comes first."""

    rank: int = 0
    lane: str = ""
    due: float = 0.0
    number: int = 0
    """Its valid entry in the queue; 0 for none."""
    running_in: str | None = None
    """The lane in which it runs; its `lane` can change meanwhile."""


C = TypeVar("C", bound=QueuedCheck)


@dataclass(slots=True)
class _Lane(Generic[C]):
    running: dict[C, float] = field(default_factory=dict)
    """Running checks and their start, the oldest first."""
    took: float = 0.0
    parked: list[tuple[int, float, int, C]] = field(default_factory=list)
    """A heap of due checks without room, by rank and due time."""

    def is_slow(self, now: float, many: int) -> bool:
        began = next(islice(self.running.values(), many - 1, None), now)
        return max(self.took, now - began) > _SLOW_SECONDS


class CheckQueue(Generic[C]):
    """The due checks of one shard. The caller holds a lock: the queue has none."""

    def __init__(self, ranks: int, limit: int, slow_limit: int, fixed: Mapping[str, int]) -> None:
        """A lane runs `limit` checks at a time, or `slow_limit` while it is slow; those in `fixed` always that many."""
        self._ready: list[list[tuple[float, int, C]]] = [[] for _ in range(ranks)]
        self._limit = limit
        self._slow_limit = slow_limit
        self._fixed = fixed
        self._lanes: defaultdict[str, _Lane[C]] = defaultdict(_Lane)
        self._last_number = 0

    def schedule(self, check: C, due: float, rank: int, lane: str) -> None:
        """Set when a check is due, in place of its former time. A running one must be scheduled again at its end."""
        check.due, check.rank, check.lane = due, rank, lane
        if check.running_in is None:
            self._last_number += 1
            check.number = self._last_number
            heappush(self._ready[rank], (due, check.number, check))

    def cancel(self, check: C) -> None:
        """Remove a check that is not running."""
        check.number = 0

    def take(self, now: float) -> C | None:
        """Return a due check, which counts as running until `finish`; None if no due check has room in its lane."""
        for ready in self._ready:
            while ready and ready[0][0] <= now:
                due, number, check = heappop(ready)
                if number != check.number:
                    continue
                lane = self._lanes[check.lane]
                if self._room(check.lane, now) > 0:
                    lane.running[check] = now
                    check.number, check.running_in = 0, check.lane
                    return check
                heappush(lane.parked, (check.rank, due, number, check))
        return None

    def finish(self, check: C, now: float) -> None:
        """End a running check, which makes room in its lane."""
        name, check.running_in = check.running_in or "", None
        lane = self._lanes[name]
        lane.took = now - lane.running.pop(check)
        room = self._room(name, now)
        while lane.parked and room > 0:
            rank, due, number, parked = heappop(lane.parked)
            if number == parked.number:
                heappush(self._ready[rank], (due, number, parked))
                room -= 1

    def delay(self, now: float) -> float:
        """Return for how long the oldest due check has waited, in seconds; 0 if none is due.

        Checks without room in a lane of `fixed` do not count: they wait for servers that do not answer.
        """
        oldest = now
        for ready in self._ready:
            while ready and ready[0][1] != ready[0][2].number:
                heappop(ready)
            if ready:
                oldest = min(oldest, ready[0][0])
        for name, lane in self._lanes.items():
            if name not in self._fixed:
                oldest = min((due for _, due, number, check in lane.parked if number == check.number), default=oldest)
        return now - oldest

    def _room(self, name: str, now: float) -> int:
        lane = self._lanes[name]
        limit = self._fixed.get(name)
        if limit is None:
            limit = self._slow_limit if lane.is_slow(now, self._slow_limit) else self._limit
        return limit - len(lane.running)
