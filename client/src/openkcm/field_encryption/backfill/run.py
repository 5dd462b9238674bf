"""A backfill as a whole: one table after the other, and patience with whatever is away meanwhile."""

import threading
from collections.abc import Callable
from functools import partial

import psycopg

from openkcm.contract.protected_fields import Backfill, ProtectedField, Store
from openkcm.field_encryption.backfill import preflight
from openkcm.field_encryption.backfill.connection import LONGEST_REST, Options, RetryingConnection
from openkcm.field_encryption.backfill.preloaded_keys import PreloadedKeys
from openkcm.field_encryption.backfill.progress import TableProgress, of_table
from openkcm.field_encryption.backfill.table_scan import Connection, TableScan, TooManyRefused
from openkcm.field_encryption.errors import BackfillRefused, BackfillStopped
from openkcm.field_encryption.key_cache import ColumnKeys, KeySource
from openkcm.field_encryption.postgresql.catalog import Table
from openkcm.field_encryption.postgresql.key_store import DatabaseKeyStore
from openkcm.field_encryption.protected_fields import Protection, ProtectionUnreadable

_ROUNDS = 12


class BackfillRun:
    """`tell` is called whenever there is something new in `tables`; `stop` ends it after the row it is at."""

    def __init__(
        self,
        options: Options,
        protection: Protection,
        source: KeySource,
        tell: Callable[[], None],
        stop: threading.Event,
    ) -> None:
        self._options, self._protection, self._source, self._tell = options, protection, source, tell
        self._patience = RetryingConnection(options, stop, tell)
        self.tables: list[TableProgress] = []
        self.notes: list[str] = []

    def run(self) -> None:
        """Go over all tables.

        Raises: BackfillRefused before anything was done, BackfillRunning, BackfillStopped.
        """
        try:
            self._begin()
            for progress in self.tables:
                self._go_over(progress)
        finally:
            self._patience.close()
            for progress in self.tables:
                if progress.state not in {None, Backfill.FINISHED, Backfill.UNDONE}:
                    progress.state = Backfill.STOPPED
            self._tell()

    def _begin(self) -> None:
        try:
            fields = self._protection.fields()
        except ProtectionUnreadable as failed:
            raise BackfillRefused(f"{failed.detail} ({failed.code})", failed.hint or None) from None
        self._patience.connect_first()
        try:
            found = self._patience.do(lambda connection: self._look_at(connection, fields))
        except psycopg.Error as failed:
            raise _refused(failed, "the catalogue") from None
        self.tables = [of_table(table) for table in found]

    def _look_at(self, connection: Connection, fields: tuple[ProtectedField, ...]) -> list[Table]:
        options = self._options
        found = preflight.tables(connection, fields, options.table, reads_only=options.dry_run)
        self.notes = [note for table in found for note in preflight.notes(connection, table)]
        return found

    def _go_over(self, progress: TableProgress) -> None:
        undo, table = self._options.settings.undo, progress.table
        self._patience.begin(progress)
        store = DatabaseKeyStore(self._patience.do(lambda connection: connection.pgconn))
        keys = PreloadedKeys(ColumnKeys(Store.POSTGRESQL, self._source, store, self._options.key_seconds), table)
        unchanged = partial(self._refuse_changed, table)
        walks = TableScan(keys, self._patience, self._options.settings, progress, unchanged, self._tell)
        try:
            walks.count()
            if self._options.dry_run:
                progress.state = None
                return
            self._rounds(walks, progress)
        except TooManyRefused:
            progress.state = Backfill.STOPPED
        except psycopg.Error as failed:
            raise _refused(failed, table.full_name) from None
        else:
            whole = not progress.left
            progress.state = (Backfill.UNDONE if undo else Backfill.FINISHED) if whole else Backfill.STOPPED
        self._tell()

    def _refuse_changed(self, table: Table, connection: Connection) -> None:
        """See that the table's columns are still protected as they were: else nobody could read what is sealed."""
        try:
            same = preflight.is_as_before(connection, self._protection.fields(), table)
        except ProtectionUnreadable as failed:
            raise BackfillStopped(f"{failed.detail} ({failed.code})") from None
        if not same:
            raise BackfillStopped(f"{table.full_name}, or what is protected of it, was changed meanwhile")

    def _rounds(self, walks: TableScan, progress: TableProgress) -> None:
        """Change and read back until nothing is left; what others held in one round is free in another."""
        for number in range(_ROUNDS):
            before = progress.rows
            walks.change()
            walks.read_back()
            if not progress.left or (progress.refused and progress.rows == before):
                return
            self._patience.rest(min(0.1 * 2**number, LONGEST_REST))


def _refused(failed: psycopg.Error, what: str) -> BackfillRefused:
    """Return the database's refusal without its text, which may quote a value."""
    hint = "look into the database's log; it goes on where it was when it is run again"
    if failed.sqlstate == "42501":
        hint = "connect as the table's owner, or as a role that row security does not hold back (BYPASSRLS)"
    return BackfillRefused(f"the database refused a statement on {what} (SQLSTATE {failed.sqlstate})", hint)
