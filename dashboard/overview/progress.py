"""How far provisioning is, from the step rows that the workflow's activities write."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from core.tenants.provisioning import TITLES, Step, StepState, steps_of
from dashboard.components.formatting import span
from database.provisioning import StepRow
from database.tenants import TenantRow

_TOGETHER = frozenset({Step.CREATE_KEYS, Step.CREATE_AUTHORITY})
"""They do not need each other and run side by side."""


@dataclass(frozen=True, slots=True)
class Line:
    """One step: its icon's name, title, and what there is to say about it."""

    icon: str
    title: str
    note: str


@dataclass(frozen=True, slots=True)
class Progress:
    lines: tuple[Line, ...]
    done: int
    total: int
    elapsed: float
    """Seconds since it was asked for, or since this attempt began where an earlier one failed."""
    late: bool


def progress(tenant: TenantRow, steps: Sequence[StepRow], promise_seconds: float, now: datetime) -> Progress:
    """Return the steps of a tenant's newest provisioning; before the first is on record, those that are to come."""
    rows = {row.step: row for row in steps}
    planned = tuple(row.step for row in steps) or steps_of(tenant.tenant_id)
    began = _began(tenant, steps, promise_seconds)
    lines, previous_end, open_before = [], began, False
    for step in planned:
        row = rows.get(step)
        ended = row.finished_at if row is not None else None
        running = not open_before or (step in _TOGETHER and _only_together_open(rows, step))
        lines.append(_line(step, row, running=running, since=previous_end, now=now))
        if row is None or row.state is not StepState.DONE:
            open_before = True
        elif ended is not None and step not in _TOGETHER:
            previous_end = ended
    done = sum(row.state is StepState.DONE for row in steps)
    end = tenant.ready_at if tenant.ready_at is not None and tenant.ready_at >= began else now
    elapsed = max((end - began).total_seconds(), 0.0)
    return Progress(
        tuple(lines), done, len(planned), elapsed, tenant.promise_broken_at is not None or elapsed > promise_seconds
    )


def ready(tenant: TenantRow, promise_seconds: float) -> str:
    """Return how long it took until the tenant was ready, against the promise; empty while it is not."""
    if tenant.ready_at is None:
        return ""
    took = (tenant.ready_at - tenant.requested_at).total_seconds()
    verdict = "as promised" if took <= promise_seconds else "later than promised"
    return f"Ready {span(took)} after it was enabled, {verdict} (promise: {span(promise_seconds)})."


def stopped(steps: Sequence[StepRow]) -> str:
    """Return where a failed provisioning stopped and the code of why; empty when no step says so."""
    for row in steps:
        if row.state is StepState.FAILED:
            return f"It stopped at step {TITLES[row.step]}" + (f" (`{row.problem}`)." if row.problem else ".")
    return ""


def _began(tenant: TenantRow, steps: Sequence[StepRow], promise_seconds: float) -> datetime:
    """Return when this attempt began: the click, unless its first step is so much later that it can only be a retry."""
    first = steps[0].started_at if steps else None
    if first is not None and first - tenant.requested_at > timedelta(seconds=promise_seconds):
        return first
    return tenant.requested_at


def _only_together_open(rows: dict[Step, StepRow], step: Step) -> bool:
    """Whether every earlier step that is still open runs side by side with this one."""
    earlier = [row for row in rows.values() if step in rows and row.number < rows[step].number]
    return bool(earlier) and all(row.state is StepState.DONE or row.step in _TOGETHER for row in earlier)


def _line(step: Step, row: StepRow | None, *, running: bool, since: datetime, now: datetime) -> Line:
    title = TITLES[step]
    if row is None:
        return Line("schedule", title, "waiting")
    waited = span((now - since).total_seconds())
    match row.state:
        case StepState.DONE:
            took = (row.finished_at - row.started_at).total_seconds() if row.finished_at and row.started_at else 0.0
            return Line("check_circle", title, f"done in {span(took)}")
        case StepState.FAILED:
            return Line("error", title, f"failed ({row.problem})" if row.problem else "failed")
        case StepState.RETRYING:
            tries = "try" if row.attempts == 1 else "tries"
            problem = f": {row.problem}" if row.problem else ""
            return Line("refresh", title, f"trying again after {row.attempts} failed {tries}{problem} · {waited}")
        case StepState.PENDING:
            return Line("pending", title, f"running · {waited}") if running else Line("schedule", title, "waiting")
