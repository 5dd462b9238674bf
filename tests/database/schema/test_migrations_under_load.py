"""Migrations while processes use the database: no request waits long, and no file needs a stop of the processes."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Self

import psycopg
import pytest
from pglast import ast, enums, parse_sql

from core.errors.platform import DatabaseUnavailable
from database.schema.migrate import LOCK_MILLISECONDS, Migration, migrate, read_migrations
from tests.database.fixtures import Field

pytestmark = pytest.mark.integration

KNOWN = read_migrations()
ONLINE = 17
"""Later migrations run while processes of the former version serve."""
ALTERING = Migration(9001, "9001_note.sql", "alter table okcm.tenant add column note text")
INDEX = Migration(
    9002,
    "9002_index.sql",
    "-- without transaction\ndrop index concurrently if exists okcm.by_region;\n"
    "create index concurrently by_region on okcm.tenant (region);\n",
)


@pytest.fixture
def migrator(field: Field) -> Iterator[psycopg.Connection]:
    with psycopg.connect(field.server.session(field.name, "migrator"), autocommit=True) as connection:
        yield connection


class Requests:
    """Transactions of a process, one after another, and the longest time of one."""

    def __init__(self, field: Field) -> None:
        self.longest = 0.0
        self.count = 0
        self._database = field.open("worker")
        self._stop = threading.Event()
        self._threads = ThreadPoolExecutor(1)

    def __enter__(self) -> Self:
        self._running = self._threads.submit(self._run)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._running.result()
        self._threads.shutdown()

    def _run(self) -> None:
        while not self._stop.wait(0.01):
            began = time.monotonic()
            with self._database.tenant_tx("acme") as tx:
                tx.tenants.get()
            self.longest = max(self.longest, time.monotonic() - began)
            self.count += 1


def test_migration_waits_for_a_long_reader_in_attempts_and_requests_continue(
    field: Field, migrator: psycopg.Connection
) -> None:
    progress: list[str] = []

    def report(line: str) -> None:
        progress.append(line)
        if len(progress) == 3:
            reader.rollback()

    with psycopg.connect(field.server.administrator(field.name)) as reader, Requests(field) as requests:
        reader.execute("select * from okcm.tenant")
        assert migrate(migrator, [*KNOWN, ALTERING], report=report) == (ALTERING.name,)
        before = requests.count
    assert before > 10
    assert progress[0] == "9001_note.sql waits for another transaction; attempt 2 in 0.5 s"
    # Each waits for one attempt at most; the rest of the limit is for a busy machine.
    assert requests.longest < LOCK_MILLISECONDS / 1000 + 2


def test_migration_gives_up_after_its_attempts_and_changes_nothing(field: Field, migrator: psycopg.Connection) -> None:
    with psycopg.connect(field.server.administrator(field.name)) as reader:
        reader.execute("select * from okcm.tenant")
        with pytest.raises(DatabaseUnavailable, match="did not get its locks in 2 attempts") as refused:
            migrate(migrator, [*KNOWN, ALTERING], pauses=[0.1])
        assert "pg_stat_activity" in refused.value.hint
        columns = reader.execute("select from information_schema.columns where column_name = 'note'").fetchall()
        assert columns == []
    assert migrate(migrator, [*KNOWN, ALTERING]) == (ALTERING.name,)


def test_second_migrator_waits_for_all_attempts_of_the_first(field: Field, migrator: psycopg.Connection) -> None:
    done: list[tuple[str, ...]] = []

    def second() -> None:
        with psycopg.connect(field.server.session(field.name, "migrator"), autocommit=True) as connection:
            done.append(migrate(connection, [*KNOWN, ALTERING]))

    threads: list[threading.Thread] = []

    def report(_progress: str) -> None:
        if not threads:
            threads.append(threading.Thread(target=second))
            threads[0].start()
        elif len(threads) == 1 and time.monotonic() - began > 3:
            reader.rollback()

    began = time.monotonic()
    with psycopg.connect(field.server.administrator(field.name)) as reader:
        reader.execute("select * from okcm.tenant")
        assert migrate(migrator, [*KNOWN, ALTERING], report=report) == (ALTERING.name,)
    threads[0].join(60)
    assert done == [()]


def test_index_is_created_concurrently_and_again_after_an_interruption(
    field: Field, migrator: psycopg.Connection
) -> None:
    with psycopg.connect(field.server.administrator(field.name), autocommit=True) as administrator:
        # What an interrupted attempt leaves.
        administrator.execute("create index by_region on okcm.tenant (region)")
        administrator.execute("alter index okcm.by_region owner to okcm_owner")
        administrator.execute("update pg_index set indisvalid = false where indexrelid = 'okcm.by_region'::regclass")
        with psycopg.connect(field.server.administrator(field.name)) as reader, Requests(field) as requests:
            reader.execute("select * from okcm.tenant")
            creating = threading.Thread(target=migrate, args=[migrator, [*KNOWN, INDEX]])
            creating.start()
            creating.join(LOCK_MILLISECONDS / 1000 * 3)
            assert creating.is_alive()
            reader.rollback()
            creating.join(60)
        assert requests.longest < 2
        valid = administrator.execute(
            "select indisvalid from pg_index where indexrelid = 'okcm.by_region'::regclass"
        ).fetchall()
        assert valid == [(True,)]
        assert migrate(migrator, [*KNOWN, INDEX]) == ()


def offline_statements(migration: Migration) -> list[str]:
    """Return the statements of a migration for which processes of the former version would have to stop."""
    statements = [found.stmt for found in parse_sql(migration.text)]
    new = {one.relation.relname for one in statements if isinstance(one, ast.CreateStmt)}
    found = []
    for one in statements:
        if isinstance(one, ast.IndexStmt) and one.relation.relname not in new and not one.concurrent:
            found.append("create index")
        elif isinstance(one, ast.AlterTableStmt) and one.relation.relname not in new:
            found += [reason for command in one.cmds if (reason := offline_change(command, migration))]
        elif isinstance(one, ast.UpdateStmt | ast.DeleteStmt) and one.whereClause is None:
            found.append("change of all rows")
        elif isinstance(one, ast.ClusterStmt | ast.LockStmt | ast.TruncateStmt | ast.VacuumStmt | ast.ReindexStmt):
            found.append(type(one).__name__)
        elif isinstance(one, ast.RenameStmt | ast.DropStmt) and removes(one) and not migration.oldest_process:
            found.append("removal without an oldest process")
    return found


def offline_change(command: ast.AlterTableCmd, migration: Migration) -> str:
    kind = enums.AlterTableType
    if command.subtype in {kind.AT_AlterColumnType, kind.AT_SetNotNull}:
        return "rewrite or scan of the table"
    if command.subtype == kind.AT_DropColumn:
        return "" if migration.oldest_process else "removal without an oldest process"
    if command.subtype == kind.AT_AddConstraint and not command.def_.skip_validation:
        return "" if command.def_.indexname else "constraint without NOT VALID"
    if command.subtype == kind.AT_AddColumn:
        return volatile_default(command.def_)
    return ""


def volatile_default(column: ast.ColumnDef) -> str:
    """Only a constant is stored once for all rows; PostgreSQL 15 rewrites the table for a volatile function."""
    defaults = [one.raw_expr for one in column.constraints or () if one.contype == enums.ConstrType.CONSTR_DEFAULT]
    constant = (ast.A_Const, ast.TypeCast)
    return "rewrite for a default that is no constant" if any(not isinstance(d, constant) for d in defaults) else ""


def removes(statement: ast.RenameStmt | ast.DropStmt) -> bool:
    if isinstance(statement, ast.RenameStmt):
        return True
    kind = enums.ObjectType
    used = {kind.OBJECT_TABLE, kind.OBJECT_FUNCTION, kind.OBJECT_VIEW, kind.OBJECT_TYPE, kind.OBJECT_SEQUENCE}
    return statement.removeType in used


@pytest.mark.parametrize("migration", [one for one in KNOWN if one.version >= ONLINE], ids=lambda one: one.name)
def test_migration_needs_no_stop_of_the_processes(migration: Migration) -> None:
    assert offline_statements(migration) == []
    if not migration.has_transaction:
        statements = [found.stmt for found in parse_sql(migration.text)]
        assert all(isinstance(one, ast.IndexStmt | ast.DropStmt) and one.concurrent for one in statements)


@pytest.mark.parametrize(
    "text",
    [
        "create index x on okcm.tenant (region)",
        "alter table okcm.tenant alter column region type varchar",
        "alter table okcm.tenant alter column region set not null",
        "alter table okcm.tenant add constraint x check (region <> '')",
        "alter table okcm.tenant add constraint x foreign key (tenant_id, a) references okcm.key",
        "alter table okcm.tenant add constraint x unique (tenant_id, region)",
        "alter table okcm.tenant add column x timestamptz not null default clock_timestamp()",
        "alter table okcm.tenant drop column region",
        "alter table okcm.tenant rename column region to place",
        "drop table okcm.tenant",
        "drop function okcm.ctx_ok()",
        "update okcm.tenant set region = ''",
        "delete from okcm.tenant",
        "lock table okcm.tenant",
        "cluster okcm.tenant using x",
        "truncate okcm.tenant",
    ],
)
def test_statement_that_needs_a_stop_is_rejected(text: str) -> None:
    assert len(offline_statements(Migration(9001, "9001_x.sql", text))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "create table okcm.x (a int not null); create index on okcm.x (a); alter table okcm.x alter column a type text",
        "create index concurrently x on okcm.tenant (region)",
        "alter table okcm.tenant add column x integer not null default 0",
        "alter table okcm.tenant add constraint x check (region <> '') not valid",
        "alter table okcm.tenant validate constraint x",
        "alter table okcm.tenant add constraint x unique using index y",
        "-- oldest process: 0017\nalter table okcm.tenant drop column region",
        "update okcm.tenant set region = '' where region is null",
        "drop trigger x on okcm.tenant",
    ],
)
def test_statement_of_the_expand_and_contract_pattern_is_accepted(text: str) -> None:
    assert offline_statements(Migration(9001, "9001_x.sql", text)) == []
