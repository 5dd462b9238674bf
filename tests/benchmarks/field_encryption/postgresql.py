"""Cost of column encryption in an application for its statements: plain and under `openkcm run`, in turns."""

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from matplotlib.figure import Figure

from config.secrets import Role
from devstack.servers.postgres import PostgresServer
from tests.benchmarks.field_encryption.postgresql_app import RANGE
from tests.benchmarks.harness.ab_runner import Cases, Side, compare, network, plot, protected, relayed, sides
from tests.benchmarks.harness.service_fixture import connected_stack
from tests.benchmarks.harness.stack import Stack
from tests.benchmarks.report import Check, Result

_TENANT = "bench-corp-1"
_PROGRAM = Path(__file__).with_name("postgresql_app.py")
_SIZES = (32, 1024)
_DELAYS = (0.0, 0.5, 2.0)
_POINTS = (
    "nothing protected",
    "select, 1 column",
    "select, 4 columns",
    "insert, 4 columns",
    "update by key, 1 column",
)
_RANGE = "select, 500 rows of 4 columns"
_REPORTED_WORKLOAD = "select, 4 columns"
_PROMISED = ("select, 4 columns", "insert, 4 columns")
_LIMIT = 5.0
_FIRST_REPORT_SECONDS = 12.0
"""A program sends its first report after 5 seconds, and the crypto service stores it within 2."""
_PROTOCOL = (
    "One stack, one tenant, one service of kind postgresql; its database is a separate one in the stack's PostgreSQL, "
    "as installed (fsync on). The same program (tests/benchmarks/field_encryption/postgresql_app.py, psycopg "
    "{psycopg} in C, autocommit, "
    "one connection, statements prepared by the driver) runs twice, plain and under `openkcm run`, each on separate "
    "tables with equal contents: an identity as primary key and four text columns, {rows} rows each, written by that "
    "program, vacuumed, and read once by it before the measurement, so that rows are in PostgreSQL's memory and the "
    "column keys are in the cache. As usual, keys are unwrapped again every 30 s. The two take turns in blocks of "
    "{points} statements ({ranges} where {range} rows are read), {rounds} rounds after one that does not count, and "
    "the order changes with each round. Each program and its server process are pinned to one processor, and the relay "
    "to another, so that the kernel's scheduling is not measured. A statement's time is from `execute` to the last row "
    "fetched. A block counts with its median, a side with the median of its blocks. Also stated are the range of the "
    "middle half of the rounds, and the time of the plain statement from which the added time is less than 5 %. "
    "All "
    "over loopback, and then with a relay for both sides (tests/benchmarks/harness/delay_relay.py) that adds a "
    "round trip of 0.5 and "
    "2 ms and its own overhead, as a network would. Last, the program runs one workload alone, and its report to the "
    "crypto service is read as on the Services page: it covers rewriting, encryption and decryption, without the "
    "additional time in the driver."
)


@dataclass(frozen=True)
class Plan:
    """The amount of work: rows of each table, rounds, and statements of a block."""

    rows: int = 2000
    rounds: int = 21
    points: int = 100
    ranges: int = 8


def run(*, quick: bool) -> tuple[Result, Figure]:
    plan = Plan(rounds=2, points=10, ranges=2) if quick else Plan()
    delays = _DELAYS[:2] if quick else _DELAYS
    with connected_stack(_TENANT, "postgresql") as (stack, folder):
        server = PostgresServer(stack.settings.state_dir, stack.settings.postgres_port)
        conninfo = psycopg.conninfo.make_conninfo(server.admin_conninfo, dbname="bench")
        with psycopg.connect(server.admin_conninfo, autocommit=True) as admin:
            admin.execute("CREATE DATABASE bench")
        found = measure(conninfo, folder, delays, plan)
        reported = _reported(stack, folder, conninfo, plan)
    protocol = _PROTOCOL.format(psycopg=psycopg.__version__, range=RANGE, **asdict(plan))
    result = Result(
        name="protected_postgresql",
        title="PostgreSQL: columns encrypted inside the application",
        quick=quick,
        protocol=protocol,
        checks=[
            Check(f"{workload}, 32 bytes, {network(delay)}", round(one.overhead, 1), _LIMIT, "%")
            for (size, delay, workload), one in found.items()
            if size == _SIZES[0] and workload in _PROMISED
        ],
        summary={
            f"{workload}, {size} bytes, {network(delay)}": one.summary()
            for (size, delay, workload), one in found.items()
        }
        | {f"reported by the program for {_REPORTED_WORKLOAD}, 32 bytes, loopback": reported},
        samples={
            f"{workload}, {size} bytes, {network(delay)}": {"plain": one.plain, "protected": one.protected}
            for (size, delay, workload), one in found.items()
        },
    )
    title = "What protection adds to a statement, values of 32 bytes"
    return result, plot(found, (*_POINTS, _RANGE), delays, _SIZES[0], _LIMIT, title)


