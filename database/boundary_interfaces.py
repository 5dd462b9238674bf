"""Evidence of boundary checks on record; part of `interfaces`, which hands it out. Imports no psycopg."""

from dataclasses import dataclass
from datetime import datetime

from core.isolation import CheckResult, SignedClause


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
