"""Processes and schemas of different releases."""

import threading
import time
from itertools import pairwise

import psycopg
import pytest

from core.errors.platform import DatabaseUnavailable, ReleaseOutdated, SchemaOutdated, SchemaRefused
from database.connection import database as connections
from database.connection.database import Database
from database.connection.readiness import DatabaseReadiness
from database.postgres.access import PLATFORM, PROCESSES
from database.schema.migrate import Migration, migrate, missing_migrations, read_migrations
from database.schema.version import NEWEST
from tests.concurrency import wait_until
from tests.database.fixtures import Field
from tests.database.schemas import outdate

KNOWN = read_migrations()
EXPAND = Migration(NEWEST + 1, f"{NEWEST + 1:04}_expand.sql", "create table okcm.more (x int)")
CONTRACT = Migration(
    NEWEST + 2, f"{NEWEST + 2:04}_contract.sql", f"-- oldest process: {NEWEST + 1:04}\ndrop table okcm.more"
)


def apply(field: Field, *migrations: Migration) -> tuple[str, ...]:
    with psycopg.connect(field.server.session(field.name, "migrator"), autocommit=True) as connection:
        return migrate(connection, migrations)


@pytest.mark.parametrize("role", PROCESSES)
def test_process_before_the_migration_reports_it_and_works_after_it(field: Field, role: str) -> None:
    migrate_again = outdate(field)
    process = field.open(role)
    for _ in range(2):
        with pytest.raises(SchemaOutdated) as refused:
            process.require_ready()
    assert str(refused.value) == f"the database has schema {KNOWN[-2].version}, this version needs {NEWEST}"
    assert "openkcmctl setup database" in refused.value.hint
    assert refused.value.retryable
    migrate_again()
    process.require_ready()


@pytest.mark.parametrize("drop", ["drop function okcm.schema_version()", "drop schema okcm cascade"])
def test_database_without_a_version_is_an_older_one(field: Field, drop: str) -> None:
    with field.administrator() as administrator:
        administrator.execute(drop)
    with pytest.raises(SchemaOutdated, match="the database has an older schema, this version needs"):
        field.open("worker").require_ready()


def test_process_works_with_a_later_schema_until_a_migration_excludes_it(
    field: Field, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "SCHEMA_CHECK_SECONDS", 0.1)
    process = field.open("worker", max_size=1)
    process.require_ready()
    assert apply(field, *KNOWN, EXPAND) == (EXPAND.name,)
    time.sleep(0.2)
    process.require_ready()
    assert apply(field, *KNOWN, EXPAND, CONTRACT) == (CONTRACT.name,)
    time.sleep(0.2)
    with pytest.raises(ReleaseOutdated) as refused:
        process.require_ready()
    assert str(refused.value) == (
        f"the database has schema {CONTRACT.version}, which permits processes from {EXPAND.version};"
        f" this version has {NEWEST}"
    )


def test_migrator_changes_nothing_in_a_later_schema_that_permits_it(field: Field) -> None:
    apply(field, *KNOWN, EXPAND)
    assert apply(field, *KNOWN) == ()
    with psycopg.connect(field.server.session(field.name, "migrator"), autocommit=True) as connection:
        assert missing_migrations(connection, KNOWN) == ()
    apply(field, *KNOWN, EXPAND, CONTRACT)
    with pytest.raises(SchemaRefused, match=f"permits processes from schema {EXPAND.version}"):
        apply(field, *KNOWN)
    with (
        psycopg.connect(field.server.session(field.name, "migrator"), autocommit=True) as connection,
        pytest.raises(SchemaRefused, match="permits processes"),
    ):
        missing_migrations(connection, KNOWN)


@pytest.mark.parametrize("text", ["select * from okcm.gone", "select gone from okcm.tenant", "select okcm.gone()"])
def test_missing_object_is_an_outdated_schema_and_not_a_refusal(worker: Database, text: str) -> None:
    with pytest.raises(SchemaOutdated, match="gone"), worker.raw_tx(PLATFORM) as connection:
        connection.execute(text.encode())


def test_session_cannot_change_the_version_or_read_the_migrations(field: Field) -> None:
    for role in PROCESSES:
        for attack in (
            "select * from okcm.schema_migration",
            "update okcm.schema_migration set oldest_process = 9999",
            "insert into okcm.schema_migration values (9999, 'x', '')",
            "create or replace function okcm.schema_version() returns int language sql as 'select 1'",
        ):
            with field.session(role) as session, pytest.raises(psycopg.errors.InsufficientPrivilege):
                session.execute(attack.encode())


def test_readiness_names_what_is_wrong_and_recovers(field: Field) -> None:
    process = field.open("marketplace")
    readiness = DatabaseReadiness(process)
    assert readiness.answer() == (503, {"status": "not_ready", "reasons": ["not_checked"]})
    migrate_again = outdate(field)
    readiness.start()
    try:
        for repair, reasons in ((None, ["schema_outdated"]), (migrate_again, [])):
            if repair is not None:
                repair()
            wait_until(lambda reasons=reasons: readiness.answer()[1]["reasons"] == reasons)
        assert readiness.answer() == (200, {"status": "ready", "reasons": []})
        with field.server.offline(field.name):
            wait_until(lambda: readiness.faults == ("database_unavailable",))
            wait_until(lambda: readiness.is_unavailable)
            with pytest.raises(DatabaseUnavailable):
                readiness.require()
        wait_until(lambda: readiness.faults == ())
        readiness.require()
        with field.administrator() as administrator:
            administrator.execute("alter role okcm_marketplace createrole")
            try:
                administrator.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'okcm_marketplace'"
                )
                wait_until(lambda: readiness.faults == ("database_refused",))
            finally:
                administrator.execute("alter role okcm_marketplace nocreaterole")
    finally:
        readiness.stop()
    assert not [one for one in threading.enumerate() if one.name == "readiness"]


def test_migrations_name_processes_that_exist() -> None:
    for former, later in pairwise(KNOWN):
        assert later.oldest_process <= former.version
