"""The connection, made again when it is lost, and patience with whatever is away or busy meanwhile."""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from openkcm.contract.protected_fields import Backfill
from openkcm.field_encryption.backfill.progress import TableProgress
from openkcm.field_encryption.backfill.table_scan import PASSING, Connection, Result, Settings
from openkcm.field_encryption.errors import BackfillRefused, BackfillRunning, BackfillStopped
from openkcm.field_encryption.key_cache import KeyUnwrapError

LONGEST_REST = 5.0
_SHOWN_AFTER = 3
"""Tries after which it counts as waiting."""
_LOCK = 0x6F6B6266
"""The first half of the advisory lock's number; the second is the table's."""
_LOCK_SECONDS = 5.0
"""How long the server may take to notice that one before us was killed."""
_FINAL = frozenset({
    "ciphertext_refused", "column_key_missing", "certificate_unusable", "key_version_retired", "invalid_request",
})  # fmt: skip
"""Answers about a key that no waiting changes."""
# A session that hangs must not hold rows for long, nor one that waits the application's changes of structure.
_SESSION = (
    "SET lock_timeout = '1s'; SET statement_timeout = '60s'; SET idle_in_transaction_session_timeout = '15s';"
    " SET row_security = off"
)
_LOST = ("08", "53", "57")
"""Classes of SQLSTATE that say that the server is away, full or going down."""


@dataclass(frozen=True, slots=True)
class Options:
    """`conninfo` may hold a password: it is never shown. `table` is empty for all."""

    conninfo: str
    settings: Settings
    table: str = ""
    dry_run: bool = False
    wait_seconds: float = 600.0
    key_seconds: float = 60.0


def holds_password(conninfo: str) -> bool:
    """Whether a connection string says a password, or cannot be read as one."""
    try:
        return bool({"password", "sslpassword"} & set(conninfo_to_dict(conninfo)))
    except psycopg.Error:
        return "password" in conninfo.lower()


class RetryingConnection:
    def __init__(self, options: Options, stop: threading.Event, tell: Callable[[], None]) -> None:
        self._options, self._stop, self._tell = options, stop, tell
        self._connection: Connection | None = None
        self._progress: TableProgress | None = None
        self._locked = False

    def connect_first(self) -> Connection:
        """Return the first connection; what does not work now was given wrongly. Raises BackfillRefused."""
        try:
            return self.connected()
        except psycopg.OperationalError as failed:
            said = str(failed).strip().splitlines()
            raise BackfillRefused(
                f"the database is not reached: {said[-1] if said else ''}", "see --database"
            ) from None
        except psycopg.Error:
            raise BackfillRefused("the connection string is not understood", "see --database") from None

    def begin(self, progress: TableProgress) -> None:
        """Be the only backfill of a table from here on. Raises BackfillRunning, BackfillStopped."""
        self._progress, self._locked = progress, False
        self._show(self._at_work())
        self.do(lambda _: None)

    def do(self, work: Callable[[Connection], Result]) -> Result:
        """Raises: what is not over by waiting, and BackfillStopped."""
        until, tries = 0.0, 0
        while True:
            self._refuse_if_stopped()
            try:
                connection = self.connected()
                self._lock(connection)
                result = work(connection)
            except (KeyUnwrapError, psycopg.Error) as failed:
                reason = self._passing(failed)
            else:
                if tries > _SHOWN_AFTER:
                    self._show(self._at_work())
                return result
            tries += 1
            until = until or time.monotonic() + self._options.wait_seconds
            if time.monotonic() > until:
                raise BackfillStopped(f"it waited for {self._options.wait_seconds:g} s: {reason}")
            if tries > _SHOWN_AFTER:
                self._show(Backfill.WAITING, reason)
            self.rest(min(0.05 * 2**tries, LONGEST_REST) * random.uniform(0.5, 1.0))  # noqa: S311 - no secret

    def rest(self, seconds: float) -> None:
        """Raises BackfillStopped."""
        if seconds > 0:
            self._stop.wait(seconds)
        self._refuse_if_stopped()

    def connected(self) -> Connection:
        """Return the connection, made anew if need be. Raises psycopg.Error."""
        if self._connection is None or self._connection.closed:
            self._locked, self._connection = False, None
            made = psycopg.connect(
                self._options.conninfo,
                autocommit=True,
                cursor_factory=psycopg.RawCursor,
                application_name="openkcm backfill",
                client_encoding="utf8",
            )
            made.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
            made.execute(_SESSION)
            if self._options.dry_run:
                made.execute("SET default_transaction_read_only = on")
            self._connection = made
        return self._connection

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def _passing(self, failed: KeyUnwrapError | psycopg.Error) -> str:
        """Return what is being waited for; raises what no waiting changes."""
        if isinstance(failed, KeyUnwrapError):
            if failed.code in _FINAL or (failed.code == "key_table_unusable" and self._is_alive()):
                raise BackfillRefused(f"{failed.detail} ({failed.code})", failed.hint or None) from None
            return failed.code
        if isinstance(failed, PASSING):
            return str(failed.sqlstate)
        gone = self._connection is None or self._connection.closed
        if isinstance(failed, psycopg.OperationalError | psycopg.InterfaceError) and (
            gone or failed.sqlstate is None or failed.sqlstate.startswith(_LOST)
        ):
            self.close()
            return failed.sqlstate or "database_unavailable"
        raise failed

    def _is_alive(self) -> bool:
        try:
            if self._connection is not None:
                self._connection.execute("SELECT 1")
        except psycopg.Error:
            self.close()
            return False
        return True

    def _lock(self, connection: Connection) -> None:
        if self._locked or self._progress is None:
            return
        table = self._progress.table
        query = sql.SQL("SELECT pg_catalog.pg_try_advisory_lock({}, {})").format(
            sql.Literal(_LOCK), sql.Literal(table.oid - (table.oid >> 31 << 32))
        )
        until = time.monotonic() + _LOCK_SECONDS
        while connection.execute(query).fetchone() != (True,):
            if time.monotonic() > until:
                raise BackfillRunning(f"another backfill is at work on {table.full_name}")
            self.rest(0.1)
        self._locked = True

    def _at_work(self) -> Backfill:
        return Backfill.UNDOING if self._options.settings.undo else Backfill.RUNNING

    def _show(self, state: Backfill, reason: str = "") -> None:
        if self._progress is not None:
            self._progress.state, self._progress.waits_for = state, reason
            self._tell()

    def _refuse_if_stopped(self) -> None:
        if self._stop.is_set():
            raise BackfillStopped("it was told to stop")
