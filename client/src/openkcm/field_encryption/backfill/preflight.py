"""Requirements that are checked before a row is changed, and warnings for the operator of a backfill."""

from collections.abc import Iterable
from typing import Any

import psycopg

from openkcm.contract.protected_fields import ProtectedField, Store
from openkcm.field_encryption.errors import BackfillRefused
from openkcm.field_encryption.postgresql.catalog import Catalogue, Table, question, read_answer, table_of

_RIGHTS = """
SELECT pg_catalog.has_schema_privilege(n.oid, 'USAGE')
   AND pg_catalog.has_table_privilege(c.oid, 'SELECT')
   AND ($2 OR pg_catalog.has_table_privilege(c.oid, 'UPDATE'))
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1
"""
_NOTES = """
SELECT 'the trigger ' || tgname || ' runs for each row that is stored' FROM pg_catalog.pg_trigger
 WHERE tgrelid = $1 AND NOT tgisinternal AND tgenabled <> 'D' AND tgtype & 16 <> 0
UNION ALL
SELECT 'the constraint ' || conname || ' will see ciphertext' FROM pg_catalog.pg_constraint
 WHERE conrelid = $1 AND contype = 'c' AND conkey && $2::int2[]
UNION ALL
SELECT 'the unique index ' || c.relname || ' finds no equal values any more' FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
 WHERE i.indrelid = $1 AND i.indisunique AND i.indkey::int2[] && $2::int2[]
"""


def tables(
    connection: psycopg.Connection[Any], fields: Iterable[ProtectedField], wanted: str, *, reads_only: bool
) -> list[Table]:
    """Return the tables to process, from the same catalogue as the application. Raises BackfillRefused."""
    listed = tuple(one for one in fields if one.store is Store.POSTGRESQL)
    catalogue = _catalogue(connection, listed)
    found = sorted(_walked(catalogue), key=lambda table: table.full_name)
    if wanted:
        names = [wanted if "." in wanted else f"public.{wanted}"]
        found = [table for table in found if table.full_name in names]
    else:
        names = [".".join(table_of(one)) for one in listed]
    for place, reason in catalogue.avoided.items():
        if ".".join(place) in names:
            raise BackfillRefused(reason)
    missing = sorted(".".join(table_of(one)) for one in listed if table_of(one) not in catalogue.tables)
    if missing and not wanted:
        raise BackfillRefused(f"{missing[0]} is listed as protected but not in this database", "check --database")
    if not found:
        what = wanted or "this database"
        raise BackfillRefused(f"no column of {what} is protected", "list its columns first: docs/postgresql.md#try-it")
    for table in found:
        _refuse(connection, table, reads_only=reads_only)
    return found


def is_as_before(connection: psycopg.Connection[Any], fields: Iterable[ProtectedField], table: Table) -> bool:
    """Return whether a table and its protection are unchanged."""
    listed = tuple(one for one in fields if one.store is Store.POSTGRESQL)
    return table in _walked(_catalogue(connection, listed))


def _catalogue(connection: psycopg.Connection[Any], listed: tuple[ProtectedField, ...]) -> Catalogue:
    [answer] = connection.execute(question(listed)).fetchone() or ("{}",)
    return read_answer(answer, listed)


def _walked(catalogue: Catalogue) -> list[Table]:
    """Return the tables without partitions, to which LIKE … INCLUDING ALL copied the comment of their parent.

    The application uses the parent's name, so a value that is encrypted for the partition could not be decrypted.
    """
    return [table for name, table in catalogue.tables.items() if name not in catalogue.avoided]


def _refuse(connection: psycopg.Connection[Any], table: Table, *, reads_only: bool) -> None:
    if table.problem:
        hint = "ALTER TABLE … ALTER COLUMN … TYPE text is fast: it does not rewrite a varchar column"
        raise BackfillRefused(table.problem, hint)
    if connection.execute(_RIGHTS, [table.oid, reads_only]).fetchone() != (True,):
        raise BackfillRefused(
            f"the database user lacks the right to read and update {table.full_name}", "connect as the table's owner"
        )


def notes(connection: psycopg.Connection[Any], table: Table) -> list[str]:
    """Return the side effects of storing the table's rows again."""
    numbers = "{" + ",".join(str(one.number) for one in table.protected.values()) + "}"
    return [f"{table.full_name}: {note}" for (note,) in connection.execute(_NOTES, [table.oid, numbers])]
