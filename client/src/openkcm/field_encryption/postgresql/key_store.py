"""Storage of wrapped column keys in a table of the application's database.

A separate connection reads and writes it and commits immediately: a key that has encrypted values must not be lost when
a transaction is rolled back. This happens a few times in the lifetime of a process.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

from psycopg import pq
from psycopg.conninfo import make_conninfo

from openkcm.field_encryption.key_cache import Column, KeyUnwrapError

SETUP = """CREATE SCHEMA IF NOT EXISTS openkcm;
CREATE TABLE IF NOT EXISTS openkcm.column_key (
    place text NOT NULL,
    field text NOT NULL,
    purpose text NOT NULL CHECK (purpose IN ('data', 'tag')),
    version integer NOT NULL CHECK (version > 0),
    wrapped text NOT NULL,
    made_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (place, field, purpose, version)
);
GRANT USAGE ON SCHEMA openkcm TO PUBLIC;
GRANT SELECT ON openkcm.column_key TO PUBLIC;
"""
"""A wrapped key is useless to any service other than its own, so every database user may read it."""

_EXISTS = "SELECT to_regclass('openkcm.column_key') IS NOT NULL"
_READ = "SELECT version, wrapped FROM openkcm.column_key WHERE place = $1 AND field = $2 AND purpose = $3"
_ADD = """INSERT INTO openkcm.column_key (place, field, purpose, version, wrapped) VALUES ($1, $2, $3, 1, $4)
ON CONFLICT DO NOTHING"""


class DatabaseKeyStore:
    """Connects to the database with the parameters of the application's connection."""

    def __init__(self, pgconn: Any) -> None:
        options = {one.keyword.decode(): one.val.decode() for one in pgconn.info if one.val}
        self._conninfo = make_conninfo(**options)  # may contain a password: never displayed

    def read(self, column: Column, purpose: str) -> Mapping[int, str]:
        with _Connection(self._conninfo) as connection:
            if connection.ask(_EXISTS) == [[b"t"]]:
                found = connection.ask(_READ, _place(column), column[2], purpose)
                return {int(version): wrapped.decode() for version, wrapped in found}
            return {}

    def add(self, column: Column, purpose: str, wrapped: str) -> None:
        with _Connection(self._conninfo) as connection:
            if connection.ask(_EXISTS) != [[b"t"]]:
                _set_up(connection)
            connection.ask(_ADD, _place(column), column[2], purpose, wrapped)


def _set_up(connection: "_Connection") -> None:
    try:
        connection.ask(SETUP)
    except KeyUnwrapError:
        # Another process may have created it concurrently, for which CREATE … IF NOT EXISTS returns an error.
        if connection.ask(_EXISTS) != [[b"t"]]:
            raise


def _place(column: Column) -> str:
    return ".".join(part.replace("\\", "\\\\").replace(".", "\\.") for part in column[:2])


class _Connection:
    """A plain libpq connection, which the installed encryption does not intercept."""

    def __init__(self, conninfo: str) -> None:
        self._pgconn = pq.PGconn.connect(conninfo.encode())
        if self._pgconn.status != pq.ConnStatus.OK:
            self._pgconn.finish()
            raise _failed("the database is not reachable for the column keys")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pgconn.finish()

    def ask(self, query: str, *parameters: str) -> Sequence[Sequence[Any]]:
        if parameters:
            result = self._pgconn.exec_params(query.encode(), [one.encode() for one in parameters])
        else:
            result = self._pgconn.exec_(query.encode())
        if result.status not in {pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK}:
            message = (result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"").decode("utf-8", "replace")
            raise _failed(f"the table openkcm.column_key cannot be used: {message}")
        return [[result.get_value(row, column) for column in range(result.nfields)] for row in range(result.ntuples)]


def _failed(detail: str) -> KeyUnwrapError:
    return KeyUnwrapError(
        "key_table_unusable",
        detail,
        "have a database owner create this table once, see docs/postgresql.md#requirements",
    )
