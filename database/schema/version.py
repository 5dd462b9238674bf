"""Whether the schema of the database and this version of the processes fit together.

A migration that only adds suits each older process ("expand"). One that removes ("contract") names the oldest process
that works afterwards, by the number of the newest migration that this process has.
"""

from pathlib import Path

from psycopg import Connection, errors

from core.errors.platform import ReleaseOutdated, SchemaOutdated

MIGRATIONS = Path(__file__).parent / "migrations"

NEWEST = max(int(path.name.partition("_")[0]) for path in MIGRATIONS.glob("*.sql"))
"""The schema that this version needs, and the newest one that it knows."""

# A database without this function is older, or was never prepared.
_OLDER = (errors.UndefinedFunction, errors.InvalidSchemaName, errors.InsufficientPrivilege)


def require_schema(connection: Connection) -> None:
    """Compare the schema with this version; `connection` is a process's, outside a transaction.

    Raises:
        SchemaOutdated: the schema lacks a migration of this version.
        ReleaseOutdated: a later migration removed what this version needs.
    """
    try:
        row = connection.execute("select version, oldest_process from okcm.schema_version()").fetchone()
    except _OLDER:
        raise SchemaOutdated(f"the database has an older schema, this version needs {NEWEST}") from None
    version, oldest_process = row or (None, 0)
    if version is None or version < NEWEST:
        raise SchemaOutdated(f"the database has schema {version}, this version needs {NEWEST}")
    if oldest_process > NEWEST:
        raise ReleaseOutdated(version, oldest_process, NEWEST)
