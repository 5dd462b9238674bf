"""Evidence of boundary checks on record; part of `interfaces`, which hands it out. Imports no psycopg."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from tenancy.boundaries import CheckResult
from tenancy.examination import SignedClause


@dataclass(frozen=True, slots=True)
class BoundaryRunRow:
    """One run of the boundary checks; a repeated gate is a run of its own."""

    recorded_at: datetime
    results: tuple[CheckResult, ...]


@dataclass(frozen=True, slots=True)
class ExaminationRow:
    """One full examination: its signed lines in the order of their clauses' ids."""

    run: str
    examined_at: datetime
    lines: tuple[SignedClause, ...]

    @property
    def held(self) -> int:
        return sum(line.held for line in self.lines)

    @property
    def breached(self) -> int:
        return sum(line.breached for line in self.lines)

    @property
    def not_checked(self) -> int:
        return sum(line.not_checked for line in self.lines)

    @property
    def passed(self) -> bool:
        """Whether there were attacks and none of them succeeded."""
        return self.held > 0 and not self.breached


@dataclass(frozen=True, slots=True)
class TroubledExamination:
    """A tenant whose walls need somebody: `why` is `breached` (found at `since`) or `late` (due since then)."""

    tenant_id: str
    region: str
    why: str
    since: datetime


class Boundaries(Protocol):
    def record(self, operation_id: str, results: Sequence[CheckResult]) -> None:
        """Record a run of the gate, which is not signed."""
        ...

    def record_examination(self, lines: Sequence[SignedClause], results: Sequence[CheckResult]) -> None:
        """Record an examination whole; the same run again raises DatabaseRefused."""
        ...

    def trim(self) -> None:
        """Take away what of older examinations is kept no longer."""
        ...

    def latest(self) -> Sequence[CheckResult]:
        """Return the results of the newest run in the order they were recorded."""
        ...

    def latest_run(self) -> BoundaryRunRow | None:
        """Return the newest run, of the gate or of an examination, with its time; None before the first."""
        ...

    def examination(self, run: str | None = None) -> ExaminationRow | None:
        """Return the newest examination, or the one of that name; None where there is none."""
        ...

    def results_of(self, run: str) -> Sequence[CheckResult]:
        """Return the attacks of an examination in the order they were made; none once they are kept no longer."""
        ...