def measure(conninfo: str, folder: Path, delays: Sequence[float], plan: Plan) -> Cases:
    """Create the tables in an empty database and compare the sides."""
    found: Cases = {}
    port = int(psycopg.conninfo.conninfo_to_dict(conninfo)["port"] or 0)
    _make_tables(conninfo)
    with sides(_PROGRAM, folder) as programs:
        for name, side in programs.items():
            side.connect(conninfo)
            for size in _SIZES:
                side.do("fill", table=f"{name}_{size}", rows=plan.rows, size=size)
        for delay in delays:
            with relayed(port, delay) as reached:
                for side in programs.values():
                    side.connect(psycopg.conninfo.make_conninfo(conninfo, port=reached))
                for size in _SIZES:
                    for workload in (*_POINTS, _RANGE):
                        count = plan.ranges if workload == _RANGE else plan.points
                        how = _how(programs, workload, size, rows=plan.rows, count=count)
                        found[size, delay, workload] = compare(programs, how, plan.rounds)
    return found


def _reported(stack: Stack, folder: Path, conninfo: str, plan: Plan) -> dict[str, float]:
    """Run one workload alone, and return the program's report as on the Services page."""
    statements = plan.points * plan.rounds
    block = {"workload": _REPORTED_WORKLOAD, "table": "protected_32", "rows": plan.rows, "size": 32}
    side = Side(protected(_PROGRAM, folder))
    side.connect(conninfo)
    side.do("block", **block, count=plan.points)  # fills the cache of keys; reported before the measurement
    time.sleep(_FIRST_REPORT_SECONDS)
    before = _stored_reports(stack)
    side.do("block", **block, count=statements)
    side.end()
    deadline = time.monotonic() + 30
    while (now := _stored_reports(stack))[0] < before[0] + statements and time.monotonic() < deadline:
        time.sleep(0.5)
    requests, spent, lasted = (new - old for new, old in zip(now, before, strict=True))
    return {
        "encryption (µs a statement)": round(spent / requests, 1),
        "statement (µs)": round(lasted / requests, 1),
        "overhead (%)": round(100 * spent / (lasted - spent), 1),
    }


def _stored_reports(stack: Stack) -> tuple[int, int, int]:
    """Return the statements on the first column, and the microseconds of encryption and statements on all columns."""
    today = datetime.now(UTC).date()
    with closing(stack.database(Role.DASHBOARD)) as database, database.tenant_tx(_TENANT) as tx:
        rows = [row for row in tx.agents.uses(today, today) if row.place.startswith("postgresql:public.protected_32.")]
    return (
        sum(row.requests for row in rows if row.place.endswith(".a")),
        sum(row.microseconds for row in rows),
        sum(row.request_microseconds for row in rows),
    )


def _how(programs: Mapping[str, Side], workload: str, size: int, *, rows: int, count: int) -> dict[str, dict[str, Any]]:
    block = {"workload": workload, "rows": rows, "size": size, "count": count}
    return {name: block | {"table": f"{name}_{size}"} for name in programs}


def _make_tables(conninfo: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as owner:
        owner.execute("CREATE TABLE other (id bigint PRIMARY KEY, a text)")
        owner.execute("INSERT INTO other SELECT n, 'a' FROM generate_series(1, 100000) AS n")
        for side in ("plain", "protected"):
            for size in _SIZES:
                table = f"{side}_{size}"
                owner.execute(
                    f"CREATE TABLE {table} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
                    " a text, b text, c text, d text)"
                )
                if side == "protected":
                    for column in "abcd":
                        owner.execute(f"COMMENT ON COLUMN {table}.{column} IS 'openkcm: encrypt'")
