"""Cost of the monitoring of thousands of root keys, and the time until it detects a disabled key."""

import asyncio
import json
import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psycopg
from matplotlib.figure import Figure
from temporalio.client import Client

from core.names import watch_workflow
from devstack.servers.postgres import PostgresServer
from tests.benchmarks import report
from tests.benchmarks.harness.marketplace_client import Marketplace
from tests.benchmarks.harness.processes import read_cpu
from tests.benchmarks.harness.stack import Stack
from tests.benchmarks.harness.work_counters import FLUSH_SECONDS, pause_schedules
from tests.benchmarks.report import Check, Result, percentile, spread
from tests.benchmarks.root_keys.monitor_data import SERVICE, make_keys, write_rows
from tests.kms.customer_openbao import CustomerOpenBao
from tests.pausing import pause

_LIMIT_SECONDS = 5.0
_PATIENCE_SECONDS = 300.0
_POLL_SECONDS = 0.01
_SEEN_EVERY_SECONDS = 1.0
_AT_ONCE = 8
_TRY = "transit/decrypt/root-"
_PROTOCOL = (
    "{tenants:,} tenants have root keys in one OpenBao of a customer, each with a separate key there, credentials "
    "encrypted by a separate L2, and a canary ciphertext; {used} of them are provisioned by an event, the rows of the "
    "others are written into the database in bulk. No service is in use. The worker is killed when the rows exist, and "
    "started again by `make up`; from its start, the customer's audit log shows when each key was first checked. "
    "{rest:g} s later, with the platform's schedules paused, {window:g} s are measured: CPU time of worker and "
    "PostgreSQL from /proc, checks from the audit log, rows from pg_stat_user_tables of the product's schema, events "
    "from the history of MonitorRootKeys. Then the services of the {used} are marked as seen every second, as the "
    "crypto service does, and after {rest:g} s the same is measured again (without rows, which the marks now write). "
    "Then {runs} times one of the {used} keys is soft-deleted, and the time from the return of that call until the "
    "tenant's row is `locked` is measured, polled every {poll:g} ms; after its restoration, the tenant must unlock "
    "before the next run."
)


@dataclass(frozen=True)
class Amounts:
    tenants: int = 5_000
    used: int = 50
    rest: float = 45.0
    """Longer than one round of checks of the keys that are not used."""
    window: float = 60.0
    runs: int = 20


QUICK = Amounts(tenants=300, used=10, rest=5.0, window=15.0, runs=5)


@dataclass(frozen=True)
class Window:
    """Cost of the monitoring, as seconds or times in a minute; rows and events are of the whole window."""

    worker_cpu: float
    postgres_cpu: float
    tries_a_second: float
    rows: dict[str, int]
    events: tuple[int, int]


class AuditLog:
    """The customer's audit log: the keys that were checked since the last call of `new`."""

    def __init__(self, bao: CustomerOpenBao) -> None:
        self._file = (bao.server.folder / "logs" / "audit.log").open("rb")
        self._rest = b""
        self.new()

    def new(self) -> list[str]:
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        found = (json.loads(line) for line in lines if _TRY.encode() in line)
        return [entry["request"]["path"].removeprefix(_TRY) for entry in found if entry["type"] == "request"]


def run(*, quick: bool, amounts: Amounts | None = None) -> tuple[Result, Figure]:
    amounts = amounts or (QUICK if quick else Amounts())
    used = [f"used-{number:03}" for number in range(1, amounts.used + 1)]
    idle = [f"idle-{number:05}" for number in range(1, amounts.tenants - amounts.used + 1)]
    with (
        tempfile.TemporaryDirectory(prefix="openkcm-customer-") as place,
        _customer(Path(place)) as bao,
        Stack() as stack,
        psycopg.connect(_administrator(stack), autocommit=True) as administrator,
    ):
        scene = _Scene(stack, bao, administrator)
        made = scene.furnish(used, idle)
        before = _resident(stack)
        tried = scene.restart_worker([*used, *idle])
        time.sleep(amounts.rest)
        pause_schedules(scene.temporal, paused=True)
        resting = scene.window(amounts.window)
        with scene.using(used):
            time.sleep(amounts.rest)
            working = scene.window(amounts.window)
            locked, unlocked = scene.revoke_and_restore(used, amounts.runs)
        memory = {"without root keys": before, f"with {amounts.tenants:,}": _resident(stack)}
    result = Result(
        name="watch",
        title=f"Monitoring of {amounts.tenants:,} root keys",
        quick=quick,
        protocol=_PROTOCOL.format(**asdict(amounts), poll=1000 * _POLL_SECONDS),
        checks=[
            Check(
                "events added to the history of the monitoring workflow", resting.events[1] - resting.events[0], 0, ""
            ),
            Check("rows written while nothing changed", sum(resting.rows.values()), 0, ""),
            Check("p95 until the tenant is locked", round(percentile(locked, 95), 2), _LIMIT_SECONDS, "s"),
        ],
        summary={
            "making keys and rows (s)": round(made, 1),
            "worker's start until every key was checked (s)": round(max(tried), 1),
            "no key is in use": _summary(resting),
            f"{amounts.used} are in use": _summary(working),
            "tenant locked (s)": spread(locked),
            "tenant unlocked (s)": spread(unlocked),
            "resident memory of the worker (MiB)": memory,
        },
        samples={"tried": tried, "locked": locked, "unlocked": unlocked, "resting": vars(resting)},
    )
    return result, _plot(tried, locked, unlocked)


