"""A complete backfill: one table after the other, with waiting for unavailable servers."""

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
    """`tell` is called for each change of `tables`; `stop` ends the backfill after the present row."""

    def __init__(
        self,
        options: Options,
        protection: Protection,
        source: KeySource,
        update: Callable[[], None],
        stop: threading.Event,
    ) -> None:
        self._options, self._protection, self._source, self._update = options, protection, source, update
        self._connection = RetryingConnection(options, stop, update)
        self.tables: list[TableProgress] = []
        self.notes: list[str] = []

    def run(self) -> None:
        """Process all tables.

        Raises: BackfillRefused before any change or, with completed batches kept, when the database rejects a statement
        or a trigger changes a new value; BackfillRunning, BackfillStopped.
        """
        try:
            self._prepare()
            for progress in self.tables:
                self._process(progress)
        finally:
            self._connection.close()
            for progress in self.tables:
                if progress.state not in {None, Backfill.FINISHED, Backfill.UNDONE}:
                    progress.state = Backfill.STOPPED
            self._update()

    def _prepare(self) -> None:
        try:
            fields = self._protection.fields()
        except ProtectionUnreadable as failed:
            raise BackfillRefused(f"{failed.detail} ({failed.code})", failed.hint or None) from None
        self._connection.connect_first()
        try:
            found = self._connection.do(lambda connection: self._read_catalogue(connection, fields))
        except psycopg.Error as failed:
            raise _refused(failed, "the catalogue") from None
        self.tables = [of_table(table) for table in found]

    def _read_catalogue(self, connection: Connection, fields: tuple[ProtectedField, ...]) -> list[Table]:
        options = self._options
        found = preflight.tables(connection, fields, options.table, reads_only=options.dry_run)
        self.notes = [note for table in found for note in preflight.notes(connection, table)]
        return found

    def _process(self, progress: TableProgress) -> None:
        undo, table = self._options.settings.undo, progress.table
        self._connection.begin(progress)
        store = DatabaseKeyStore(self._connection.do(lambda connection: connection.pgconn))
        keys = PreloadedKeys(ColumnKeys(Store.POSTGRESQL, self._source, store, self._options.key_seconds), table)
        unchanged = partial(self._refuse_changed, table)
        scan = TableScan(keys, self._connection, self._options.settings, progress, unchanged, self._update)
        try:
            scan.count()
            if self._options.dry_run:
                progress.state = None
                return
            self._rounds(scan, progress)
        except TooManyRefused:
            progress.state = Backfill.STOPPED
        except psycopg.Error as failed:
            raise _refused(failed, table.full_name) from None
        else:
            whole = not progress.left
            progress.state = (Backfill.UNDONE if undo else Backfill.FINISHED) if whole else Backfill.STOPPED
        self._update()

    def _refuse_changed(self, table: Table, connection: Connection) -> None:
        """Verify that the table's protection is unchanged; otherwise the application could not read new ciphertext."""
        try:
            same = preflight.is_as_before(connection, self._protection.fields(), table)
        except ProtectionUnreadable as failed:
            raise BackfillStopped(f"{failed.detail} ({failed.code})") from None
        if not same:
            raise BackfillStopped(f"{table.full_name} or its protection changed during the backfill")

    def _rounds(self, scan: TableScan, progress: TableProgress) -> None:
        """Change and read back until nothing is left; rows that were locked in one round are free in another."""
        for number in range(_ROUNDS):
            before = progress.rows
            scan.change()
            scan.read_back()
            if not progress.left or (progress.refused and progress.rows == before):
                return
            self._connection.rest(min(0.1 * 2**number, LONGEST_REST))


def _refused(failed: psycopg.Error, what: str) -> BackfillRefused:
    """Return the database's error without its text, which may contain a value."""
    hint = "check the database log, then run it again to resume"
    if failed.sqlstate == "42501":
        hint = "connect as the table's owner, or as a role that bypasses row-level security (BYPASSRLS)"
    return BackfillRefused(f"the database rejected a statement on {what} (SQLSTATE {failed.sqlstate})", hint)
