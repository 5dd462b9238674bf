"""Texts of the operations page: counters, the table, stuck tenants, one tenant, and provisioning times."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil
from types import MappingProxyType
from typing import Literal
from urllib.parse import quote

from core import names as ids
from core.tenants.lifecycle import State
from core.tenants.locks import LockReason
from core.tenants.provisioning import TITLES, Step, StepState
from core.tenants.status import Subject, Verdict
from dashboard.components import formatting as words
from dashboard.status import badges
from database.isolation import FailedAssessment
from database.notifications import UndeliveredNotification
from database.platform.operators import (
    ListedTenant,
    Problem,
    ProvisioningTime,
    StuckTenant,
    TenantCount,
    TenantFilter,
)
from database.provisioning import OperationRow, StepRow
from database.tenants import TenantRow
from openkcm.errors import OpenKcmError

WAITING = frozenset({State.REQUESTED, State.PROVISIONING})
_PERCENTILES = (50, 95, 99)
_NAMESPACE = "default"

Color = Literal["blue", "gray", "green", "orange", "red"]

_BADGES: dict[State, tuple[Color, str]] = {
    State.REQUESTED: ("blue", ":material/schedule:"),
    State.PROVISIONING: ("blue", ":material/sync:"),
    State.FAILED: ("red", ":material/error:"),
    State.ACTIVE: ("green", ":material/check:"),
    State.SUSPENDED: ("orange", ":material/pause:"),
    State.LOCKED: ("orange", ":material/lock:"),
    State.LEAVING: ("gray", ":material/logout:"),
    State.OFFBOARDED: ("gray", ":material/block:"),
}
STATE_COLORS = {state.value: color for state, (color, _) in _BADGES.items()}
_PROBLEMS: Mapping[Problem, tuple[str, str]] = MappingProxyType(
    {
        Problem.ANY: ("Any problem", ""),
        Problem.PROVISIONING: ("Provisioning failed or delayed", ":material/timer_off:"),
        Problem.ROOT_KEY: ("Root key out of reach", ":material/key_off:"),
        Problem.ISOLATION: ("Isolation check failed", ":material/gpp_bad:"),
        Problem.REQUESTS: ("Requests rejected in 5 minutes", ":material/block:"),
        Problem.LOCKED_MANUAL: ("Locked by a user", ":material/lock:"),
        Problem.LOCKED_ROOT_KEY: ("Locked for the root key", ":material/lock:"),
        Problem.LOCKED_BREACH: ("Locked for isolation", ":material/lock:"),
        Problem.LATE: ("Ready late, or not yet", ""),
    }
)
"""Title and icon; without an icon it is a filter only."""
_LOCKS: Mapping[LockReason, tuple[str, str]] = MappingProxyType(
    {
        LockReason.MANUAL: ("by a user", "An administrator of the customer unlocks the tenant."),
        LockReason.ROOT_KEY: ("root key", "The lock is released when the customer's root key works again."),
        LockReason.BREACH: (
            "isolation check failed",
            "Follow the runbook. An operator releases the lock after every check has passed.",
        ),
    }
)
_SUBJECTS = (
    Subject.REQUESTS,
    Subject.CRYPTO_SERVICE,
    Subject.KEY_SERVER,
    Subject.ROOT_KEY,
    Subject.CERTIFICATES,
    Subject.ISOLATION,
    Subject.CHANGES,
)
_STEP_SIGNS = {
    StepState.PENDING: (":material/circle:", "not started"),
    StepState.RETRYING: (":material/sync:", "retrying"),
    StepState.DONE: (":material/check:", "done"),
    StepState.FAILED: (":material/error:", "failed"),
}


@dataclass(frozen=True, slots=True)
class Badge:
    """A state as a label: the text states it; colour and icon only repeat it."""

    label: str
    color: Color
    icon: str


@dataclass(frozen=True, slots=True)
class Totals:
    """All customers' tenants; `regions` are those with a tenant."""

    tenants: int
    late: int
    by_state: tuple[tuple[State, int], ...]
    regions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Times:
    """Provisioning times of the newest ready tenants; `percentiles` as (label, value), by nearest rank."""

    percentiles: tuple[tuple[str, str], ...]
    summary: str


