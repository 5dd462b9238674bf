"""A backfill as a whole: one table after the other, and patience with whatever is away meanwhile."""

import threading
from collections.abc import Callable

import psycopg

from hooks.keys import ColumnKeys, KeySource
from hooks.postgresql.backfill import preflight
from hooks.postgresql.backfill.at_hand import KeysAtHand
from hooks.postgresql.backfill.patience import LONGEST_REST, Options, WaitingConnection
from hooks.postgresql.backfill.progress import TableProgress, of_table
from hooks.postgresql.backfill.table import TooManyRefused, Walks
from hooks.postgresql.catalogue import Table
from hooks.postgresql.key_store import DatabaseKeyStore
from hooks.protection import Protection, ProtectionUnreadable
from tenancy.hook_errors import BackfillRefused
from tenancy.protection import Backfill, Store

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
        self._patience = WaitingConnection(options, stop, tell)
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
        connection = self._patience.connect_first()
        reads_only = self._options.dry_run
        found = preflight.tables(connection, fields, self._options.table, reads_only=reads_only)
        self.tables = [of_table(table) for table in found]
        self.notes = [note for table in found for note in preflight.notes(connection, table)]

    def _go_over(self, progress: TableProgress) -> None:
        undo, table = self._options.settings.undo, progress.table
        self._patience.begin(progress)
        connection = self._patience.connected()
        store = DatabaseKeyStore(connection.pgconn)
        keys = KeysAtHand(ColumnKeys(Store.POSTGRESQL, self._source, store, self._options.key_seconds), table)
        walks = Walks(keys, self._patience, self._options.settings, progress, self._tell)
        try:
            walks.count()
            if self._options.dry_run:
                progress.state = None
                return
            self._rounds(walks, progress)
        except TooManyRefused:
            progress.state = Backfill.STOPPED
        except psycopg.Error as failed:
            raise _refused(failed, table) from None
        else:
            whole = not progress.left
            progress.state = (Backfill.UNDONE if undo else Backfill.FINISHED) if whole else Backfill.STOPPED
        self._tell()

    def _rounds(self, walks: Walks, progress: TableProgress) -> None:
        """Change and read back until nothing is left; what others held in one round is free in another."""
        for number in range(_ROUNDS):
            before = progress.rows
            walks.change()
            walks.read_back()
            if not progress.left or (progress.refused and progress.rows == before):
                return
            self._patience.rest(min(0.1 * 2**number, LONGEST_REST))


def _refused(failed: psycopg.Error, table: Table) -> BackfillRefused:
    """Return the database's refusal without its text, which may quote a value."""
    hint = "look into the database's log; it goes on where it was when it is run again"
    if failed.sqlstate == "42501":
        hint = "connect as the table's owner, or as a role that row security does not hold back (BYPASSRLS)"
    return BackfillRefused(f"the database refused a statement on {table.full_name} (SQLSTATE {failed.sqlstate})", hint)
