"""Progress of provisioning, from the step rows that the workflow's activities write."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from core.tenants.provisioning import TITLES, Step, StepState, steps_of
from dashboard.components.formatting import span
from database.provisioning import StepRow
from database.tenants import TenantRow

_TOGETHER = frozenset({Step.CREATE_KEYS, Step.CREATE_AUTHORITY})
"""Independent steps that run in parallel."""


@dataclass(frozen=True, slots=True)
class Line:
    """One step: icon name, title and note."""

    icon: str
    title: str
    note: str


@dataclass(frozen=True, slots=True)
class Progress:
    lines: tuple[Line, ...]
    done: int
    total: int
    elapsed: float
    """Seconds since the request, or since the start of this attempt after a failed one."""
    late: bool


def progress(tenant: TenantRow, steps: Sequence[StepRow], provisioning_slo_seconds: float, now: datetime) -> Progress:
    """Return the steps of a tenant's newest provisioning; before the first is stored, the planned steps."""
    rows = {row.step: row for row in steps}
    planned = tuple(row.step for row in steps) or steps_of(tenant.tenant_id)
    began = _began(tenant, steps, provisioning_slo_seconds)
    lines, previous_end, unfinished_before = [], began, False
    for step in planned:
        row = rows.get(step)
        ended = row.finished_at if row is not None else None
        running = not unfinished_before or (step in _TOGETHER and _only_together_open(rows, step))
        lines.append(_line(step, row, running=running, since=previous_end, now=now))
        if row is None or row.state is not StepState.DONE:
            unfinished_before = True
        elif ended is not None and step not in _TOGETHER:
            previous_end = ended
    done = sum(row.state is StepState.DONE for row in steps)
    end = tenant.ready_at if tenant.ready_at is not None and tenant.ready_at >= began else now
    elapsed = max((end - began).total_seconds(), 0.0)
    return Progress(
        tuple(lines),
        done,
        len(planned),
        elapsed,
        tenant.promise_broken_at is not None or elapsed > provisioning_slo_seconds,
    )


def ready(tenant: TenantRow, provisioning_slo_seconds: float) -> str:
    """Return the time from request to ready, compared with the SLO; empty while the tenant is not ready."""
    if tenant.ready_at is None:
        return ""
    took = (tenant.ready_at - tenant.requested_at).total_seconds()
    verdict = "within the target" if took <= provisioning_slo_seconds else "over the target"
    return f"Ready {span(took)} after the request, {verdict} of {span(provisioning_slo_seconds)}."


def stopped(steps: Sequence[StepRow]) -> str:
    """Return the failed step and its error code; empty without a failed step."""
    for row in steps:
        if row.state is StepState.FAILED:
            return f"Failed at step {TITLES[row.step]}" + (f" (`{row.problem}`)." if row.problem else ".")
    return ""


def _began(tenant: TenantRow, steps: Sequence[StepRow], provisioning_slo_seconds: float) -> datetime:
    """Return the start of this attempt: the request, unless the first step is so much later that it must be a retry."""
    first = steps[0].started_at if steps else None
    if first is not None and first - tenant.requested_at > timedelta(seconds=provisioning_slo_seconds):
        return first
    return tenant.requested_at


def _only_together_open(rows: dict[Step, StepRow], step: Step) -> bool:
    """Return whether every earlier unfinished step runs in parallel with this one."""
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
            return Line("check", title, f"done in {span(took)}")
        case StepState.FAILED:
            return Line("error", title, f"failed ({row.problem})" if row.problem else "failed")
        case StepState.RETRYING:
            tries = "attempt" if row.attempts == 1 else "attempts"
            problem = f": {row.problem}" if row.problem else ""
            return Line("refresh", title, f"retrying after {row.attempts} failed {tries}{problem} · {waited}")
        case StepState.PENDING:
            return Line("pending", title, f"running · {waited}") if running else Line("schedule", title, "waiting")
