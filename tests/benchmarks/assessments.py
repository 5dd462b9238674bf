"""Cost of the isolation assessments of a day: time, lines and bytes of the key server's log, and rows."""

import asyncio
import os
import time
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from temporalio.client import Client

from config.secrets import Role
from database.connection.database import Database
from database.platform.scheduled import PlatformQueries
from tests.benchmarks import report
from tests.benchmarks.harness.marketplace_client import Marketplace
from tests.benchmarks.harness.stack import Stack
from tests.benchmarks.provisioning.scale import fill, tenant
from tests.benchmarks.report import Check, Result

_MANY = 10_000
_HOURS = 3.0
_KILOBYTES = 50.0
_QUIET_SECONDS = 60.0
_PATIENCE_SECONDS = 1800.0
_PROTOCOL = (
    "A stack is filled with {tenants} tenants, each without a service. All of them become due at once, and the "
    "schedule `isolation` of the product assesses them, four at a time and with no limit of the rate: first with every "
    "attack, then with those of a daily assessment. Measured are the time until the last one is recorded, the rows "
    "of PostgreSQL, and the growth of OpenBao's audit log, without its growth in as much time before the assessments. "
    "The attacks between the two canary tenants, which count for five minutes for all, are included. A tenant has six "
    "daily assessments and a complete one in a week (isolation_complete_days = {days}); the targets are for that mean. "
    "All processes of the product, its servers and this program share the cores."
)


@dataclass(frozen=True)
class _Cost:
    """The cost of one assessment of each of `tenants`, without that of the same time before."""

    tenants: int
    seconds: float
    kilobytes: float
    lines: float
    rows: float

    def each(self) -> dict[str, float]:
        return {
            "seconds": round(self.seconds / self.tenants, 3),
            "tenants per second": round(self.tenants / self.seconds, 2),
            "kB of log": round(self.kilobytes / self.tenants, 1),
            "lines of log": round(self.lines / self.tenants, 1),
            "rows": round(self.rows / self.tenants, 1),
        }


@dataclass(frozen=True)
class _Counted:
    """The counters at a moment."""

    at: float
    size: int
    lines: int
    rows: int


def run(*, quick: bool) -> tuple[Result, Figure]:
    tenants = int(os.environ.get("OPENKCM_BENCH_TENANTS", "0")) or (10 if quick else 300)
    with Stack(isolation_per_second=100.0) as stack:
        days = stack.settings.isolation_complete_days
        fill(stack, Marketplace(stack.settings), range(1, tenants + 1))
        stack.openkcm("isolation", "check", tenant(1), timeout=600)  # connects the services of the canary tenants once
        database = stack.database(Role.WORKER)
        meter = _Meter(stack, database, [tenant(number) for number in range(1, tenants + 1)])
        idle = meter.idle(5.0 if quick else _QUIET_SECONDS)
        complete, daily = meter.assess(idle), meter.assess(idle)
        runs = meter.daily_runs()
        database.close()
    assert runs == tenants, f"{runs} of {tenants} tenants had a daily assessment"
    seconds = ((days - 1) * daily.seconds + complete.seconds) / days / tenants
    kilobytes = ((days - 1) * daily.kilobytes + complete.kilobytes) / days / tenants
    hours = seconds * _MANY / 3600
    result = Result(
        name="assessments",
        title=f"Isolation assessments of {tenants:,} tenants in a day",
        quick=quick,
        protocol=_PROTOCOL.format(tenants=tenants, days=days),
        checks=[
            Check(f"assessments of a day, {_MANY:,} tenants at this rate", round(hours, 2), _HOURS, "h"),
            Check("log of the key server for a tenant and day", round(kilobytes, 1), _KILOBYTES, "kB"),
        ],
        summary={
            "tenants": tenants,
            "daily assessment, each": daily.each(),
            "complete assessment, each": complete.each(),
            "log without assessments (kB/s)": round(idle.kilobytes / idle.seconds, 2),
            "most tenants in a day at this rate": round(86_400 / seconds),
        },
        samples={"daily": vars(daily), "complete": vars(complete), "idle": vars(idle)},
    )
    return result, _plot(daily, complete)