@dataclass(frozen=True, slots=True)
class Line:
    """One tenant in a list."""

    tenant_id: str
    organization: str
    badge: Badge
    facts: str
    trouble: str

    @property
    def text(self) -> str:
        """The line as Markdown; customer input is escaped."""
        name = f"**{self.tenant_id}** :{self.badge.color}-badge[{self.badge.icon} {self.badge.label}]"
        lines = [f"{name} {words.plain(self.organization)}", self.trouble, f":small[:gray[{self.facts}]]"]
        return "  \n".join(line for line in lines if line)


@dataclass(frozen=True, slots=True)
class Counter:
    """A number of tenants that filters the table."""

    problem: Problem
    label: str
    icon: str
    tenants: int


@dataclass(frozen=True, slots=True)
class LockLine:
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class StepLine:
    icon: str
    text: str
    trouble: str


def badge(state: State) -> Badge:
    """Return the label of a state."""
    color, icon = _BADGES[state]
    return Badge(state.value, color, icon)


def totals(counts: Sequence[TenantCount]) -> Totals:
    """Sum up the counts; states in lifecycle order, without empty ones."""
    by_state = {state: sum(count.tenants for count in counts if count.state is state) for state in State}
    return Totals(
        tenants=sum(by_state.values()),
        late=sum(count.late for count in counts),
        by_state=tuple((state, tenants) for state, tenants in by_state.items() if tenants),
        regions=tuple(sorted({count.region for count in counts})),
    )


def state_badges(found: Totals) -> tuple[str, ...]:
    """Return the number of tenants in each state that has one, as Markdown; none is green, which means measured."""
    return tuple(
        f":{'gray' if state is State.ACTIVE else color}-badge[{icon} {state.capitalize()}: {tenants:,}]"
        for state, tenants in found.by_state
        for color, icon in [_BADGES[state]]
    )


def problem_counters(found: Mapping[Problem, int]) -> tuple[Counter, ...]:
    """Return a counter for each counted problem, also those without a tenant."""
    return tuple(
        Counter(problem, problem_title(problem), icon, found.get(problem, 0))
        for problem, (_, icon) in _PROBLEMS.items()
        if icon
    )


def problem_title(problem: Problem) -> str:
    """Return the title of a problem, as a filter and a counter."""
    return _PROBLEMS[problem][0]


def choices_title(chosen: TenantFilter) -> str:
    """Return the title of the filters that the page shows on request, with those that are set."""
    problem = "" if chosen.problem is None else problem_title(chosen.problem)
    words = ", ".join(filter(None, (chosen.state, chosen.region, problem)))
    return f"State, region and problem: {words}" if words else "State, region and problem"


def row(one: ListedTenant, provisioning_slo_seconds: float, now: datetime) -> dict[str, object]:
    """Return a tenant as a row of the table."""
    tenant = one.tenant
    ready = None if tenant.ready_at is None else (tenant.ready_at - tenant.requested_at).total_seconds()
    lateness = _lateness(tenant, provisioning_slo_seconds, now)
    problems = [problem_title(problem) for problem in one.problems if problem is not Problem.PROVISIONING]
    return {
        "Tenant": tenant.tenant_id,
        "Organization": tenant.organization,
        "State": [tenant.state.value],
        "Locks": ", ".join(_LOCKS[lock][0] for lock in tenant.locks),
        "Region": tenant.region,
        "Root key": tenant.root_key_mode,
        "Requested, UTC": tenant.requested_at,
        "Ready after, s": ready,
        "Problem": ". ".join(filter(None, [lateness, *problems])),
    }


def lock_lines(tenant: TenantRow) -> tuple[LockLine, ...]:
    """Return each lock of a tenant: its reason, and what releases it."""
    return tuple(LockLine(f"Locked: {title}", text) for title, text in (_LOCKS[lock] for lock in tenant.locks))


def operation_row(one: OperationRow) -> dict[str, object]:
    """Return an operation as a row of a table."""
    return {
        "Operation": one.operation_id,
        "State": "failed" if one.failed else "done" if one.done == one.steps else "running",
        "Steps": f"{one.done} of {one.steps}",
        "Planned, UTC": one.planned_at,
        "Error": one.problem or "",
    }


