"""Evidence of boundary checks: what was attempted, and that it was refused."""

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import Connection
from psycopg.rows import TupleRow

from database.interfaces import BoundaryRunRow
from tenancy.boundaries import CheckResult


@dataclass(frozen=True, slots=True)
class Boundaries:
    connection: Connection[TupleRow]
    tenant_id: str

    def record(self, operation_id: str, results: Sequence[CheckResult]) -> None:
        # Results recorded in one transaction are one run (`recorded_at` is its start), numbered on.
        self.connection.execute(
            "insert into okcm.boundary_result"
            " (tenant_id, number, operation_id, clause, name, outcome, seconds, evidence)"
            " select %s, number + (select count(*) from okcm.boundary_result where recorded_at = now()), %s,"
            " clause, name, outcome, seconds, evidence"
            " from unnest(%s::text[], %s::text[], %s::text[], %s::float8[], %s::text[]) with ordinality"
            " as checked (clause, name, outcome, seconds, evidence, number)",
            [
                self.tenant_id,
                operation_id,
                [result.clause for result in results],
                [result.name for result in results],
                [result.outcome for result in results],
                [result.seconds for result in results],
                [result.evidence for result in results],
            ],
        )

    def latest(self) -> Sequence[CheckResult]:
        run = self.latest_run()
        return () if run is None else run.results

    def latest_run(self) -> BoundaryRunRow | None:
        rows = self.connection.execute(
            "select recorded_at, clause, name, outcome, seconds, evidence from okcm.boundary_result"
            " where recorded_at = (select max(recorded_at) from okcm.boundary_result) order by number"
        ).fetchall()
        if not rows:
            return None
        results = tuple(
            CheckResult(clause=clause, name=name, outcome=outcome, seconds=seconds, evidence=evidence)
            for _, clause, name, outcome, seconds, evidence in rows
        )
        return BoundaryRunRow(rows[0][0], results)
