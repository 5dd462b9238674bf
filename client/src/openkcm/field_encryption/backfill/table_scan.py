"""The passes over one table.

A batch is one short transaction: lock rows that no other transaction holds, encrypt their plain values, store them,
verify what is stored, commit. An interruption leaves all of it or nothing. An application waits for such a row at most
that long.

The rate is limited to a number of rows per second, and reduced while the database is slow; the batch size is limited by
rows and bytes.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import psycopg

from openkcm.field_encryption import value_format as values
from openkcm.field_encryption.backfill.preloaded_keys import KeyNotLoaded, PreloadedKeys, Stored
from openkcm.field_encryption.backfill.progress import TableProgress
from openkcm.field_encryption.backfill.queries import Queries
from openkcm.field_encryption.errors import BackfillRefused
from openkcm.field_encryption.postgresql.catalog import Column, key_value
from openkcm.field_encryption.value_format import KeyValue

Result = TypeVar("Result")
Key = tuple[KeyValue, ...]
Connection = psycopg.Connection[Any]

_WINDOW = 5000
"""Maximum number of rows that one statement scans."""
_PAGE = 1000
_READ_FASTER = 20
"""Factor by which reading is faster than changing."""
_MAX_REJECTED = 100
"""Number of rejected rows after which the backfill of a table stops."""

PASSING = (
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
    psycopg.errors.LockNotAvailable,
    psycopg.errors.QueryCanceled,
    psycopg.errors.IdleInTransactionSessionTimeout,
)
"""Errors that a concurrent application causes and a retry resolves."""


class RetryPolicy(Protocol):
    """Runs a piece of work with a connection, with retries; see `connection`."""

    def do(self, work: Callable[[Connection], Result]) -> Result: ...

    def rest(self, seconds: float) -> None: ...


class Settings(NamedTuple):
    """`undo` decrypts."""

    batch: int
    rows_per_second: float
    undo: bool


class _Done(NamedTuple):
    """The result of a batch: its last key, rows read, their size, rows stored, and the changes of each column."""

    reached: Key | None
    rows: int
    size: int
    stored: int
    changed: Sequence[tuple[str, int, int]]
    """Column, values, their bytes."""
    seconds: float
    refused: Counter[str]


class TableScan:
    def __init__(  # noqa: PLR0913, PLR0917 - its collaborators
        self,
        keys: PreloadedKeys,
        connection: RetryPolicy,
        settings: Settings,
        progress: TableProgress,
        unchanged: Callable[[Connection], None],
        update: Callable[[], None],
    ) -> None:
        """`unchanged` raises when the table's protection has changed; it is called every few thousand rows."""
        self._table = progress.table
        self._keys, self._connection, self._settings = keys, connection, settings
        self._progress, self._unchanged, self._update = progress, unchanged, update
        self._queries = Queries(self._table, sealed=settings.undo)
        self._limiter, self._reading = (
            RateLimiter(settings.rows_per_second),
            RateLimiter(_READ_FASTER * settings.rows_per_second),
        )
        self._batches, self._pages = BatchSize(settings.batch), BatchSize(_PAGE)

    def count(self) -> None:
        """Count the values to change; changes nothing."""
        for one in self._progress.columns.values():
            one.left = 0
        after, marked = self._window(None)
        while after is not None:
            for column, count in zip(self._queries.columns, marked, strict=True):
                self._progress.columns[column.name].left += count
            self._update()
            after, marked = self._window(after)

    def change(self) -> None:
        """Encrypt plain values, or decrypt sealed ones, from the first row to the last; skips locked rows.

        Raises: BackfillRefused when a trigger changes the new values.
        """
        self._progress.refused.clear()
        begin: Key | None = None
        last, marked = self._window(begin)
        while last is not None:
            self._connection.do(self._unchanged)
            after, more = begin, any(marked)
            while more:
                after, more = self._batch(after, last)
            begin = last
            last, marked = self._window(begin)

    def read_back(self) -> None:
        """Decrypt every value as the application would; count values left to change and undecryptable ones."""
        for one in self._progress.columns.values():
            one.left = one.unopened = one.read_back = 0
        rows = self._page(None)
        while rows:
            begun = time.monotonic()
            self._connection.do(lambda _: self._keys.refresh())
            for row in rows:
                self._read(row)
            self._update()
            self._connection.rest(self._reading.pause(len(rows), time.monotonic() - begun))
            rows = self._page(self._key(rows[-1]))

    def _window(self, after: Key | None) -> tuple[Key | None, Sequence[int]]:
        """Return the last key of the next window, None at the end, and the number of values to change in it."""
        query = self._queries.window(after, _WINDOW)
        row = self._connection.do(lambda connection: connection.execute(query).fetchone())
        return (None, ()) if row is None else (self._key(row), row[len(self._table.key) :])

    def _page(self, after: Key | None) -> list[Any]:
        query = self._queries.page(after, self._pages.rows)
        rows = self._connection.do(lambda connection: connection.execute(query).fetchall())
        self._pages.saw(len(rows), sum(len(value) for row in rows for _, value in self._of(row)))
        return rows

    # Changing.

    def _batch(self, after: Key | None, last: Key) -> tuple[Key | None, bool]:
        """Change the next rows up to a key; return the last key, and whether more rows may follow."""
        size = self._limiter.batch(self._batches.rows)
        try:
            done = self._connection.do(lambda connection: self._try(connection, after, last, size, one_by_one=False))
        except psycopg.Error:
            # The database rejects the whole batch for one row: find out which.
            done = self._connection.do(lambda connection: self._try(connection, after, last, size, one_by_one=True))
        self._note(done)
        self._batches.saw(done.rows, done.size)
        self._connection.rest(self._limiter.pause(done.rows, done.seconds))
        return done.reached, done.rows > 0

    def _note(self, done: _Done) -> None:
        progress = self._progress
        for name, count, size in done.changed:
            column = progress.columns[name]
            column.done, column.left, column.bytes = (
                column.done + count,
                max(0, column.left - count),
                column.bytes + size,
            )
        progress.rows += done.stored
        progress.refused.update(done.refused)
        progress.rows_per_second = self._limiter.rows_per_second
        self._update()
        if progress.refused.total() >= _MAX_REJECTED:
            raise TooManyRefused(progress.refused)

    def _try(self, connection: Connection, after: Key | None, last: Key, size: int, *, one_by_one: bool) -> _Done:
        """Raises KeyUnwrapError, psycopg.Error."""
        self._keys.refresh()
        while True:
            try:
                return self._changed(connection, after, last, size, one_by_one=one_by_one)
            except KeyNotLoaded as missing:
                self._keys.fetch(missing.name)

    def _changed(self, connection: Connection, after: Key | None, last: Key, size: int, *, one_by_one: bool) -> _Done:
        begun, refused, count = time.monotonic(), Counter[str](), 0
        changed: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
        sent: dict[Key, dict[str, Stored]] = {}
        with connection.transaction():
            # A deferred trigger would run at the commit, after the stored values are verified.
            connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
            rows = connection.execute(self._queries.batch(after, last, size)).fetchall()
            groups: defaultdict[tuple[str, ...], list[tuple[Any, ...]]] = defaultdict(list)
            for row in rows:
                new = self._new(row)
                if new:
                    groups[tuple(new)].append((*new.values(), *self._key(row)))
            for names, parameters in groups.items():
                stored = self._store(connection, names, parameters, refused, one_by_one=one_by_one)
                count += len(stored)
                sent |= {one[len(names) :]: dict(zip(names, one, strict=False)) for one in stored}
                for at, name in enumerate(names):
                    changed[name][0] += len(stored)
                    changed[name][1] += sum(len(one[at]) for one in stored)
            self._verify_stored(connection, rows, sent)
        reached = self._key(rows[-1]) if rows else after
        sums = [(name, number, size) for name, (number, size) in changed.items()]
        size = sum(len(value) for row in rows for _, value in self._of(row))
        return _Done(reached, len(rows), size, count, sums, time.monotonic() - begun, refused)

    def _store(
        self,
        connection: Connection,
        names: Sequence[str],
        parameters: Sequence[tuple[Any, ...]],
        refused: Counter[str],
        *,
        one_by_one: bool,
    ) -> Sequence[tuple[Any, ...]]:
        """Store new values and return the stored ones; with `one_by_one` a rejected row does not affect others."""
        query = self._queries.change([self._table.protected[name] for name in names])
        with connection.cursor() as cursor:
            if not one_by_one:
                cursor.executemany(query, parameters)
                return parameters
            stored = []
            for one in parameters:
                try:
                    with connection.transaction():
                        cursor.execute(query, one)
                except PASSING:
                    raise
                except psycopg.Error as failed:
                    if connection.broken:
                        raise
                    refused[failed.sqlstate or ""] += 1
                else:
                    stored.append(one)
            return stored

    def _verify_stored(
        self, connection: Connection, rows: Sequence[Sequence[Any]], sent: dict[Key, dict[str, Stored]]
    ) -> None:
        """Read the stored rows again; raise BackfillRefused if a value differs, which rolls the batch back.

        A trigger that normalises text, for instance to lower case, would destroy the ciphertext, the only copy.
        """
        if not sent:
            return
        query, keys = self._queries.stored(), [list(one) for one in zip(*sent, strict=True)]
        found = {self._key(row): self._by_name(row) for row in connection.execute(query, keys)}
        for row in rows:
            key = self._key(row)
            if key not in sent:
                continue
            for name, value in (self._by_name(row) | sent[key]).items():
                if found.get(key, {}).get(name) != value:
                    raise BackfillRefused(
                        f"a trigger stored another value of {self._table.full_name}.{name} than the backfill sent;"
                        " the batch was rolled back",
                        "remove the trigger, which would also change ciphertext of the application;"
                        " then run it again to resume",
                    )

    def _new(self, row: Sequence[Any]) -> dict[str, Stored]:
        """Return the new values of a row's columns, empty if none change. Raises KeyNotLoaded."""
        part = values.row_part(self._key(row))
        found: dict[str, Stored] = {}
        for column, stored in self._of(row):
            if _is_sealed(stored) != self._settings.undo:
                continue
            if not self._settings.undo:
                found[column.name] = self._keys.seal(column, part, stored)
                continue
            try:
                found[column.name] = self._keys.open(column, part, stored)
            except values.DecryptionFailed:
                continue  # the final pass counts it
        return found

    # Reading back.

    def _read(self, row: Sequence[Any]) -> None:
        part = values.row_part(self._key(row))
        for column, stored in self._of(row):
            progress = self._progress.columns[column.name]
            try:
                sealed = self._decrypts(column, part, stored)
            except values.DecryptionFailed:
                progress.unopened += 1
                continue
            if sealed == self._settings.undo:
                progress.left += 1
            else:
                progress.read_back += 1

    def _decrypts(self, column: Column, part: bytes, stored: Stored) -> bool:
        """Return whether a value is sealed and can be decrypted. Raises DecryptionFailed."""
        while True:
            try:
                self._keys.open(column, part, stored)
            except values.NotEncrypted:
                return False
            except KeyNotLoaded as missing:
                name = missing.name
                self._connection.do(lambda _, name=name: self._keys.fetch(name))  # type: ignore[misc]  # its default
            else:
                return True

    # Rows.

    def _key(self, row: Sequence[Any]) -> Key:
        key = [key_value(one.kind, value) for one, value in zip(self._table.key, row, strict=False)]
        return tuple(one for one in key if one is not None)

    def _of(self, row: Sequence[Any]) -> list[tuple[Column, Stored]]:
        """Return the values of a row that are not NULL."""
        found = zip(self._queries.columns, row[len(self._table.key) :], strict=True)
        return [(column, value) for column, value in found if value is not None]

    def _by_name(self, row: Sequence[Any]) -> dict[str, Stored]:
        return {column.name: value for column, value in self._of(row)}