class _Scene:
    def __init__(self, stack: Stack, bao: CustomerOpenBao, administrator: psycopg.Connection) -> None:
        self._stack = stack
        self._bao = bao
        self._administrator = administrator
        self._log = AuditLog(bao)
        self._region = stack.settings.regions[0]
        self.temporal = stack.settings.temporal_address or ""

    def furnish(self, used: Sequence[str], idle: Sequence[str]) -> float:
        """Create all keys and rows and return the duration; the worker is paused when the rows appear."""
        began = time.monotonic()
        marketplace = Marketplace(self._stack.settings)
        marketplace.enable_all(used, _AT_ONCE)
        for tenant in used:
            marketplace.ready_seconds(tenant, _PATIENCE_SECONDS)
        keys = make_keys(self._stack.settings, self._bao, [*used, *idle])
        pause(self._stack.pids()["worker"])
        write_rows(self._administrator, self._region, keys)
        took = time.monotonic() - began
        print(f"  {len(keys)} root keys after {took:.0f} s", flush=True)
        return took

    def restart_worker(self, tenants: Sequence[str]) -> list[float]:
        """Start a new worker; return for each root key the time from its start to the first check."""
        self._log.new()
        former = self._stack.pids()["worker"]
        os.kill(former, signal.SIGKILL)
        self._wait(lambda: self._stack.pids().get("worker", former) != former, "a new worker", pause=0.1)
        began = _started(self._stack.pids()["worker"])
        first: dict[str, float] = {}

        def all_tried() -> bool:
            at = time.clock_gettime(time.CLOCK_BOOTTIME)
            for tenant in self._log.new():
                first.setdefault(tenant, round(at - began, 2))
            return first.keys() >= set(tenants)

        self._wait(all_tried, "every root key checked", pause=0.2)
        print(f"  every key was checked {max(first.values()):.1f} s after the worker's start", flush=True)
        return sorted(first.values())

    def window(self, seconds: float) -> Window:
        time.sleep(FLUSH_SECONDS)
        pids = {name: pid for name, pid in self._stack.pids().items() if name in {"worker", "postgres"}}
        rows, events, _ = self._rows(), self._events(), self._log.new()
        before = read_cpu(pids)
        time.sleep(seconds)
        used = before.until(read_cpu(pids))
        tries = len(self._log.new())
        after = self._events()
        time.sleep(FLUSH_SECONDS)
        written = {table: number - rows[table] for table, number in self._rows().items() if number > rows[table]}
        found = Window(
            worker_cpu=round(used.seconds["worker"] * 60 / used.elapsed, 2),
            postgres_cpu=round(used.seconds["postgres"] * 60 / used.elapsed, 2),
            tries_a_second=round(tries / used.elapsed, 1),
            rows=written,
            events=(events, after),
        )
        print(f"  {found}", flush=True)
        return found

    @contextmanager
    def using(self, tenants: Sequence[str]) -> Iterator[None]:
        """Mark a service of each tenant as seen, as during requests of that service."""
        stop = threading.Event()

        def see() -> None:
            with psycopg.connect(_administrator(self._stack), autocommit=True) as connection:
                while True:
                    connection.execute(
                        "update okcm.service set last_seen_at = now() where tenant_id = any(%s) and service = %s",
                        [list(tenants), SERVICE],
                    )
                    if stop.wait(_SEEN_EVERY_SECONDS):
                        return

        seeing = threading.Thread(target=see)
        seeing.start()
        try:
            yield
        finally:
            stop.set()
            seeing.join()

    def revoke_and_restore(self, tenants: Sequence[str], runs: int) -> tuple[list[float], list[float]]:
        """Return the durations until the lock and until the unlock, each for one tenant in turn."""
        locked, unlocked = [], []
        for number in range(runs):
            tenant = tenants[number % len(tenants)]
            self._bao.soft_delete(f"root-{tenant}")
            locked.append(self._until(tenant, "locked"))
            self._bao.restore(f"root-{tenant}")
            unlocked.append(self._until(tenant, "active"))
            print(f"  {tenant}: locked after {locked[-1]:.2f} s, unlocked after {unlocked[-1]:.2f} s", flush=True)
            time.sleep(random.uniform(1, 3))  # noqa: S311 - spreads the runs, not secret
        return locked, unlocked

    def _until(self, tenant: str, state: str) -> float:
        began = time.monotonic()

        def reached() -> bool:
            row = self._administrator.execute("select state from okcm.tenant where tenant_id = %s", [tenant]).fetchone()
            return row == (state,)

        self._wait(reached, f"{tenant} {state}", pause=_POLL_SECONDS)
        return round(time.monotonic() - began, 3)

    def _rows(self) -> dict[str, int]:
        """Return the number of rows written since the start, by table."""
        found = self._administrator.execute(
            "select relname, n_tup_ins + n_tup_upd + n_tup_del from pg_stat_user_tables where schemaname = 'okcm'"
        )
        return {str(table): int(number) for table, number in found}

    def _events(self) -> int:
        async def asked() -> int:
            client = await Client.connect(self.temporal)
            return (await client.get_workflow_handle(watch_workflow(self._region)).describe()).history_length

        return asyncio.run(asked())

    @staticmethod
    def _wait(true: Callable[[], bool], what: str, *, pause: float) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not true():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not after {_PATIENCE_SECONDS:g} s: {what}")
            time.sleep(pause)


