"""What is wrong now: said when it begins, again while it lasts, and when it is over; the worst is for the heartbeat."""

from collections.abc import Callable

import structlog

from tenancy.agents import AgentProblem
from tenancy.errors import OpenKcmError

_AGAIN_SECONDS = 300.0

log = structlog.get_logger()


class Health:
    def __init__(self, elapsed: Callable[[], float]) -> None:
        self._elapsed = elapsed
        self._found: dict[AgentProblem, tuple[str, float]] = {}

    @property
    def worst(self) -> AgentProblem | None:
        return next((problem for problem in AgentProblem if problem in self._found), None)

    def found(self, problem: AgentProblem, detail: str, hint: str = "") -> None:
        """Note a problem. `detail` and `hint` are for people and hold no secret."""
        said, at = self._found.get(problem, ("", 0.0))
        now = self._elapsed()
        if said != detail or now - at >= _AGAIN_SECONDS:
            log.warning("agent has a problem", problem=problem.value, detail=detail, hint=hint)
            self._found[problem] = (detail, now)

    def failed(self, problem: AgentProblem, error: OpenKcmError) -> None:
        self.found(problem, error.message, error.hint)

    def mended(self, *problems: AgentProblem) -> None:
        for problem in problems:
            if self._found.pop(problem, None) is not None:
                log.info("problem is over", problem=problem.value)
