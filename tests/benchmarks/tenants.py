"""Duration of hot queries with 10,000 tenants on PostgreSQL 15, the oldest supported version."""

import statistics
import time

from matplotlib.figure import Figure

from database.connection.database import Database
from tests.benchmarks import report
from tests.benchmarks.report import Check, Result
from tests.database.platform.hot_queries import HOT_QUERIES, HotQuery
from tests.database.platform.many import TENANTS, add_operating_tenants
from tests.database.schema import postgres_versions

_OLDEST = "15"
_LIMIT_MS = 50.0
_HOURLY_LIMIT_MS = 500.0
_RUNS = 20
_SHOWN = 25
_PROTOCOL = (
    "PostgreSQL {version} is filled with {tenants:,} active tenants by set-based inserts: each has two services, eight "
    "certificates, two assessments, ten audit records and ten days of usage. Each query runs {runs} times as the code "
    "of the product calls it, under row security, with its role and signed context; measured is the whole transaction, "
    "after one run that does not count. Hot queries are those of requests, of pages and of schedules of ten minutes or "
    "less. The rest run once an hour and find the tenants with work for a schedule; they read each tenant, so their "
    "time grows with the number of tenants."
)


def run(*, quick: bool) -> tuple[Result, Figure]:
    tenants = 1000 if quick else TENANTS
    with postgres_versions.migrated(_OLDEST) as field:
        began = time.monotonic()
        add_operating_tenants(field, tenants)
        loaded = time.monotonic() - began
        databases = {role: field.open(role, max_size=1) for role in {query.role for query in HOT_QUERIES.values()}}
        samples = {name: _measure(query, databases[query.role]) for name, query in HOT_QUERIES.items()}
    hot = {name: taken for name, taken in samples.items() if not HOT_QUERIES[name].hourly}
    hourly = {name: taken for name, taken in samples.items() if HOT_QUERIES[name].hourly}
    slowest, slowest_hourly = _slowest(hot), _slowest(hourly)
    worst = statistics.median(hourly[slowest_hourly])
    result = Result(
        name="tenants",
        title=f"Hot queries with {tenants:,} tenants",
        quick=quick,
        protocol=_PROTOCOL.format(version=_OLDEST, tenants=tenants, runs=_RUNS),
        checks=[
            Check(f"slowest hot query, p50 ({slowest})", round(statistics.median(hot[slowest]), 1), _LIMIT_MS, "ms"),
            Check(f"slowest hourly query, p50 ({slowest_hourly})", round(worst, 1), _HOURLY_LIMIT_MS, "ms"),
        ],
        summary={
            "hot queries": len(hot),
            "slowest run of a hot query (ms)": round(max(max(taken) for taken in hot.values()), 1),
            "loading of the rows (s)": round(loaded, 1),
            **{
                f"{name} (ms)": {"p50": round(statistics.median(taken), 1), "max": round(max(taken), 1)}
                for name, taken in sorted(samples.items(), key=lambda one: -statistics.median(one[1]))[:_SHOWN]
            },
        },
        samples={name: [round(one, 2) for one in taken] for name, taken in samples.items()},
    )
    return result, _plot(samples)


def _measure(query: HotQuery, database: Database) -> list[float]:
    """Return the durations in milliseconds."""
    query.run(database)
    taken = []
    for _ in range(_RUNS):
        began = time.perf_counter()
        query.run(database)
        taken.append(1000 * (time.perf_counter() - began))
    return taken


def _slowest(samples: dict[str, list[float]]) -> str:
    return max(samples, key=lambda name: statistics.median(samples[name]))


def _plot(samples: dict[str, list[float]]) -> Figure:
    figure, axes = report.canvas(height=8)
    shown = sorted(samples, key=lambda name: statistics.median(samples[name]))[-_SHOWN:]
    colours = [report.ORANGE if HOT_QUERIES[name].hourly else report.BLUE for name in shown]
    bars = axes.barh(shown, [statistics.median(samples[name]) for name in shown], color=colours)
    axes.bar_label(bars, fmt="%.1f", padding=4)
    axes.axvline(_LIMIT_MS, color=report.RED, ls="--", label=f"limit of a hot query (blue), {_LIMIT_MS:g} ms")
    axes.set(title="the slowest queries; orange: once an hour", xlabel="p50, ms", xscale="log")
    axes.legend(loc="lower right")
    return figure