@contextmanager
def _customer(folder: Path) -> Iterator[CustomerOpenBao]:
    bao = CustomerOpenBao.start(folder)
    try:
        yield bao
    finally:
        bao.kill()


def _administrator(stack: Stack) -> str:
    return PostgresServer(stack.settings.state_dir, stack.settings.postgres_port).admin_conninfo


def _started(pid: int) -> float:
    """Return the start time of a process, in seconds since the boot of the machine (proc(5), field 22)."""
    ticks = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19]
    return int(ticks) / os.sysconf("SC_CLK_TCK")


def _resident(stack: Stack) -> float:
    """Return the worker's resident memory in MiB."""
    status = Path(f"/proc/{stack.pids()['worker']}/status").read_text(encoding="ascii")
    return round(int(status.partition("VmRSS:")[2].split()[0]) / 1024, 1)


def _summary(window: Window) -> dict[str, Any]:
    return {
        "tries/s": window.tries_a_second,
        "CPU seconds a minute, worker": window.worker_cpu,
        "PostgreSQL": window.postgres_cpu,
        "events before": window.events[0],
        "after": window.events[1],
    }


def _plot(tried: list[float], locked: list[float], unlocked: list[float]) -> Figure:
    figure, left = report.canvas(width=11)
    left.remove()
    left, right = figure.subplots(1, 2)
    left.plot(tried, range(1, len(tried) + 1), color=report.BLUE)
    left.set(title="root keys checked once", xlabel="seconds since the worker's start", xlim=(0, None), ylim=(0, None))
    for place, (times, colour) in enumerate(((locked, report.BLUE), (unlocked, report.GREEN))):
        right.scatter([place] * len(times), times, color=colour, alpha=0.6)
        right.scatter([place], [percentile(times, 95)], color=colour, marker="_", s=600, lw=3)
    right.axhline(_LIMIT_SECONDS, color=report.RED, ls="--", label=f"limit for p95 (bars), {_LIMIT_SECONDS:g} s")
    right.set(title="a used key is disabled, and enabled again", ylabel="seconds", xlim=(-0.6, 1.6), ylim=(0, None))
    right.set_xticks((0, 1), ("tenant locked", "tenant unlocked"))
    right.legend()
    return figure
