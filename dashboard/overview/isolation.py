"""The last boundary check of a tenant: which walls were attacked, and that they held."""

from dataclasses import dataclass
from datetime import datetime

from core.isolation import CheckResult, Outcome
from database.isolation import BoundaryRunRow
from openkcm.verification.isolation_controls import CLAUSES


@dataclass(frozen=True, slots=True)
class IsolationResult:
    """One clause and the attacks on it; `results` in the order in which they were made."""

    clause: str
    meaning: str
    results: tuple[CheckResult, ...]

    @property
    def held(self) -> int:
        return self._ended("held")

    @property
    def breached(self) -> int:
        return self._ended("breached")

    @property
    def not_checked(self) -> int:
        return self._ended("not-checked")

    @property
    def stands(self) -> bool:
        """Whether no attack on it succeeded; of one that was not attacked at all nothing is known."""
        return not self.breached

    def _ended(self, outcome: Outcome) -> int:
        return sum(result.outcome == outcome for result in self.results)


@dataclass(frozen=True, slots=True)
class Check:
    at: datetime
    walls: tuple[IsolationResult, ...]

    @property
    def attacks(self) -> int:
        """How many attacks were made."""
        return self.held + self.breached

    @property
    def held(self) -> int:
        return sum(wall.held for wall in self.walls)

    @property
    def breached(self) -> int:
        return sum(wall.breached for wall in self.walls)

    @property
    def not_checked(self) -> tuple[CheckResult, ...]:
        """The attacks that could not be made, each with the reason in its evidence."""
        return tuple(result for wall in self.walls for result in wall.results if result.outcome == "not-checked")

    @property
    def passed(self) -> bool:
        """Whether there were attacks and none of them succeeded."""
        return 0 < self.attacks == self.held


def check(run: BoundaryRunRow | None) -> Check | None:
    """Return the newest run by clause, None when there was none."""
    if run is None:
        return None
    by_clause: dict[str, list[CheckResult]] = {}
    for result in run.results:
        by_clause.setdefault(result.clause, []).append(result)
    return Check(
        run.recorded_at,
        tuple(
            IsolationResult(clause, CLAUSES[clause].means if clause in CLAUSES else clause, tuple(by_clause[clause]))
            for clause in sorted(by_clause, key=_place)
        ),
    )


def _place(clause: str) -> tuple[int, str]:
    """Return where a clause stands: in the standard's order, and then what the standard does not know."""
    known = list(CLAUSES)
    return (known.index(clause) if clause in known else len(known), clause)


def told(wall: IsolationResult) -> str:
    """Return how the attacks on a wall ended, in words."""
    refused = f"{wall.held} of {wall.held + wall.breached} refused" if wall.held + wall.breached else ""
    return ", ".join(filter(None, (refused, f"{wall.not_checked} not checked" if wall.not_checked else "")))


def reasons(checked: Check) -> tuple[str, ...]:
    """Return why attacks could not be made, each reason once, with the clauses that it is about."""
    about: dict[str, list[str]] = {}
    for wall in checked.walls:
        for result in wall.results:
            if result.outcome == "not-checked" and wall.clause not in about.setdefault(result.evidence, []):
                about[result.evidence].append(wall.clause)
    return tuple(f"{', '.join(clauses)}: {why}" for why, clauses in about.items())


def attack(result: CheckResult) -> str:
    """Return the name of an attack as words."""
    return result.name.replace("-", " ")
