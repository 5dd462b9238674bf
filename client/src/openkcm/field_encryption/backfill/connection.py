"""The database connection: restored after a loss, with retries while a server is unavailable or busy."""

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
_SHOW_AFTER = 3
"""Attempts after which the state is reported as waiting."""
_LOCK = 0x6F6B6266
"""The first half of the advisory lock's number; the second half identifies the table."""
_LOCK_SECONDS = 5.0
"""Maximum time for the server to notice that a previous backfill was killed."""
_FINAL = frozenset({
    "ciphertext_refused", "column_key_missing", "certificate_unusable", "key_version_retired", "invalid_request",
})  # fmt: skip
"""Errors of a key that waiting cannot resolve."""
# A blocked session must not hold rows for long, and a waiting one must not delay the application's schema changes.
_SESSION = (
    "SET lock_timeout = '1s'; SET statement_timeout = '60s'; SET idle_in_transaction_session_timeout = '15s';"
    " SET row_security = off"
)
_LOST = ("08", "53", "57")
"""Classes of SQLSTATE for a server that is unreachable, full or shutting down."""


@dataclass(frozen=True, slots=True)
class Options:
    """`conninfo` may contain a password and is never displayed. `table` is empty for all tables."""

    conninfo: str
    settings: Settings
    table: str = ""
    dry_run: bool = False
    wait_seconds: float = 600.0
    key_seconds: float = 60.0


def holds_password(conninfo: str) -> bool:
    """Return whether a connection string contains a password, or cannot be parsed."""
    try:
        return bool({"password", "sslpassword"} & set(conninfo_to_dict(conninfo)))
    except psycopg.Error:
        return "password" in conninfo.lower()


class RetryingConnection:
    def __init__(self, options: Options, stop: threading.Event, update: Callable[[], None]) -> None:
        self._options, self._stop, self._update = options, stop, update
        self._connection: Connection | None = None
        self._progress: TableProgress | None = None
        self._locked = False

    def connect_first(self) -> Connection:
        """Return the first connection; any error is a wrong option. Raises BackfillRefused."""
        try:
            return self.connected()
        except psycopg.OperationalError as failed:
            message = str(failed).strip().splitlines()
            raise BackfillRefused(
                f"the database is not reachable: {message[-1] if message else ''}", "check --database"
            ) from None
        except psycopg.Error:
            raise BackfillRefused("the connection string is invalid", "check --database") from None

    def begin(self, progress: TableProgress) -> None:
        """Lock a table against other backfills. Raises BackfillRunning, BackfillStopped."""
        self._progress, self._locked = progress, False
        self._show(self._running_state())
        self.do(lambda _: None)

    def do(self, work: Callable[[Connection], Result]) -> Result:
        """Run `work` with retries. Raises: errors that waiting cannot resolve, and BackfillStopped."""
        until, tries = 0.0, 0
        while True:
            self._refuse_if_stopped()
            try:
                connection = self.connected()
                self._lock(connection)
                result = work(connection)
            except (KeyUnwrapError, psycopg.Error) as failed:
                reason = self._wait_reason(failed)
            else:
                if tries > _SHOW_AFTER:
                    self._show(self._running_state())
                return result
            tries += 1
            until = until or time.monotonic() + self._options.wait_seconds
            if time.monotonic() > until:
                raise BackfillStopped(f"it waited {self._options.wait_seconds:g} s for: {reason}")
            if tries > _SHOW_AFTER:
                self._show(Backfill.WAITING, reason)
            self.rest(min(0.05 * 2 ** min(tries, 10), LONGEST_REST) * random.uniform(0.5, 1.0))  # noqa: S311 - no secret

    def rest(self, seconds: float) -> None:
        """Wait. Raises BackfillStopped."""
        if seconds > 0:
            self._stop.wait(seconds)
        self._refuse_if_stopped()

    def connected(self) -> Connection:
        """Return the connection, restored if necessary. Raises psycopg.Error."""
        if self._connection is None or self._connection.closed:
            self._locked, self._connection = False, None
            connection = psycopg.connect(
                self._options.conninfo,
                autocommit=True,
                cursor_factory=psycopg.RawCursor,
                application_name="openkcm backfill",
                client_encoding="utf8",
            )
            connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
            connection.execute(_SESSION)
            if self._options.dry_run:
                connection.execute("SET default_transaction_read_only = on")
            self._connection = connection
        return self._connection

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def _wait_reason(self, failed: KeyUnwrapError | psycopg.Error) -> str:
        """Return the reason to wait; raises errors that waiting cannot resolve."""
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
                raise BackfillRunning(f"another backfill runs on {table.full_name}")
            self.rest(0.1)
        self._locked = True

    def _running_state(self) -> Backfill:
        return Backfill.UNDOING if self._options.settings.undo else Backfill.RUNNING

    def _show(self, state: Backfill, reason: str = "") -> None:
        if self._progress is not None:
            self._progress.state, self._progress.waits_for = state, reason
            self._update()

    def _refuse_if_stopped(self) -> None:
        if self._stop.is_set():
            raise BackfillStopped("it was stopped by a signal")