def _is_sealed(stored: Stored) -> bool:
    return stored.startswith(values.TEXT_PREFIX) if isinstance(stored, str) else stored.startswith(values.BYTES_PREFIX)


class TooManyRefused(Exception):
    """The database rejects row after row; the argument counts them by SQLSTATE."""


_SLOW = 3.0
"""Factor to the usual time for a row from which the database counts as slow."""
_MIN_SECONDS = 0.05
"""Duration of a batch in seconds below which it never counts as slow."""
_MIN_SHARE = 1 / 32
_FIRST_ROWS, _MAX_BYTES = 20, 8 << 20
"""Rows of the first read, while the size of values is not known, and maximum bytes of a read."""


class RateLimiter:
    def __init__(self, rows_per_second: float) -> None:
        self._full = self._now = rows_per_second
        self._usual: float | None = None

    @property
    def rows_per_second(self) -> float:
        return self._now

    def batch(self, most: int) -> int:
        """Return how many rows to lock together: at most those of one second."""
        return max(1, min(most, int(self._now)))

    def pause(self, rows: int, seconds: float) -> float:
        """Return the seconds to wait after `rows` rows that took `seconds`."""
        if not rows:
            return 0.0
        each = seconds / rows
        usual = each if self._usual is None else self._usual
        if seconds > _MIN_SECONDS and each > _SLOW * usual:
            self._now = max(self._full * _MIN_SHARE, self._now / 2)
        else:
            self._now = min(self._full, self._now * 1.1)
        # The usual time follows a faster batch immediately, and a slower one slowly.
        self._usual = min(each, usual * 1.02)
        return max(0.0, rows / self._now - seconds)


class BatchSize:
    """How many rows to read together, so that large values do not fill the memory."""

    def __init__(self, most: int) -> None:
        self._most, self.rows = most, min(most, _FIRST_ROWS)

    def saw(self, rows: int, size: int) -> None:
        """Adjust to the size of the last rows; grows gradually, since the next rows may be larger."""
        if rows:
            fitting = _MAX_BYTES * rows // max(1, size)
            self.rows = max(1, min(self._most, fitting, 4 * self.rows))