def status_badges(found: Verdict, as_of: str) -> tuple[badges.Badge, ...]:
    """Return the measured status of a tenant for an operator, without counts of requests and names of services."""
    shown = [badges.overall(found)]
    for subject in _SUBJECTS:
        one = found.of(subject)
        label = f"{badges.TITLES[subject]}: {one.words}"
        if subject in {Subject.REQUESTS, Subject.CERTIFICATES}:
            label = f"{badges.TITLES[subject]}: {one.status}"
        shown.append(badges.Badge(label, *badges.COLORS[one.status]))
    return (*shown, badges.Badge(f"as of {as_of}", "gray", ""))


def times(found: Sequence[ProvisioningTime], provisioning_slo_seconds: float) -> Times:
    """Return percentiles by nearest rank, so that each is a measured time."""
    seconds = sorted(time.seconds for time in found)
    over = sum(time > provisioning_slo_seconds for time in seconds)
    percentiles = tuple(
        (f"p{rank}", words.span(seconds[ceil(len(seconds) * rank / 100) - 1]) if seconds else "none")
        for rank in _PERCENTILES
    )
    verdict = "all within the target" if not over else f"{words.count(over, 'tenant')} over the target"
    newest = words.count(len(seconds), "ready tenant")
    return Times(percentiles, f"newest {newest}: {verdict} of {words.span(provisioning_slo_seconds)}")


def times_chart(found: Sequence[ProvisioningTime], provisioning_slo_seconds: float) -> dict[str, object]:
    """Return an ECharts option with a point for each tenant; logarithmic, because times are far below the target."""
    points = [[time.requested_at.isoformat(), round(max(time.seconds, 0.01), 3)] for time in reversed(found)]
    return {
        "grid": {"left": 56, "right": 24, "top": 28, "bottom": 32},
        "animation": False,
        "tooltip": {"trigger": "item", "valueFormatter": "%.1f s"},
        "xAxis": {"type": "time"},
        "yAxis": {"type": "log", "name": "seconds", "min": 0.1, "max": _axis_end(found, provisioning_slo_seconds)},
        "series": [
            {
                "name": "ready after",
                "type": "scatter",
                "symbolSize": 7,
                "data": points,
                "markLine": {
                    "silent": True,
                    "symbol": "none",
                    "data": [{"yAxis": provisioning_slo_seconds}],
                    "label": {
                        "formatter": f"target: {words.span(provisioning_slo_seconds)}",
                        "position": "insideEndTop",
                        "color": "inherit",
                    },
                },
            }
        ],
    }


def stuck_line(tenant: StuckTenant, now: datetime) -> Line:
    """Return a tenant that requires attention: waiting time, current step, and its last error."""
    return Line(
        tenant.tenant_id,
        tenant.organization,
        badge(tenant.state),
        f"{tenant.region} · waiting for {words.span((now - tenant.requested_at).total_seconds())},"
        f" since {words.at(tenant.requested_at)}",
        ". ".join(_where(tenant)),
    )


def isolation_line(one: FailedAssessment, now: datetime) -> str:
    """Return a tenant with a failed or overdue isolation assessment, and what to do."""
    if one.why == "breached":
        return (
            f"**{one.tenant_id}** ({one.region}): isolation check failed, found {words.moment(one.since, now)}. "
            f"The tenant is locked. Follow the runbook, then run `openkcmctl isolation check {one.tenant_id}`."
        )
    return (
        f"**{one.tenant_id}** ({one.region}): isolation assessment overdue since {words.moment(one.since, now)}. "
        f"Its workflow `{ids.boundaries_workflow(one.tenant_id)}` shows the cause."
    )


def undelivered_line(one: UndeliveredNotification, now: datetime) -> str:
    """Return a notification that its receiver did not accept, and whether the platform still attempts it."""
    attempts = f"{one.attempts:,} failed attempt{'' if one.attempts == 1 else 's'}, {one.problem}."
    if one.expired_at is not None:
        return (
            f"**{one.tenant_id}**: the notification `{one.kind}` ({one.channel}) was not delivered and is no longer "
            f"attempted since {words.moment(one.expired_at, now)}: {attempts} Notify the customer in another way."
        )
    return (
        f"**{one.tenant_id}**: the notification `{one.kind}` ({one.channel}) of {words.moment(one.added_at, now)} is "
        f"not delivered: {attempts}"
    )


