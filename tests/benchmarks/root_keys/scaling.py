"""Root key monitoring of up to 100,000 keys in one worker: cost, rate, and time until it detects a disabled key.

Each key server is simulated by a pause, so that only the monitoring and PostgreSQL are measured.
"""

import logging
import os
import random
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import psycopg
import structlog
from matplotlib.figure import Figure
from temporalio.common import MetricMeter
from temporalio.testing import ActivityEnvironment

from activities.root_keys.health import PollIntervals, RootKeyHealthActivities
from activities.runtime.metrics import Metrics
from core.errors.keys import RootKeyDisabled
from core.keys.root_keys import OpenBaoKeyRef
from core.messages.keys import WatchRootKeysInput
from database.platform.scheduled import PlatformQueries
from database.root_keys import RootKeyChanges
from devstack.servers.postgres import PostgresServer
from tests.benchmarks import report
from tests.benchmarks.harness.processes import read_cpu
from tests.benchmarks.report import Check, Result, percentile
from tests.database.fixtures import Field, durable_database
from tests.kms.simulated_holders import CIPHERTEXT, PLAINTEXT, SimulatedHolders
from tests.ports import free_port

_REGION = "eu-west-1"
_LIMIT_SECONDS = 5.0
_PATIENCE_SECONDS = 900.0
_TIMEOUT_SECONDS = 2.0
"""`root_key_timeout_seconds`."""
_PROTOCOL = (
    "One worker's monitoring with the default intervals (1 s for a used key, 30 s for others) and its threads, "
    "PostgreSQL with the settings of the real stack, and key servers that are simulated by a pause of {latency:g} ms. "
    "{used} keys are used: their services are marked as seen each second. A tenth of all keys is at a second key "
    "server. The rows of all tenants are inserted in bulk. After each key was checked once, {window:g} s are measured: "
    "the duration of the database query of each round, CPU time of PostgreSQL and of this process from /proc, checks, "
    "and root keys that the database returned. Then {tries} times one of the used keys is disabled, and the time until "
    "the monitoring has recorded it is measured. Then the second key server becomes silent: each call takes the "
    "timeout of {timeout:g} s, and the same is measured again. All of it shares {cores} cores."
)


@dataclass(frozen=True)
class Amounts:
    sizes: tuple[int, ...] = (1_000, 10_000, 50_000, 100_000)
    used: int = 100
    latency: float = 20.0
    """Milliseconds."""
    window: float = 20.0
    tries: int = 10


QUICK = Amounts(sizes=(100, 1_000), used=20, window=3.0, tries=2)


@dataclass
class Measured:
    """One number of keys; durations in seconds."""

    keys: int
    first_pass: float = 0.0
    query: float = 0.0
    """Median duration of a round's query."""
    rows: float = 0.0
    """Root keys that the database returned, each second."""
    checks: float = 0.0
    """Each second."""
    postgres: float = 0.0
    """CPU seconds each second."""
    worker: float = 0.0
    noticed: list[float] = field(default_factory=list)
    noticed_beside_silence: list[float] = field(default_factory=list)


