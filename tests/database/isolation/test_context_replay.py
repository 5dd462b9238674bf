"""Hostile SQL in a transaction of one tenant replays the signed contexts of other transactions."""

import json
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psycopg
import pytest
from psycopg import ClientCursor
from psycopg.rows import TupleRow

from database.connection.database import Database
from database.postgres.access import PLATFORM
from tests.database.builders import an_event
from tests.database.fixtures import Field
from tests.database.templates import filled_template

ATTACKER = "acme"
OTHERS = tuple(f"tenant-{number:02}" for number in range(20))


def fill(field: Field) -> None:
    marketplace = field.open("marketplace")
    for tenant in (ATTACKER, *OTHERS):
        with marketplace.tenant_tx(tenant) as tx:
            tx.tenants.request(an_event(tenant))
            tx.inbox.accept(an_event(tenant))


template = filled_template(fill)

# What a context of another transaction would permit: rows of others, an event of others, a query of the platform.
_ATTACK = """
do $attack$
declare
    stolen record;
    reached bigint;
    breaches text[] := '{}';
begin
    for stolen in select * from jsonb_to_recordset(%(stolen)s::jsonb) as s(tenant_id text, context text) loop
        perform set_config('app.tenant_id', stolen.tenant_id, true), set_config('app.ctx', stolen.context, true);
        select count(*) into reached from okcm.tenant where tenant_id <> 'acme';
        if reached > 0 then
            breaches := breaches || ('row of ' || stolen.tenant_id);
        end if;
        begin
            insert into okcm.marketplace_event (tenant_id, event_id, kind, organization, region, occurred_at)
                values (stolen.tenant_id, 'forged', 'service_disabled', 'x', 'x', now());
            breaches := breaches || ('event of ' || stolen.tenant_id);
        exception
            when insufficient_privilege or unique_violation or check_violation then null;
        end;
        begin
            perform okcm.unstarted_events(10);
            breaches := breaches || 'platform function'::text;
        exception
            when insufficient_privilege then null;
        end;
    end loop;
    perform set_config('app.breaches', to_jsonb(breaches)::text, true);
end
$attack$;
select current_setting('app.breaches')
"""
_STATEMENTS = "select concat_ws(' ', query, application_name) from pg_stat_activity where pid <> pg_backend_pid()"
_SIGNATURE = re.compile(r"[^\s']*[0-9a-f]{64}")

Stolen = tuple[str, str]
"""A tenant id and a context."""


def attack(connection: psycopg.Connection[TupleRow], stolen: list[Stolen]) -> set[str]:
    """Replay each context in this transaction; return what it reached."""
    cursor = ClientCursor(connection)
    attempts = [{"tenant_id": tenant_id, "context": context} for tenant_id, context in stolen]
    cursor.execute(_ATTACK, {"stolen": json.dumps(attempts)})
    cursor.nextset()
    [breaches] = cursor.fetchone() or ("",)
    return set(json.loads(breaches))


def read_statements(connection: psycopg.Connection[TupleRow]) -> list[Stolen]:
    """Return the contexts in the statements of other sessions, each for every tenant that it may belong to."""
    seen = [match for (text,) in connection.execute(_STATEMENTS) for match in _SIGNATURE.findall(text)]
    return [(tenant_id, context) for context in set(seen) for tenant_id in (*OTHERS, PLATFORM)]


def context_of(connection: psycopg.Connection[TupleRow]) -> str:
    [context] = connection.execute("select current_setting('app.ctx')").fetchone() or ("",)
    return str(context)


@contextmanager
def transactions_of_others(marketplace: Database, leak: Callable[[Stolen], None]) -> Iterator[None]:
    """Run transactions of 20 tenants and of the platform; each passes its context to `leak` while it is open."""
    stop = threading.Event()

    def work(tenant_id: str) -> None:
        while not stop.is_set():
            with marketplace.raw_tx(tenant_id) as connection:
                leak((tenant_id, context_of(connection)))
                stop.wait(0.02)
                if tenant_id == PLATFORM:
                    assert len(connection.execute("select okcm.unstarted_events(50)").fetchall()) == 1 + len(OTHERS)
                else:
                    assert connection.execute("select tenant_id from okcm.tenant").fetchall() == [(tenant_id,)]

    with ThreadPoolExecutor(len(OTHERS) + 1) as pool:
        works = [pool.submit(work, tenant_id) for tenant_id in (*OTHERS, PLATFORM)]
        try:
            yield
        finally:
            stop.set()
        for done in works:
            done.result()


@pytest.mark.parametrize("seconds", [2.0, pytest.param(60.0, marks=pytest.mark.full)])
def test_hostile_sql_beside_20_tenants_reaches_none_of_them(field: Field, seconds: float) -> None:
    marketplace = field.open("marketplace", max_size=24)
    leaked: deque[Stolen] = deque(maxlen=200)
    tried: set[str] = set()
    breaches: set[str] = set()
    read: list[Stolen] = []
    end = threading.Event()
    timer = threading.Timer(seconds, end.set)
    timer.start()
    with transactions_of_others(marketplace, leaked.append):
        while not end.is_set():
            # A new transaction each time: the pool returns connections that others used before.
            with marketplace.raw_tx(ATTACKER) as connection:
                # The statements of others are one way to a context. The attacker also gets those of any other way.
                read, others = read_statements(connection), list(leaked)
                breaches |= {f"{breach}, context read in a statement" for breach in attack(connection, read)}
                breaches |= {f"{breach}, context given" for breach in attack(connection, others)}
                tried |= {tenant_id for tenant_id, _ in others}
    assert tried == {*OTHERS, PLATFORM}
    assert breaches == set()
    assert read == []
    with field.administrator() as administrator:
        forged = administrator.execute("select tenant_id from okcm.marketplace_event where event_id = 'forged'")
        assert forged.fetchall() == []


@pytest.mark.parametrize("victim", [OTHERS[0], PLATFORM])
def test_context_is_valid_in_no_later_transaction_of_its_session(field: Field, victim: str) -> None:
    marketplace = field.open("marketplace", max_size=1)
    with marketplace.raw_tx(victim) as connection:
        stolen = [(victim, context_of(connection))]
        session = connection.info.backend_pid
    with marketplace.raw_tx(ATTACKER) as connection:
        assert connection.info.backend_pid == session
        assert attack(connection, stolen) == set()


@pytest.mark.parametrize("victim", [OTHERS[0], PLATFORM])
def test_context_is_valid_in_no_other_session(field: Field, victim: str) -> None:
    marketplace, another = field.open("marketplace"), field.open("marketplace")
    with marketplace.raw_tx(victim) as theirs:
        with another.raw_tx(ATTACKER) as connection:
            assert attack(connection, [(victim, context_of(theirs))]) == set()
        assert theirs.execute("select okcm.ctx_ok()").fetchone() == (True,)


def test_context_holds_in_savepoints_and_parallel_workers(field: Field) -> None:
    with field.open("worker").raw_tx(ATTACKER) as connection:
        count = "select count(*) from okcm.tenant"
        with connection.transaction(force_rollback=True):
            assert connection.execute(count).fetchone() == (1,)
        assert connection.execute(count).fetchone() == (1,)
        connection.execute(
            "set local parallel_setup_cost = 0; set local parallel_tuple_cost = 0; set local enable_indexscan = off;"
            "set local min_parallel_table_scan_size = 0; set local enable_bitmapscan = off"
        )
        plan = str(connection.execute(f"explain (format json) {count}").fetchone())
        assert "'Workers Planned'" in plan
        assert connection.execute(count).fetchone() == (1,)
