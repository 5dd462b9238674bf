from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from core.errors.platform import SchemaRefused
from database.schema.migrate import Migration, migrate, missing_migrations, read_migrations
from tests.concurrency import at_once
from tests.database.fixtures import Field

STANDING = read_migrations()
NEXT = Migration(9001, "9001_more.sql", "create table okcm.more (x int)")
LATER = Migration(9003, "9003_later.sql", "create table okcm.later (x int)")


@pytest.fixture
def migrator(field: Field) -> Iterator[psycopg.Connection]:
    with psycopg.connect(field.server.session(field.name, "migrator"), autocommit=True) as connection:
        yield connection


def exists(connection: psycopg.Connection, table: str) -> bool:
    return connection.execute("select to_regclass(%s)", [f"okcm.{table}"]).fetchone() != (None,)


def test_migration_is_applied_once(migrator: psycopg.Connection) -> None:
    assert migrate(migrator, STANDING) == ()
    assert migrate(migrator, [*STANDING, NEXT]) == (NEXT.name,)
    assert migrate(migrator, [*STANDING, NEXT]) == ()


@pytest.mark.parametrize(
    ("migrations", "reason"),
    [
        ([*STANDING, replace(NEXT, text=NEXT.text + " "), LATER], "was edited"),
        ([*STANDING, LATER], "is missing"),
        ([*STANDING, replace(NEXT, name="9001_other.sql"), LATER], "is missing"),
    ],
)
def test_changed_history_prevents_all_migrations(
    migrator: psycopg.Connection, migrations: list[Migration], reason: str
) -> None:
    migrate(migrator, [*STANDING, NEXT])
    with pytest.raises(SchemaRefused, match=reason):
        migrate(migrator, migrations)
    assert not exists(migrator, "later")


def test_database_of_another_baseline_is_rejected_with_the_next_step(migrator: psycopg.Connection) -> None:
    """A development version applied the migrations 0001 to 0010, which became one baseline."""
    migrator.execute("set role okcm_owner")
    migrator.execute("update okcm.schema_migration set sha256 = %s where version = 1", ["0" * 64])
    migrator.execute(
        "insert into okcm.schema_migration values (10, '0010_event_before_destruction.sql', %s)", ["1" * 64]
    )
    for check in (migrate, missing_migrations):
        with pytest.raises(SchemaRefused, match=r"another 0001_baseline\.sql") as refused:
            check(migrator, [*STANDING, NEXT])
        assert "a new database and a new state folder (docs/upgrading.md#data)" in refused.value.hint
    assert not exists(migrator, "more")


def test_migration_with_a_lower_number_than_an_applied_one_is_rejected(migrator: psycopg.Connection) -> None:
    migrate(migrator, [*STANDING, LATER])
    with pytest.raises(SchemaRefused, match="lower number"):
        migrate(migrator, [*STANDING, NEXT, LATER])
    assert not exists(migrator, "more")


def test_failed_migration_is_rolled_back(migrator: psycopg.Connection) -> None:
    with pytest.raises(psycopg.errors.UndefinedTable):
        migrate(migrator, [*STANDING, replace(NEXT, text="create table okcm.more (x int); select * from okcm.no")])
    assert not exists(migrator, "more")
    assert migrate(migrator, [*STANDING, NEXT]) == (NEXT.name,)


def test_migration_that_violates_a_schema_rule_is_rejected(migrator: psycopg.Connection) -> None:
    hole = replace(NEXT, text="create view okcm.hole as select * from okcm.key")
    with pytest.raises(SchemaRefused, match="view-with-owners-rights: hole"):
        migrate(migrator, [*STANDING, hole])


def test_concurrent_migrators_apply_each_migration_once(field: Field) -> None:
    def run() -> tuple[str, ...]:
        with psycopg.connect(field.server.session(field.name, "migrator"), autocommit=True) as connection:
            return migrate(connection, [*STANDING, NEXT])

    assert sorted(at_once(*[run] * 4)) == [(), (), (), (NEXT.name,)]


def test_numbers_of_migrations_may_have_gaps(tmp_path: Path) -> None:
    for name in ("0012_c.sql", "0001_a.sql", "0011_b.sql"):
        (tmp_path / name).write_text("select 1")
    assert [migration.version for migration in read_migrations(tmp_path)] == [1, 11, 12]


@pytest.mark.parametrize("names", [["0001_a.sql", "two.sql"], ["0001_a.sql", "0001_b.sql"]])
def test_migrations_without_distinct_numbers_are_rejected(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).write_text("select 1")
    with pytest.raises(SchemaRefused):
        read_migrations(tmp_path)