class _Meter:
    def __init__(self, stack: Stack, database: Database, tenants: list[str]) -> None:
        self._stack = stack
        self._database = database
        self._tenants = tenants
        self._log: Path
        [self._log] = stack.settings.key_server_logs

    def idle(self, seconds: float) -> _Cost:
        before = self._count()
        time.sleep(seconds)
        return self._since(before)

    def assess(self, idle: _Cost) -> _Cost:
        """Make all tenants due, wait until each is assessed, and return the cost without that of the idle time."""
        before = self._count()
        for one in self._tenants:
            with self._database.raw_tx(one) as connection:
                connection.execute("update okcm.isolation_assessment set due_at = clock_timestamp()")
        asyncio.run(self._trigger())
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while PlatformQueries(self._database).due_examinations("", 1):
            if time.monotonic() > deadline:
                raise TimeoutError("some tenants are still due")
            time.sleep(0.5)
        cost = self._since(before)
        share = cost.seconds / idle.seconds
        print(f"  {cost.tenants} tenants in {cost.seconds:.0f} s", flush=True)
        return _Cost(
            cost.tenants,
            cost.seconds,
            cost.kilobytes - share * idle.kilobytes,
            cost.lines - share * idle.lines,
            cost.rows - share * idle.rows,
        )

    def daily_runs(self) -> int:
        count = 0
        for one in self._tenants:
            with self._database.tenant_tx(one) as tx:
                row = tx.boundaries.daily()
            count += row is not None
        return count

    async def _trigger(self) -> None:
        client = await Client.connect(self._stack.settings.temporal_address or "")
        await client.get_schedule_handle("isolation").trigger()

    def _count(self) -> _Counted:
        rows = 0
        for one in self._tenants:
            with self._database.raw_tx(one) as connection:
                [(found,)] = connection.execute(
                    "select (select count(*) from okcm.boundary_result) + (select count(*) from okcm.boundary_clause)"
                    " + coalesce((select seq from okcm.audit_head), 0)"
                ).fetchall()
            rows += int(found)
        with self._log.open("rb") as content:
            lines = sum(block.count(b"\n") for block in iter(lambda: content.read(1 << 20), b""))
        return _Counted(time.monotonic(), self._log.stat().st_size, lines, rows)

    def _since(self, before: _Counted) -> _Cost:
        ended = time.monotonic()
        now = self._count()
        return _Cost(
            len(self._tenants),
            ended - before.at,
            (now.size - before.size) / 1000,
            now.lines - before.lines,
            now.rows - before.rows,
        )


def _plot(daily: _Cost, complete: _Cost) -> Figure:
    figure, left = report.canvas(width=11)
    left.remove()
    left, right = figure.subplots(1, 2)
    names = ("daily", "complete")
    colours = (report.BLUE, report.ORANGE)
    size = left.bar(names, [one.kilobytes / one.tenants for one in (daily, complete)], color=colours)
    left.bar_label(size, fmt="%.1f")
    left.axhline(_KILOBYTES, color=report.RED, ls="--", label=f"limit of the mean of a week, {_KILOBYTES:g} kB")
    left.set(title="log of the key server for an assessment", ylabel="kB")
    left.legend()
    rate = right.bar(names, [one.tenants / one.seconds for one in (daily, complete)], color=colours)
    right.bar_label(rate, fmt="%.1f")
    least = _MANY / _HOURS / 3600
    right.axhline(least, color=report.RED, ls="--", label=f"{_MANY:,} tenants in {_HOURS:g} h")
    right.set(title="assessments in a second", ylabel="1/s")
    right.legend()
    return figure