class TimedQueries(PlatformQueries):
    """The queries of the monitoring, with their durations and the number of returned keys."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.took: list[tuple[float, int]] = []

    def monitored_root_keys(self, *arguments: Any, **options: Any) -> RootKeyChanges:
        began = time.monotonic()
        changes = super().monitored_root_keys(*arguments, **options)
        self.took.append((time.monotonic() - began, len(changes.found)))
        return changes


_SECOND_SERVER = "https://second.example.com"


def run(*, quick: bool, amounts: Amounts | None = None) -> tuple[Result, Figure]:
    amounts = amounts or (QUICK if quick else Amounts())
    # Thousands of keys change their health.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    found = []
    with (
        tempfile.TemporaryDirectory(prefix="openkcm-scaling-") as folder,
        durable_database(PostgresServer(Path(folder), free_port())) as database,
    ):
        postgres = int((next(Path(folder).rglob("postmaster.pid"))).read_text(encoding="ascii").split()[0])
        for size in amounts.sizes:
            found.append(_measure(database, postgres, size, amounts))
            print(f"  {asdict(found[-1])}", flush=True)
    checks = [
        Check(
            f"disabled key noticed, p95, {one.keys:,} keys{beside}",
            round(percentile(times, 95), 2),
            _LIMIT_SECONDS,
            "s",
        )
        for one in found
        for times, beside in ((one.noticed, ""), (one.noticed_beside_silence, " and a silent key server"))
    ]
    largest = found[-1]
    checks.append(
        Check(f"CPU of PostgreSQL for {largest.keys:,} keys", round(largest.postgres, 3), 0.1, "s in each second")
    )
    result = Result(
        name="root_key_scaling",
        title="Root key monitoring of up to 100,000 keys in one worker",
        quick=quick,
        protocol=_PROTOCOL.format(
            **{name: value for name, value in asdict(amounts).items() if name != "sizes"},
            timeout=_TIMEOUT_SECONDS,
            cores=os.cpu_count(),
        ),
        checks=checks,
        summary={
            f"{one.keys:,} keys": {
                "first check of each (s)": round(one.first_pass, 1),
                "query of a round (ms)": round(1000 * one.query, 2),
                "keys returned/s": round(one.rows, 1),
                "checks/s": round(one.checks),
                "CPU s/s, PostgreSQL": round(one.postgres, 3),
                "worker": round(one.worker, 2),
                "noticed (s)": f"p50 {percentile(one.noticed, 50):.2f}, max {max(one.noticed):.2f}",
                "beside a silent server": f"p50 {percentile(one.noticed_beside_silence, 50):.2f},"
                f" max {max(one.noticed_beside_silence):.2f}",
            }
            for one in found
        },
        samples={str(one.keys): asdict(one) for one in found},
    )
    return result, _plot(found)


def _measure(database: Field, postgres: int, size: int, amounts: Amounts) -> Measured:
    with database.administrator() as administrator:
        _insert(administrator, size)
    used = [f"tenant-{number:06}" for number in range(1, 10 * amounts.used, 10)]
    measured = Measured(size)
    holders, queries = (
        SimulatedHolders(amounts.latency / 1000, _TIMEOUT_SECONDS),
        TimedQueries(database.open("worker", max_size=1)),
    )
    activities = RootKeyHealthActivities(
        database.open("worker"),
        queries,
        holders,  # type: ignore[arg-type]  # a double of the cache
        PollIntervals(used=1.0, idle=30.0, grace=3600.0),
        lambda: datetime.now(UTC),
        Metrics(MetricMeter.noop),
        threading.Event(),
    )
    with _seen(database, used), _running(activities):
        began = time.monotonic()
        _wait(lambda: len(holders.checks) >= size)
        measured.first_pass = time.monotonic() - began
        print(f"  {size:,} keys checked once after {measured.first_pass:.1f} s", flush=True)
        # The steady state: the checks of idle keys are spread over their interval.
        time.sleep(amounts.window)
        queries.took.clear()
        checks, before, own = holders.checks.total(), read_cpu({"postgres": postgres}), os.times()
        time.sleep(amounts.window)
        span, ended = before.until(read_cpu({"postgres": postgres})), os.times()
        took = list(queries.took)
        measured.query = percentile([seconds for seconds, _ in took], 50)
        measured.rows = sum(rows for _, rows in took) / span.elapsed
        measured.checks = (holders.checks.total() - checks) / span.elapsed
        measured.postgres = span.seconds["postgres"] / span.elapsed
        measured.worker = (ended.user + ended.system - own.user - own.system) / span.elapsed
        measured.noticed = _disable(database, holders, used, amounts.tries)
        holders.silent = _SECOND_SERVER
        time.sleep(1.0)
        measured.noticed_beside_silence = _disable(database, holders, used, amounts.tries)
    database.close()
    database.opened.clear()
    return measured


def _insert(administrator: psycopg.Connection, size: int) -> None:
    """Insert the tenants up to `size`, each with a root key and a service; those of earlier calls become healthy."""
    places = [OpenBaoKeyRef(address=address, key="root") for address in ("https://first.example.com", _SECOND_SERVER)]
    administrator.execute("set session_replication_role = replica")
    administrator.execute("update okcm.root_key set health = 'ok' where health <> 'ok'")
    administrator.execute(
        "insert into okcm.tenant (tenant_id, organization, region, state, ready_at, root_key_mode)"
        " select 'tenant-' || lpad(n::text, 6, '0'), 'bench', %s, 'active', now(), 'openbao'"
        " from generate_series(1, %s) n on conflict do nothing",
        [_REGION, size],
    )
    administrator.execute(
        "insert into okcm.root_key (tenant_id, root_key_id, mode, name, place, credentials, state, probe, probe_digest)"
        " select tenant_id, md5(tenant_id), 'openbao', 'root', case when tenant_id like '%%0' then %s::jsonb"
        " else %s::jsonb end, 'sealed', 'current', %s, %s from okcm.tenant on conflict do nothing",
        [places[1].model_dump_json(), places[0].model_dump_json(), CIPHERTEXT, sha256(PLAINTEXT).digest()],
    )
    administrator.execute(
        "insert into okcm.service (tenant_id, service, kind, state, connected_at)"
        " select tenant_id, 'orders', 'microservice', 'connected', now() from okcm.tenant on conflict do nothing"
    )
    administrator.execute("vacuum analyze")


@contextmanager
def _seen(database: Field, tenants: Sequence[str]) -> Iterator[None]:
    """Mark a service of each tenant as seen each second, as the crypto service does."""
    stop = threading.Event()

    def see() -> None:
        with database.administrator() as administrator:
            while True:
                administrator.execute(
                    "update okcm.service set last_seen_at = now() where tenant_id = any(%s)", [list(tenants)]
                )
                if stop.wait(1.0):
                    return

    seeing = threading.Thread(target=see)
    seeing.start()
    try:
        yield
    finally:
        stop.set()
        seeing.join()


@contextmanager
def _running(activities: RootKeyHealthActivities) -> Iterator[None]:
    """Run the activity again and again, as its workflow does."""
    stop, environments = threading.Event(), []

    def watch() -> None:
        while not stop.is_set():
            environments.append(ActivityEnvironment())
            environments[-1].run(activities.watch_root_keys, WatchRootKeysInput(region=_REGION))

    running = threading.Thread(target=watch)
    running.start()
    try:
        yield
    finally:
        stop.set()
        environments[-1].cancel()
        running.join()


def _disable(database: Field, holders: SimulatedHolders, tenants: Sequence[str], tries: int) -> list[float]:
    """Return the seconds from disabling a key until this is recorded, each for one tenant in turn."""
    noticed = []
    with database.administrator() as administrator:

        def is_recorded(tenant: str, health: str) -> bool:
            row = administrator.execute("select health from okcm.root_key where tenant_id = %s", [tenant]).fetchone()
            return row == (health,)

        for number in range(tries):
            time.sleep(random.uniform(0.5, 1.5))  # noqa: S311 - spreads the tries, not secret
            tenant = tenants[number % len(tenants)]
            began = time.monotonic()
            holders.fails[tenant] = RootKeyDisabled()
            _wait(lambda tenant=tenant: is_recorded(tenant, RootKeyDisabled.code), pause=0.01)
            noticed.append(round(time.monotonic() - began, 3))
            del holders.fails[tenant]
            _wait(lambda tenant=tenant: is_recorded(tenant, "ok"), pause=0.05)
    return noticed


def _wait(true: Any, pause: float = 0.1) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not after {_PATIENCE_SECONDS:g} s")
        time.sleep(pause)


def _plot(found: Sequence[Measured]) -> Figure:
    figure, left = report.canvas(width=11)
    left.remove()
    left, right = figure.subplots(1, 2)
    keys = [one.keys for one in found]
    left.plot(keys, [1000 * one.query for one in found], "o-", color=report.BLUE, label="query of a round (ms)")
    left.plot(keys, [1000 * one.postgres for one in found], "o-", color=report.ORANGE, label="PostgreSQL (ms CPU/s)")
    left.set(title="database time", xlabel="root keys", xscale="log", ylim=(0, None))
    left.legend()
    for times, colour, label in (
        ([one.noticed for one in found], report.BLUE, "all key servers answer"),
        ([one.noticed_beside_silence for one in found], report.ORANGE, "one key server is silent"),
    ):
        right.plot(keys, [percentile(one, 95) for one in times], "o-", color=colour, label=f"p95, {label}")
    right.axhline(_LIMIT_SECONDS, color=report.RED, ls="--", label=f"limit, {_LIMIT_SECONDS:g} s")
    right.set(title="a used key is disabled", xlabel="root keys", ylabel="seconds", xscale="log", ylim=(0, None))
    right.legend()
    return figure
