"""The latest isolation checks of a tenant, by control."""

from dataclasses import dataclass
from datetime import datetime

from core.isolation import CheckResult, Outcome
from dashboard.components.formatting import count
from database.isolation import BoundaryRunRow
from openkcm.verification.isolation_controls import CLAUSES


@dataclass(frozen=True, slots=True)
class IsolationResult:
    """One control and its checks; `results` in the order of execution."""

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
    def passed(self) -> bool:
        """Whether no check of the control failed; also true of a control without a completed check."""
        return not self.breached

    def _ended(self, outcome: Outcome) -> int:
        return sum(result.outcome == outcome for result in self.results)


@dataclass(frozen=True, slots=True)
class Check:
    at: datetime
    controls: tuple[IsolationResult, ...]

    @property
    def attacks(self) -> int:
        """How many checks were completed."""
        return self.held + self.breached

    @property
    def held(self) -> int:
        return sum(control.held for control in self.controls)

    @property
    def breached(self) -> int:
        return sum(control.breached for control in self.controls)

    @property
    def not_checked(self) -> tuple[CheckResult, ...]:
        """The checks that were not completed, each with the reason in its evidence."""
        return tuple(
            result for control in self.controls for result in control.results if result.outcome == "not-checked"
        )

    @property
    def passed(self) -> bool:
        """Whether there were completed checks and all of them passed."""
        return 0 < self.attacks == self.held


def check(run: BoundaryRunRow | None) -> Check | None:
    """Return the newest run by control, None without a run."""
    if run is None:
        return None
    by_clause: dict[str, list[CheckResult]] = {}
    for result in run.results:
        by_clause.setdefault(result.clause, []).append(result)
    return Check(
        run.recorded_at,
        tuple(
            IsolationResult(clause, CLAUSES[clause].means if clause in CLAUSES else clause, tuple(by_clause[clause]))
            for clause in sorted(by_clause, key=_order)
        ),
    )


def _order(clause: str) -> tuple[int, str]:
    """Return the position of a control: in the order of the standard, then controls that it does not define."""
    known = list(CLAUSES)
    return (known.index(clause) if clause in known else len(known), clause)


def summary(control: IsolationResult) -> str:
    """Return how the checks of a control ended."""
    total = control.held + control.breached
    passed = count(total, "check") if not control.breached else f"{control.held} of {count(total, 'check')}"
    return ", ".join(
        filter(
            None,
            (f"{passed} passed" if total else "", f"{control.not_checked} not checked" if control.not_checked else ""),
        )
    )


def reasons(checked: Check) -> tuple[str, ...]:
    """Return why checks were not completed, each reason once, with its controls."""
    about: dict[str, list[str]] = {}
    for control in checked.controls:
        for result in control.results:
            if result.outcome == "not-checked" and control.clause not in about.setdefault(result.evidence, []):
                about[result.evidence].append(control.clause)
    return tuple(f"{', '.join(clauses)}: {why}" for why, clauses in about.items())


def attack(result: CheckResult) -> str:
    """Return the name of a check as words."""
    return result.name.replace("-", " ")
