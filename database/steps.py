"""How far an operation is, for the pages that show progress; the truth about what runs is Temporal's."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg import Connection
from psycopg.rows import TupleRow

from core.errors.platform import DatabaseRefused
from core.tenants.provisioning import NUMBERS, Step, StepState
from database.rows import StepRow


@dataclass(frozen=True, slots=True)
class Steps:
    connection: Connection[TupleRow]
    tenant_id: str

    def plan(self, operation_id: str, steps: Sequence[Step]) -> None:
        """Write the steps of an operation as pending; a second call changes nothing."""
        self.connection.execute(
            "insert into okcm.operation_step (tenant_id, operation_id, step, number)"
            " select %s, %s, * from unnest(%s::text[], %s::integer[]) on conflict do nothing",
            [self.tenant_id, operation_id, [*map(str, steps)], [NUMBERS[step] for step in steps]],
        )

    def finish(self, operation_id: str, step: Step, started_at: datetime) -> None:
        # The two clocks are two machines'; a step never ends before it began.
        """Mark a step done; `started_at` is when this attempt began. Repeating it keeps the first finish."""
        self._change(
            "update okcm.operation_step set state = 'done', problem = null,"
            " started_at = %(at)s, finished_at = greatest(%(at)s, clock_timestamp())",
            {"at": started_at, "operation": operation_id, "step": step},
        )

    def retry(self, operation_id: str, step: Step, problem: str) -> None:
        """Count a failed attempt and keep why (an error code); a step that is done stays done."""
        self._change(
            "update okcm.operation_step set state = 'retrying', attempts = attempts + 1, problem = %(problem)s,"
            " finished_at = null",
            {"problem": problem, "operation": operation_id, "step": step},
        )

    def fail(self, operation_id: str, step: Step, problem: str) -> None:
        self._change(
            "update okcm.operation_step set state = 'failed', attempts = attempts + 1, problem = %(problem)s,"
            " finished_at = clock_timestamp()",
            {"problem": problem, "operation": operation_id, "step": step},
        )

    def latest(self) -> Sequence[StepRow]:
        """Return the steps of the newest operation in order."""
        rows = self.connection.execute(
            "select number, step, state, attempts, started_at, finished_at, problem from okcm.operation_step"
            " where operation_id = (select operation_id from okcm.operation_step order by planned_at desc limit 1)"
            " order by number"
        )
        return [StepRow(number, Step(step), StepState(state), *rest) for number, step, state, *rest in rows]

    def _change(self, update: str, values: dict[str, object]) -> None:
        """Run `update` on one step unless it is done; a step that was never planned is a mistake of ours."""
        one = "operation_id = %(operation)s and step = %(step)s"
        if self.connection.execute(f"{update} where {one} and state <> 'done'", values).rowcount == 1:
            return
        planned = "select from okcm.operation_step where "
        if self.connection.execute(planned + one, values).fetchone() is None:
            raise DatabaseRefused("the step was not planned", "plan the operation's steps before changing one")
