"""Runner of the migrations `migrations/NNNN_name.sql`: in order, forward only, while processes use the database.

A file runs in one transaction. It waits a second for a lock, because all later queries of the table wait behind it.
Then it is rolled back and repeated. Only a file with a line `-- without transaction` runs statement by statement, to
create an index concurrently; it is repeated after an interruption, so it begins with the removal of an incomplete one.

An applied file must not change, disappear or get a lower successor. The recorded SHA-256 proves a violation, and then
no migration runs. Numbers may have gaps. Afterwards `lint` checks the whole schema; a finding fails the run.

Processes of the former version run during a migration and after it. A migration that removes what they use has a line
`-- oldest process: NNNN`: the newest migration of the oldest version that still works (`database.schema.version`).
"""

import hashlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import psycopg
from psycopg import errors, sql

from core.errors.platform import DatabaseUnavailable, SchemaRefused
from database.postgres.access import OWNER
from database.schema.lint import findings
from database.schema.setup_lock import LOCK_SECONDS, acquire_lock
from database.schema.version import MIGRATIONS

_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
_OLDEST_PROCESS = re.compile(r"^-- oldest process: (\d{4})$", re.MULTILINE)
_WITHOUT_TRANSACTION = re.compile(r"^-- without transaction$", re.MULTILINE)
_LOCK = 0x6F6B636D  # "okcm": one migrator at a time per database

LOCK_MILLISECONDS = 1000
"""Less than the `lock_timeout` of the processes (`SESSION_SETTINGS`), so that their queries succeed afterwards."""
PAUSES = (0.5, 1.0, 2.0, *[4.0] * 14)
"""Seconds between the attempts to get the locks of a migration: for longer than any transaction of a process."""


