"""The statements of a pass over one table, in the order of its primary key.

A pass advances by key, never by offset. Each statement reads a bounded part through the key's index, and concurrent
inserts and deletes do not shift the position.
"""

from collections.abc import Sequence

from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from openkcm.field_encryption import value_format as values
from openkcm.field_encryption.postgresql.catalog import Column, Table

_CASTS = {"int": "bigint", "text": "text", "uuid": "uuid", "bytea": "bytea"}


class Queries:
    """`sealed` selects the values to find: ciphertext, or all others."""

    def __init__(self, table: Table, *, sealed: bool) -> None:
        self.columns = tuple(table.protected.values())
        self._key = table.key
        self._table = SQL("{} AS t").format(Identifier(table.schema, table.name))
        self._names = SQL(", ").join(_name(one) for one in table.key)
        self._marks = [_mark(one, sealed=sealed) for one in self.columns]
        self._place = SQL("({})").format(self._names)

    def window(self, after: Sequence[object] | None, rows: int) -> Composed:
        """Return the query for the last key of the next `rows` rows, and the counts of values to change by column."""
        keys = [Identifier(f"k{number}") for number in range(len(self._key))]
        marks = [Identifier(f"m{number}") for number in range(len(self._marks))]
        columns = [SQL("{} AS {}").format(_name(one), alias) for one, alias in zip(self._key, keys, strict=True)]
        columns += [SQL("{} AS {}").format(mark, alias) for mark, alias in zip(self._marks, marks, strict=True)]
        counts = [SQL("(SELECT count(*) FILTER (WHERE {}) FROM part)").format(mark) for mark in marks]
        return SQL(
            "WITH part AS MATERIALIZED (SELECT {} FROM {} WHERE {} ORDER BY {} LIMIT {}) "
            "SELECT {} FROM part ORDER BY {} LIMIT 1"
        ).format(
            SQL(", ").join(columns),
            self._table,
            self._after(after),
            self._names,
            Literal(rows),
            SQL(", ").join([*keys, *counts]),
            SQL(", ").join(SQL("{} DESC").format(key) for key in keys),
        )

    def batch(self, after: Sequence[object] | None, last: Sequence[object], rows: int) -> Composed:
        """Return the query that locks and reads rows to change, except rows that are locked by another transaction.

        A row that another transaction has changed is evaluated in its new version: READ COMMITTED checks the condition
        again after locking.
        """
        return SQL(
            "SELECT {}, {} FROM {} WHERE {} AND {} <= ({}) AND ({}) ORDER BY {} LIMIT {} "
            "FOR NO KEY UPDATE OF t SKIP LOCKED"
        ).format(
            self._names,
            SQL(", ").join(_name(one) for one in self.columns),
            self._table,
            self._after(after),
            self._place,
            self._values(last),
            SQL(" OR ").join(self._marks),
            self._names,
            Literal(rows),
        )

    def page(self, after: Sequence[object] | None, rows: int) -> Composed:
        """Return the query that reads rows to decrypt."""
        return SQL("SELECT {}, {} FROM {} WHERE {} ORDER BY {} LIMIT {}").format(
            self._names,
            SQL(", ").join(_name(one) for one in self.columns),
            self._table,
            self._after(after),
            self._names,
            Literal(rows),
        )

    def change(self, columns: Sequence[Column]) -> Composed:
        """Return the statement that stores new values in a locked row; its parameters are values, then key."""
        return SQL("UPDATE {} SET {} WHERE {}").format(
            self._table,
            SQL(", ").join(
                SQL(f"{{}} = ${at}").format(Identifier(one.name)) for at, one in enumerate(columns, 1)
            ),  # a number
            SQL(" AND ").join(
                SQL(f"{{}} = ${at}::{{}}").format(_name(one), SQL(_CASTS[one.kind]))
                for at, one in enumerate(self._key, len(columns) + 1)
            ),
        )

    def stored(self) -> Composed:
        """Return the query that reads rows by their keys; its parameters are one array for each column of the key."""
        keys = [Identifier(f"k{number}") for number in range(len(self._key))]
        arrays = [
            SQL(f"pg_catalog.unnest(${at}::{{}}[])").format(SQL(_CASTS[one.kind]))
            for at, one in enumerate(self._key, 1)
        ]  # a number
        return SQL("SELECT {}, {} FROM {} JOIN ROWS FROM ({}) AS k({}) ON {} = ({})").format(
            self._names,
            SQL(", ").join(_name(one) for one in self.columns),
            self._table,
            SQL(", ").join(arrays),
            SQL(", ").join(keys),
            self._place,
            SQL(", ").join(SQL("k.{}").format(one) for one in keys),
        )

    def _after(self, key: Sequence[object] | None) -> Composable:
        return SQL("true") if key is None else SQL("{} > ({})").format(self._place, self._values(key))

    def _values(self, key: Sequence[object]) -> Composed:
        found = [
            SQL("{}::{}").format(Literal(value), SQL(_CASTS[one.kind]))
            for value, one in zip(key, self._key, strict=True)
        ]
        return SQL(", ").join(found)


def _name(column: Column) -> Composed:
    return SQL("t.{}").format(Identifier(column.name))


def _mark(column: Column, *, sealed: bool) -> Composed:
    """Return the condition for a value that is to be changed; never true for NULL."""
    text = column.kind == "text"
    begins: Sequence[str | bytes] = values.TEXT_PREFIX if text else values.BYTES_PREFIX
    return SQL("{}({}, {}) {} ({})").format(
        SQL("pg_catalog.left" if text else "pg_catalog.substr"),
        _name(column),
        Literal(len(begins[0])) if text else SQL("1, {}").format(Literal(len(begins[0]))),
        SQL("IN" if sealed else "NOT IN"),
        SQL(", ").join(Literal(one) for one in begins),
    )