def line(tenant: TenantRow, provisioning_slo_seconds: float, now: datetime) -> Line:
    """Return the head of a tenant's page."""
    return Line(
        tenant.tenant_id,
        tenant.organization,
        badge(tenant.state),
        f"{tenant.region} · enabled {words.moment(tenant.requested_at, now)} · {_ready(tenant)}",
        _lateness(tenant, provisioning_slo_seconds, now),
    )


def step_line(step: StepRow) -> StepLine:
    """Return one numbered step with its state and its last error."""
    icon, state = _STEP_SIGNS[step.state]
    took = ""
    if step.started_at is not None and step.finished_at is not None:
        took = f" in {words.span((step.finished_at - step.started_at).total_seconds())}"
    tries = f", {_tries(step.attempts)}" if step.attempts else ""
    return StepLine(icon, f"{TITLES[step.step]}: {state}{took}{tries}", explain(step.problem))


def canary(tenant: TenantRow | None) -> tuple[Badge | None, str]:
    """Return the status of the canary tenant, and its effect on other tenants."""
    if tenant is None:
        return None, "No canary tenant yet. The first worker creates it; no tenant is activated before."
    if tenant.state is State.ACTIVE:
        return badge(
            tenant.state
        ), "Ready. The isolation of every new tenant is checked against it, in both directions, before activation."
    return badge(tenant.state), "Not ready. The isolation of new tenants cannot be checked, so none is activated."


def explain(code: str | None) -> str:
    """Return an error code with its message and hint; a code without them stays as it is."""
    if code is None:
        return ""
    known = next((error for error in _errors() if vars(error).get("code") == code), None)
    parts = (known.message, known.hint) if known is not None else ("", "")
    said = "; ".join(part for part in parts if part)
    return f"`{code}`: {said}" if said else f"`{code}`"


def workflow_links(temporal_ui: str, tenant_id: str) -> tuple[tuple[str, str], ...]:
    """Return name and address of the tenant's workflow, of its assessments and of all its workflows in the Temporal UI.

    The slash in an id is escaped.
    """
    base = f"{temporal_ui}/namespaces/{_NAMESPACE}/workflows"
    query = quote(f'TenantId="{tenant_id}"', safe="")
    return (
        ("Open in Temporal UI", f"{base}/{quote(ids.tenant_workflow(tenant_id), safe='')}"),
        ("Isolation checks in Temporal UI", f"{base}/{quote(ids.boundaries_workflow(tenant_id), safe='')}"),
        ("All workflows in Temporal UI", f"{base}?query={query}"),
    )


def _errors(base: type[OpenKcmError] = OpenKcmError) -> Iterator[type[OpenKcmError]]:
    for child in base.__subclasses__():
        yield child
        yield from _errors(child)


def _where(tenant: StuckTenant) -> Iterator[str]:
    if tenant.step is None:
        yield "No step has started: the workflow has not started, or no worker polls its task queue"
        return
    tries = f", {_tries(tenant.attempts)}" if tenant.attempts else ""
    yield f"At step {_step_title(tenant.step)}{tries}"
    if tenant.problem is not None:
        yield explain(tenant.problem)
    elif tenant.step_state is StepState.PENDING:
        yield "Not started; no error is recorded"


def _step_title(step: Step) -> str:
    number, _, title = TITLES[step].partition(" · ")
    return f"{number} of {len(TITLES)}, {title}"


def _tries(attempts: int) -> str:
    return words.count(attempts, "failed attempt", "failed attempts")


def _ready(tenant: TenantRow) -> str:
    if tenant.ready_at is None:
        return "not ready yet"
    return f"ready after {words.span((tenant.ready_at - tenant.requested_at).total_seconds())}"


def _lateness(tenant: TenantRow, provisioning_slo_seconds: float, now: datetime) -> str:
    waited = now - tenant.requested_at
    if tenant.state is State.FAILED:
        return "Provisioning failed: requires attention"
    if tenant.state in WAITING and waited > timedelta(seconds=provisioning_slo_seconds):
        return f"Delayed: not ready after {words.span(waited.total_seconds())}"
    if tenant.promise_broken_at is not None:
        return f"Was delayed: target {words.span(provisioning_slo_seconds)}"
    return ""


def _axis_end(found: Sequence[ProvisioningTime], provisioning_slo_seconds: float) -> float:
    return max([provisioning_slo_seconds, *(time.seconds for time in found)]) * 2