@dataclass(frozen=True, slots=True)
class Migration:
    version: int
    name: str
    text: str

    @property
    def sha256(self) -> str:
        """The checksum that the database stores."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def oldest_process(self) -> int:
        """The newest migration of the oldest version that works with this schema; 0 if each older version does."""
        stated = _OLDEST_PROCESS.search(self.text)
        return int(stated[1]) if stated else 0

    @property
    def has_transaction(self) -> bool:
        return _WITHOUT_TRANSACTION.search(self.text) is None


def read_migrations(folder: Path = MIGRATIONS) -> tuple[Migration, ...]:
    """Return the migrations in order.

    Raises:
        SchemaRefused: a name is not NNNN_name.sql, or two migrations have the same number.
    """
    found = []
    for path in sorted(folder.glob("*.sql")):
        matched = _NAME.fullmatch(path.name)
        if matched is None:
            raise SchemaRefused(f"{path.name} is not a valid migration name", "rename it to NNNN_name.sql")
        found.append(Migration(int(matched[1]), path.name, path.read_text(encoding="utf-8")))
    for one, next_one in pairwise(found):
        if one.version == next_one.version:
            raise SchemaRefused(f"{one.name} and {next_one.name} have the same number", "give one the next number")
    return tuple(found)


def migrate(
    connection: psycopg.Connection,
    migrations: Sequence[Migration],
    *,
    report: Callable[[str], None] = lambda _progress: None,
    pauses: Sequence[float] = PAUSES,
    lock_seconds: float = LOCK_SECONDS,
) -> tuple[str, ...]:
    """Apply the missing migrations as the owner and return their names; `connection` is the migrator's, in autocommit.

    `report` receives a line for each attempt that must be repeated. Another migrator may take `lock_seconds`.

    Raises:
        DatabaseUnavailable: another session held a lock during all attempts, and the last migration was rolled back;
            or another migrator did not end, and nothing was changed.
        SchemaRefused: an applied file was edited, is missing or has a lower successor, a later release excludes this
            version, or the schema breaks a rule.
    """
    # Before SET ROLE: the role of the owner does not see since when the session of another migrator exists.
    acquire_lock(connection, "pg_advisory_lock", _LOCK, report, lock_seconds)
    try:
        return _migrate(connection, migrations, report, pauses)
    finally:
        if not connection.broken:
            connection.execute("select pg_advisory_unlock(%s)", [_LOCK])


def _migrate(
    connection: psycopg.Connection,
    migrations: Sequence[Migration],
    report: Callable[[str], None],
    pauses: Sequence[float],
) -> tuple[str, ...]:
    connection.execute(sql.SQL("set role {}").format(sql.Identifier(OWNER)))
    # JIT compilation of the one long lint query takes ten times as long as its execution.
    connection.execute("set jit = off")
    applied = _applied(connection)
    pending = _pending(migrations, applied)
    if _is_later(connection, migrations, applied):
        return ()  # its rules are those of the later release
    for migration in pending:
        _apply_in_attempts(connection, migration, report, pauses)
    found = findings(connection)
    if found:
        raise SchemaRefused(f"the schema breaks its rules: {'; '.join(map(str, found))}")
    return tuple(migration.name for migration in pending)


def _apply_in_attempts(
    connection: psycopg.Connection, migration: Migration, report: Callable[[str], None], pauses: Sequence[float]
) -> None:
    for attempt, pause in enumerate((*pauses, None), 1):
        try:
            _apply(connection, migration)
        except (errors.LockNotAvailable, errors.DeadlockDetected):
            if pause is None:
                raise DatabaseUnavailable(
                    f"migration {migration.name} did not get its locks in {attempt} attempts; it changed nothing",
                    "end the longest transactions (pg_stat_activity, xact_start) and repeat the command",
                ) from None
            report(f"{migration.name} waits for another transaction; attempt {attempt + 1} in {pause:g} s")
            time.sleep(pause)
        else:
            return


def _apply(connection: psycopg.Connection, migration: Migration) -> None:
    if not migration.has_transaction:
        # An index that is created concurrently waits for all older transactions, and no query waits for it.
        connection.execute("set lock_timeout = '10min'")
        for statement in filter(str.strip, migration.text.split(";")):
            connection.execute(statement.encode())
    connection.execute(f"set lock_timeout = {LOCK_MILLISECONDS}".encode())
    with connection.transaction():
        if migration.has_transaction:
            connection.execute(migration.text.encode())
        connection.execute(
            "insert into okcm.schema_migration (version, name, sha256) values (%s, %s, %s)",
            [migration.version, migration.name, migration.sha256],
        )
        if migration.oldest_process:
            connection.execute(
                "update okcm.schema_migration set oldest_process = %s where version = %s",
                [migration.oldest_process, migration.version],
            )


def missing_migrations(connection: psycopg.Connection, migrations: Sequence[Migration]) -> Sequence[Migration]:
    """Return the migrations that are not applied and change nothing; `connection` is the migrator's.

    Raises:
        SchemaRefused: an applied file was edited, is missing or has a lower successor, or a later release excludes
            this version.
    """
    connection.execute(sql.SQL("set role {}").format(sql.Identifier(OWNER)))
    if connection.execute("select to_regclass('okcm.schema_migration')").fetchone() == (None,):
        return migrations
    applied = _applied(connection)
    pending = _pending(migrations, applied)
    return () if _is_later(connection, migrations, applied) else pending


def _applied(connection: psycopg.Connection) -> dict[int, tuple[str, str]]:
    if connection.execute("select to_regclass('okcm.schema_migration')").fetchone() == (None,):
        connection.execute(
            "create table okcm.schema_migration (version integer primary key, name text not null,"
            " sha256 text not null, applied_at timestamptz not null default now())"
        )
    rows = connection.execute("select version, name, sha256 from okcm.schema_migration").fetchall()
    return {version: (name, sha256) for version, name, sha256 in rows}


def _is_later(
    connection: psycopg.Connection, migrations: Sequence[Migration], applied: Mapping[int, tuple[str, str]]
) -> bool:
    """Return whether a later release, which still permits this version, has migrated the database."""
    newest = migrations[-1].version
    if max(applied, default=0) <= newest:
        return False
    row = connection.execute("select max(oldest_process) from okcm.schema_migration").fetchone() or (0,)
    if row[0] > newest:
        raise SchemaRefused(
            f"the database permits processes from schema {row[0]}; this version has {newest}",
            "run a newer version (docs/upgrading.md#versions)",
        )
    return True


def _pending(migrations: Sequence[Migration], applied: Mapping[int, tuple[str, str]]) -> Sequence[Migration]:
    known = {migration.version: migration for migration in migrations}
    newest = max(applied, default=0)
    for version, (name, sha256) in sorted(applied.items()):
        migration = known.get(version)
        if migration is None and version > max(known):
            continue  # of a later release
        if migration is None or migration.name != name:
            raise SchemaRefused(f"the applied migration {name} is missing", "run the version that contains it")
        if migration.sha256 != sha256 and migration is migrations[0]:
            raise SchemaRefused(
                f"the database was created from another {name} than that of this version",
                "run the version that created it, or create a new database and a new state folder"
                " (docs/upgrading.md#data)",
            )
        if migration.sha256 != sha256:
            raise SchemaRefused(f"migration {name} was edited after it was applied", "write a new migration instead")
    skipped = [m.name for m in migrations if m.version < newest and m.version not in applied]
    if skipped:
        raise SchemaRefused(f"migration {skipped[0]} has a lower number than an applied one", "give it the next number")
    return [migration for migration in migrations if migration.version > newest]
