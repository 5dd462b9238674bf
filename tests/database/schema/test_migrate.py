from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from core.errors.platform import SchemaRefused
from database.schema.migrate import Migration, migrate, read_migrations
from tests.concurrency import at_once
from tests.database.fixtures import Field

STANDING = read_migrations()
NEXT = Migration(len(STANDING) + 1, f"{len(STANDING) + 1:04}_more.sql", "create table okcm.more (x int)")


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
        ([replace(STANDING[0], text=STANDING[0].text + " "), *STANDING[1:], NEXT], "was edited"),
        ([*STANDING[:-1]], "is missing"),
        ([*STANDING[:-1], replace(STANDING[-1], name="0005_other.sql"), NEXT], "is missing"),
    ],
)
def test_changed_history_prevents_all_migrations(
    migrator: psycopg.Connection, migrations: list[Migration], reason: str
) -> None:
    with pytest.raises(SchemaRefused, match=reason):
        migrate(migrator, migrations)
    assert not exists(migrator, "more")


def test_migration_with_a_lower_number_than_an_applied_one_is_rejected(migrator: psycopg.Connection) -> None:
    later = replace(NEXT, version=NEXT.version + 1, name="0099_later.sql")
    migrate(migrator, [*STANDING, later])
    with pytest.raises(SchemaRefused, match="lower number"):
        migrate(migrator, [*STANDING, replace(NEXT, text="create table okcm.late (x int)"), later])
    assert not exists(migrator, "late")


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


@pytest.mark.parametrize(
    "names", [["0001_a.sql", "0003_b.sql"], ["0001_a.sql", "two.sql"], ["0001_a.sql", "0001_b.sql"]]
)
def test_migrations_without_consecutive_numbers_are_rejected(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).write_text("select 1")
    with pytest.raises(SchemaRefused):
        read_migrations(tmp_path)
