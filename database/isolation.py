"""Results of isolation checks: each attempted attack and whether it was rejected."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from core.isolation import DAILY, AssessmentState, CheckResult, SignedClause
from database.repository import Repository

_RESULT = "clause, name, outcome, seconds, evidence"
_LINE = "clause, held, breached, not_checked, digest, operation_id, examined_at, signature, key"


class BoundaryRunRow(NamedTuple):
    """One run of the isolation checks; a repeated activation check is a separate run."""

    recorded_at: datetime
    results: tuple[CheckResult, ...]


class AssessmentRow(NamedTuple):
    """One isolation assessment: its signed lines in the order of their clause ids."""

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
        """Whether attacks were made and none of them succeeded."""
        return self.held > 0 and not self.breached


class NewestChecks(NamedTuple):
    """The newest isolation checks; `passed` only if some were completed and none found a breach."""

    checked_at: datetime
    passed: bool


class DailyAssessmentRow(NamedTuple):
    """The newest daily assessment; `runs` counts those since the newest complete one, all without a breach."""

    line: SignedClause
    runs: int


class Boundaries(Repository):
    def record(self, operation_id: str, results: Sequence[CheckResult]) -> None:
        """Record the unsigned results of an activation check."""
        # Results recorded in one transaction are one run: `recorded_at` is the start of the transaction.
        self.connection.execute(
            f"insert into okcm.boundary_result (tenant_id, number, operation_id, {_RESULT})"  # noqa: S608 - a constant
            " select %s, number + (select count(*) from okcm.boundary_result where recorded_at = now()), %s,"
            f" {_RESULT} from unnest(%s::text[], %s::text[], %s::text[], %s::float8[], %s::text[])"
            " with ordinality as checked (clause, name, outcome, seconds, evidence, number)",
            [self.tenant_id, operation_id, *_columns(results)],
        )

    def record_examination(self, lines: Sequence[SignedClause], results: Sequence[CheckResult]) -> None:
        """Record a complete isolation assessment; a repeated run raises DatabaseRefused."""
        first = lines[0]
        self.connection.execute(
            "insert into okcm.boundary_result"  # noqa: S608 - a constant
            f" (tenant_id, recorded_at, operation_id, number, {_RESULT})"
            f" select %s, %s, %s, number, {_RESULT}"
            " from unnest(%s::text[], %s::text[], %s::text[], %s::float8[], %s::text[])"
            " with ordinality as checked (clause, name, outcome, seconds, evidence, number)",
            [self.tenant_id, first.examined_at, first.run, *_columns(results)],
        )
        self.connection.execute(
            f"insert into okcm.boundary_clause (tenant_id, {_LINE})"  # noqa: S608 - a constant
            " select %s, * from unnest(%s::text[], %s::int[], %s::int[], %s::int[], %s::bytea[], %s::text[],"
            " %s::timestamptz[], %s::text[], %s::text[])",
            [
                self.tenant_id,
                [line.clause for line in lines],
                [line.held for line in lines],
                [line.breached for line in lines],
                [line.not_checked for line in lines],
                [line.digest for line in lines],
                [line.run for line in lines],
                [line.examined_at for line in lines],
                [line.signature for line in lines],
                [line.key for line in lines],
            ],
        )

    def state(self) -> AssessmentState:
        """Return the times of the newest assessments."""
        found = self.connection.execute(
            "select complete_at, changed_at, breached from okcm.isolation_assessment"
        ).fetchone()
        return AssessmentState(None, None, breached=False) if found is None else AssessmentState(*found)

    def record_daily(self, line: SignedClause) -> None:
        """Replace the line of the newest daily assessment without a breach."""
        self.connection.execute(
            "update okcm.isolation_assessment set examined_at = %s, operation_id = %s, held = %s, not_checked = %s,"
            " digest = %s, signature = %s, key = %s, runs = runs + 1",
            [line.examined_at, line.run, line.held, line.not_checked, line.digest, line.signature, line.key],
        )

    def daily(self) -> DailyAssessmentRow | None:
        """Return the newest daily assessment; None before the first."""
        found = self.connection.execute(
            "select held, not_checked, digest, operation_id, examined_at, signature, key, runs"
            " from okcm.isolation_assessment where examined_at is not null"
        ).fetchone()
        if found is None:
            return None
        held, not_checked, digest, run, examined_at, signature, key, runs = found
        line = SignedClause(
            clause=DAILY,
            held=held,
            breached=0,
            not_checked=not_checked,
            digest=bytes(digest),
            run=run,
            examined_at=examined_at,
            signature=signature,
            key=key,
        )
        return DailyAssessmentRow(line, runs)

    def newest(self) -> NewestChecks | None:
        """Return when the newest checks of any kind ran, and whether they passed; None before the first."""
        row = self.connection.execute(
            "select r.recorded_at, count(*) filter (where r.outcome = 'held'),"
            " count(*) filter (where r.outcome = 'breached') from okcm.boundary_result r"
            " where r.recorded_at = (select max(recorded_at) from okcm.boundary_result) group by r.recorded_at"
        ).fetchone()
        daily = self.daily()
        if row is None:
            return None if daily is None else NewestChecks(daily.line.examined_at, passed=daily.line.held > 0)
        at, held, breached = row
        if breached or daily is None or daily.line.examined_at < at:
            return NewestChecks(at, passed=held > 0 and not breached)
        return NewestChecks(daily.line.examined_at, passed=daily.line.held > 0)

    def latest(self) -> Sequence[CheckResult]:
        """Return the results of the newest run in the order in which they were recorded."""
        run = self.latest_run()
        return () if run is None else run.results

    def latest_run(self) -> BoundaryRunRow | None:
        """Return the newest run, of an activation check or an assessment, with its time; None before the first."""
        rows = self.connection.execute(
            f"select {_RESULT}, recorded_at from okcm.boundary_result"  # noqa: S608 - a constant
            " where recorded_at = (select max(recorded_at) from okcm.boundary_result) order by number"
        ).fetchall()
        return BoundaryRunRow(rows[0][-1], tuple(_result(row[:-1]) for row in rows)) if rows else None

    def examination(self, run: str | None = None) -> AssessmentRow | None:
        """Return the newest assessment, or the assessment of that run; None if it does not exist."""
        rows = self.connection.execute(
            f"select {_LINE} from okcm.boundary_clause where examined_at ="  # noqa: S608 - a constant
            " (select max(examined_at) from okcm.boundary_clause where %(run)s::text is null or operation_id = %(run)s)"
            " order by clause",
            {"run": run},
        )
        lines = [
            SignedClause(
                clause=clause,
                held=held,
                breached=breached,
                not_checked=not_checked,
                digest=bytes(digest),
                run=of_run,
                examined_at=examined_at,
                signature=signature,
                key=key,
            )
            for clause, held, breached, not_checked, digest, of_run, examined_at, signature, key in rows
        ]
        return AssessmentRow(lines[0].run, lines[0].examined_at, tuple(lines)) if lines else None

    def results_of(self, run: str) -> Sequence[CheckResult]:
        """Return the results of an assessment in the order of the checks; empty after the retention period."""
        rows = self.connection.execute(
            f"select {_RESULT} from okcm.boundary_result where operation_id = %s order by recorded_at, number",  # noqa: S608 - a constant
            [run],
        )
        return [_result(row) for row in rows]


def _columns(results: Sequence[CheckResult]) -> list[list[Any]]:
    return [
        [result.clause for result in results],
        [result.name for result in results],
        [result.outcome for result in results],
        [result.seconds for result in results],
        [result.evidence for result in results],
    ]


def _result(row: tuple[Any, ...]) -> CheckResult:
    clause, name, outcome, seconds, evidence = row
    return CheckResult(clause=clause, name=name, outcome=outcome, seconds=seconds, evidence=evidence)


class FailedAssessment(NamedTuple):
    """A tenant that requires attention: `why` is `breached` (found at `since`) or `late` (due since then)."""

    tenant_id: str
    region: str
    why: str
    since: datetime
