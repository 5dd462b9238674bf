"""Time until the last of many tenants is ready that were enabled at the same moment."""

import time
from datetime import datetime

from matplotlib.figure import Figure

from config.secrets import Role
from core.tenants.lifecycle import State
from database.platform.scheduled import PlatformQueries
from tests.benchmarks import report
from tests.benchmarks.harness.marketplace_client import Marketplace
from tests.benchmarks.harness.processes import read_cpu
from tests.benchmarks.harness.stack import Stack
from tests.benchmarks.report import Check, Result, spread

_LIMIT_SECONDS = 18.0
_PATIENCE_SECONDS = 180
_POLL_SECONDS = 0.5
_PROTOCOL = (
    "One tenant warms the stack up; then {tenants} signed events are posted over {tenants} connections at once. "
    "The clock starts when the first is sent and stops when the database has the last tenant as active; the "
    "operator's one query that observes it runs every half second. Times of the curve are `ready_at` of the "
    "tenants' rows."
)


def run(*, quick: bool) -> tuple[Result, Figure]:
    number = 30 if quick else 300
    tenants = [f"burst-{n:04}" for n in range(1, number + 1)]
    with Stack() as stack:
        marketplace = Marketplace(stack.settings)
        marketplace.enable("burst-warm-up")
        marketplace.ready_seconds("burst-warm-up", patience=60)
        pids = stack.pids()
        before = read_cpu(pids)
        first_sent = marketplace.enable_all(tenants, at_once=number)
        accepted = time.time()
        print(f"  {number} events accepted after {accepted - first_sent:.1f} s", flush=True)
        rows = _wait_active(stack, number + 1)
        seen = time.time()
        cpu = before.until(read_cpu(pids))
    active = sorted(ready_at.timestamp() - first_sent for tenant, _, ready_at in rows if tenant in tenants)
    ready_seconds = [(ready_at - asked).total_seconds() for tenant, asked, ready_at in rows if tenant in tenants]
    summary = {
        "tenants": len(active),
        "last active (s)": round(active[-1], 2),
        "all seen active by wall clock (s)": round(seen - first_sent, 2),
        "all events accepted (s)": round(accepted - first_sent, 2),
        "tenants per second": round(len(active) / active[-1], 1),
        "ready_seconds": spread(ready_seconds),
        "CPU (ms a tenant)": {name: round(1000 * used / number) for name, used in cpu.seconds.items()},
        "share of the CPU used by other programs": cpu.others,
    }
    result = Result(
        name="burst",
        title=f"{number} tenants enabled at once",
        quick=quick,
        protocol=_PROTOCOL.format(tenants=number),
        checks=[Check(f"the last of {number} is active", round(active[-1], 2), _LIMIT_SECONDS, "s")],
        summary=summary,
        samples={"active_after_seconds": [round(at, 3) for at in active]},
    )
    return result, _plot(active, accepted - first_sent)


def _wait_active(stack: Stack, number: int) -> list[tuple[str, datetime, datetime]]:
    """Return (tenant, requested, ready) once the canary and `number` tenants are active."""
    database = stack.database(Role.OPERATOR)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        rows = PlatformQueries(database).list_tenants("", number + 10)
        active = [(r.tenant_id, r.requested_at, r.ready_at) for r in rows if r.state is State.ACTIVE and r.ready_at]
        if len(active) > number:
            database.close()
            return active
        time.sleep(_POLL_SECONDS)
    raise TimeoutError(f"{len(active)} of {number + 1} tenants are active after {_PATIENCE_SECONDS} s")


def _plot(active: list[float], accepted: float) -> Figure:
    figure, axes = report.canvas()
    axes.step([0, *active], range(len(active) + 1), where="post", color=report.BLUE, lw=2, label="active tenants")
    axes.axvline(accepted, color=report.GREY, ls=":", label=f"all events accepted, {accepted:.1f} s")
    axes.axvline(_LIMIT_SECONDS, color=report.RED, ls="--", label=f"limit, {_LIMIT_SECONDS:g} s")
    axes.annotate(
        f"last: {active[-1]:.1f} s", (active[-1], len(active)), (-8, -24), textcoords="offset points", ha="right"
    )
    axes.set(
        title=f"{len(active)} tenants enabled at once", xlabel="seconds since the first click", ylabel="active tenants"
    )
    axes.set(xlim=(0, max(_LIMIT_SECONDS, active[-1]) * 1.05), ylim=(0, len(active) * 1.03))
    axes.legend(loc="upper left")
    return figure
