"""Layouts of the audit stream: appends, reads and deletion of a month with and without partitions by month.

`python -m tests.benchmarks.audit_partitions [RECORDS]`: prints a table; docs/adr/0015 has the figures. The statements
are those of `okcm.audit_append_all`, of a page and of the deletion, on tables without row security.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from devstack.servers.postgres import PostgresServer
from tests import ports

MONTHS = 37
TENANTS = 200
_COLUMNS = (
    "tenant_id text not null, seq bigint not null, event_id text not null, record text not null, hash bytea not null"
)
LAYOUTS = ("hash 16", "month 37", "hash 16 x month 37")


def create(connection: psycopg.Connection, layout: str) -> None:
    """Create table `event` with the keys that the layout permits: a unique key includes the partition key."""
    connection.execute("drop table if exists event")
    if layout == "month 37":
        connection.execute(
            f"create table event ({_COLUMNS}, at date not null, primary key (tenant_id, seq, at),"
            " unique (tenant_id, event_id, at)) partition by range (at)"
        )
        _months(connection, "event")
        return
    at = ", at" if "month" in layout else ""
    connection.execute(
        f"create table event ({_COLUMNS}, at date not null, primary key (tenant_id, seq{at}),"
        f" unique (tenant_id, event_id{at})) partition by hash (tenant_id)"
    )
    for number in range(16):
        below = "partition by range (at)" if at else ""
        connection.execute(
            f"create table event_{number} partition of event for values with (modulus 16, remainder {number}) {below}"
        )
        if at:
            _months(connection, f"event_{number}")


def _months(connection: psycopg.Connection, parent: str) -> None:
    for month in range(MONTHS):
        begin, end = (f"(date '2024-01-01' + interval '{n} months')::date" for n in (month, month + 1))
        connection.execute(
            f"do $$ begin execute format('create table {parent}_m{month} partition of {parent}"
            f" for values from (%L) to (%L)', {begin}, {end}); end $$"
        )


_APPEND = """
create or replace function append(tenant text, number bigint, day date) returns void language plpgsql as $$
declare known bigint;
begin
    select count(*) into known from event e where e.tenant_id = tenant and e.event_id = any (array['new-' || number]);
    if known = 0 then
        insert into event values (tenant, number, 'new-' || number, repeat('r', 500), sha256(tenant::bytea), day);
    end if;
end $$
"""


def fill(connection: psycopg.Connection, records: int) -> None:
    connection.execute(
        "insert into event select 'tenant-' || n %% %(tenants)s, n / %(tenants)s + 1, 'operation/' || md5(n::text),"
        " repeat('r', 500), sha256(n::text::bytea),"
        " date '2024-01-01' + ((n::float8 / %(records)s) * 36 * 30.4)::integer from generate_series(0, %(last)s) n",
        {"tenants": TENANTS, "records": records, "last": records - 1},
    )
    connection.execute("vacuum analyze event")


def measure(connection: psycopg.Connection, layout: str, records: int) -> dict[str, float]:
    create(connection, layout)
    connection.execute(_APPEND)
    fill(connection, records)
    found, each = {}, records // TENANTS + 1
    connection.execute("select append('tenant-0', 900000000, '2027-01-15')")

    # A commit waits for the disk, which is the same for all layouts.
    connection.execute("set synchronous_commit = off")
    append = "select append(%s, %s, '2027-01-15')"
    found["append, ms"] = _median(
        partial(connection.execute, append, [f"tenant-{number % TENANTS}", each + 1 + number]) for number in range(4000)
    )
    page = "select seq, record, hash from event where tenant_id = %s and seq > %s order by seq limit 50"
    found["page, ms"] = _median(
        partial(connection.execute, page, [f"tenant-{number % TENANTS}", each - 200]) for number in range(1000)
    )
    if layout == "hash 16":
        month = each // 36
        found["delete a month, s"] = _timed(lambda: delete(connection, month))
        found["delete the rest, s"] = _timed(lambda: delete(connection, each))
        return found
    parents = ["event"] if layout == "month 37" else [f"event_{number}" for number in range(16)]
    found["delete a month, s"] = _timed(lambda: [connection.execute(f"drop table {one}_m0") for one in parents])
    rest = [f"{one}_m{month}" for one in parents for month in range(1, MONTHS - 1)]
    found["delete the rest, s"] = _timed(lambda: [connection.execute(f"drop table {one}") for one in rest])
    return found


def delete(connection: psycopg.Connection, upto: int) -> None:
    """Delete each tenant's records up to a number, 5,000 in a transaction."""
    for tenant in range(TENANTS):
        for end in range(min(5000, upto), upto + 5000, 5000):
            connection.execute(
                "delete from event where tenant_id = %s and seq <= %s", [f"tenant-{tenant}", min(end, upto)]
            )


def _median(calls: Iterable[Callable[[], object]]) -> float:
    """Return the median duration of a call in milliseconds."""
    return statistics.median(_timed(call) for call in calls) * 1000


def _timed(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


@contextmanager
def server() -> Iterator[psycopg.Connection]:
    with tempfile.TemporaryDirectory() as folder:
        running = PostgresServer(Path(folder), ports.free_port())
        running.prepare()
        running.start()
        running.wait_ready(60)
        try:
            with psycopg.connect(
                make_conninfo(running.admin_conninfo, dbname="postgres"), autocommit=True
            ) as connection:
                yield connection
        finally:
            running.stop()


def main() -> None:
    records = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with server() as connection:
        for layout in LAYOUTS:
            figures = measure(connection, layout, records)
            print(layout, {name: round(value, 3) for name, value in figures.items()}, flush=True)


if __name__ == "__main__":
    main()
