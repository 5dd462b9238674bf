"""A connection pool per process and a transaction per tenant: the only access to rows.

A caller gets a connection only inside a transaction with a signed context. The first message resets the session,
begins the transaction and returns the transaction's id, which the context is signed for. The second one sets the
context, in bind parameters: the text of a statement is visible to all sessions of the same role. The reset runs when a
connection is taken, not when it is returned, so it does not depend on how the previous caller returned it.
"""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg
from psycopg import Connection
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool

from core import correlation
from core.errors.platform import DatabaseLoginRefused, DatabaseRefused, DatabaseUnavailable
from database.connection.transaction import TenantTransaction
from database.postgres.access import CURRENT_TRANSACTION, LONGEST_NAME, OWNER, PLATFORM, SESSION_SETTINGS, login, sign
from database.postgres.deadline import CALL_SECONDS, LIVENESS, CallTimeout, DeadlineConnection, NotConnected
from database.postgres.errors import is_login_refused, translate_errors
from database.schema.version import require_schema
from openkcm.contract.names import TENANT_ID_PATTERN
from openkcm.errors import IllegalTenantId

_WAIT_SECONDS = 2.0
"""How long a caller waits for a connection before DatabaseUnavailable is raised."""
BEGIN_SECONDS = 1.5
"""The deadline of the messages that begin a transaction; they wait for no lock and read no table.

A tenant must be locked within two seconds, also when the lock gets the connection of a silent backend first.
"""

SCHEMA_CHECK_SECONDS = 5.0
"""The longest time for which a connection relies on its last comparison of the schema with this process."""

# An attempt to connect ends before a waiting caller gives up, and the next caller starts a new one. A database that is
# available again is found at once, not after the pool's backoff of up to minutes.
_RECONNECT_SECONDS = 1.8

_SESSION = " ".join(f"-c {name}={value}" for name, value in SESSION_SETTINGS.items())

# All session state that can affect a later transaction. Prepared statements are dropped and never created
# (`prepare_threshold`): hostile SQL could prepare its own text under a name that the client calls later.
_CLEAN = "reset all; reset role; deallocate all; close all; unlisten *; select pg_advisory_unlock_all()"

_BEGIN = f"{_CLEAN}; begin; {CURRENT_TRANSACTION}"
_BEGIN_SNAPSHOT = f"begin isolation level repeatable read read only; {CURRENT_TRANSACTION}"

# The session's name is the correlation id, for pg_stat_activity and the server's log.
_SET_CONTEXT = """
    select set_config('app.tenant_id', %s, true), set_config('app.ctx', %s, true),
        set_config('application_name', coalesce(nullif(%s, ''), current_setting('application_name')), true)
"""

_TENANT = re.compile(rf"{TENANT_ID_PATTERN}|{re.escape(PLATFORM)}")

_TOO_POWERFUL = """
    select rolname from pg_roles where rolname in (session_user, current_user) and (rolsuper or rolbypassrls
        or rolcreaterole or pg_has_role(rolname, %s, 'member'))
"""

_WRONG_SETTINGS = """
    select name from unnest(%s::text[], %s::text[]) as wanted (name, value) where current_setting(name) <> value
"""
_ROLE_HINT = "use the roles that the database setup creates"
_SETTINGS_HINT = "run openkcmctl setup database; with a pooler see docs/own-servers.md#connection-poolers"


class Database:
    """Connections of one process and the transactions of a tenant.

    Safe to share between threads.

    The first transaction connects, so a process can start while its database is down.
    """

    def __init__(  # noqa: PLR0913 - address, role, two secrets and two sizes
        self,
        url: str,
        role: str,
        password: str,
        context_key: bytes,
        *,
        min_size: int = 1,
        max_size: int = 16,
    ) -> None:
        """`url` has no user and password; `role` is the name of a process (`worker`), not of a PostgreSQL role."""
        self._context_key = context_key
        self._refusal: tuple[str, str] | None = None
        """Why the last connection was rejected, and the hint."""
        self._connect_failure = ""
        """Why the last attempt to connect failed: the pool raises only that it took too long."""
        self._is_login_refused = False
        self._name = login(role)
        self._inside = threading.local()
        self._pool: ConnectionPool[DeadlineConnection] = ConnectionPool(
            url,
            connection_class=DeadlineConnection,
            kwargs={
                **LIVENESS,
                "user": login(role),
                "password": password,
                "autocommit": True,
                "prepare_threshold": None,
                "application_name": f"openkcm-{role}",
                "options": _SESSION,
                "report_failure": self._keep_connect_failure,
            },
            min_size=min_size,
            max_size=max_size,
            open=False,
            configure=self._require_role_and_settings,
            timeout=_WAIT_SECONDS,
            reconnect_timeout=_RECONNECT_SECONDS,
            name=f"database-{role}",
        )

    @contextmanager
    def tenant_tx(self, tenant_id: str, *, call_seconds: float = CALL_SECONDS) -> Iterator[TenantTransaction]:
        """Open a transaction for one tenant; commit on a normal exit, roll back on an exception.

        Must not be nested. A statement without a response within `call_seconds` ends the transaction.

        Raises:
            DatabaseUnavailable, DatabaseRefused: in the block or at its end.
            SchemaOutdated, ReleaseOutdated: this process does not fit the schema; both are DatabaseUnavailable.
        """
        with self.raw_tx(tenant_id, call_seconds=call_seconds) as connection:
            yield TenantTransaction(connection, tenant_id)

    @contextmanager
    def tenant_snapshot(self, tenant_id: str) -> Iterator[TenantTransaction]:
        """Open a read-only transaction that reads a tenant's rows as of one moment; raises as `tenant_tx` does."""
        with self.raw_tx(tenant_id, snapshot=True) as connection:
            yield TenantTransaction(connection, tenant_id)

    @contextmanager
    def raw_tx(
        self, tenant_id: str, *, snapshot: bool = False, call_seconds: float = CALL_SECONDS
    ) -> Iterator[Connection[TupleRow]]:
        """Open the transaction of `tenant_tx` and return its connection; for this package only."""
        if getattr(self._inside, "open", False):
            # A nested transaction would use a second connection: it would not be atomic with the first, and threads
            # that each hold one connection and wait for another would deadlock the pool.
            raise RuntimeError("tenant transactions do not nest")
        self._inside.open = True
        try:
            with translate_errors():
                connection = self._begin(tenant_id, snapshot=snapshot)
                connection.call_seconds = call_seconds
                try:
                    yield connection
                    connection.commit()
                except BaseException:
                    # A broken connection needs no rollback; the pool replaces it.
                    with suppress(psycopg.Error):
                        connection.rollback()
                    raise
                finally:
                    self._pool.putconn(connection)
        finally:
            self._inside.open = False

    def require_ready(self) -> None:
        """Raise what a transaction would raise now; see `tenant_tx` and `require_login`."""
        try:
            with self.raw_tx(PLATFORM):
                pass
        except DatabaseUnavailable:
            self.require_login()
            raise

    def require_login(self) -> None:
        """Raise DatabaseLoginRefused if that ended the last attempt to connect; for operators, never for customers."""
        if self._is_login_refused:
            raise DatabaseLoginRefused from None

    def sign(self, tenant_id: str, transaction: str) -> str:
        """Return the context of `tenant_id` for the transaction that returned `transaction` as CURRENT_TRANSACTION."""
        return sign(self._context_key, tenant_id, transaction)

    def close(self) -> None:
        """Close all connections; the object cannot be used again."""
        self._pool.close()

    def _begin(self, tenant_id: str, *, snapshot: bool) -> DeadlineConnection:
        """Return a connection inside a transaction for `tenant_id`; the caller returns it to the pool."""
        if not _TENANT.fullmatch(tenant_id):
            raise IllegalTenantId
        self._pool.open()
        stale = self._pool.max_size
        while True:
            connection = self._take()
            try:
                self._begin_on(connection, tenant_id, snapshot=snapshot)
            except psycopg.OperationalError as failed:
                self._pool.putconn(connection)
                # A restart of the server leaves dead connections in the pool. No statement has run yet, so retry.
                stale -= 1
                if isinstance(failed, CallTimeout):
                    # After a loss of the network all are dead, and each would take a deadline to prove it.
                    self._pool.drain()
                    stale = min(stale, 0)
                if stale < 0 or not connection.broken:
                    raise
            except BaseException:
                self._pool.putconn(connection)
                raise
            else:
                return connection

    def _begin_on(self, connection: DeadlineConnection, tenant_id: str, *, snapshot: bool) -> None:
        connection.call_seconds = BEGIN_SECONDS
        if time.monotonic() - connection.schema_checked_at > SCHEMA_CHECK_SECONDS:
            require_schema(connection)
            connection.schema_checked_at = time.monotonic()
        if snapshot:
            # A separate message: the statements of one message share a transaction, whose snapshot already exists.
            connection.execute(_CLEAN.encode())
        begun = connection.execute((_BEGIN_SNAPSHOT if snapshot else _BEGIN).encode())
        begun.set_result(-1)
        [transaction] = begun.fetchone() or ("",)
        context = self.sign(tenant_id, str(transaction))
        connection.execute(_SET_CONTEXT, [tenant_id, context, correlation.shown(LONGEST_NAME)])

    def _take(self) -> DeadlineConnection:
        try:
            return self._pool.getconn()
        except psycopg.OperationalError:
            if self._refusal is not None:
                raise DatabaseRefused(*self._refusal) from None
            if self._connect_failure and not self._is_login_refused:
                raise NotConnected(self._connect_failure) from None
            raise

    def _keep_connect_failure(self, failed: psycopg.OperationalError) -> None:
        was_refused, self._is_login_refused = self._is_login_refused, is_login_refused(failed)
        self._connect_failure = str(failed)
        if self._is_login_refused and not was_refused:
            import structlog  # noqa: PLC0415 - slow, and commands need it for this message only

            refused = DatabaseLoginRefused()
            structlog.get_logger().error(
                "database login refused", role=self._name, code=refused.code, hint=refused.hint
            )

    def _require_role_and_settings(self, connection: Connection[TupleRow]) -> None:
        """Reject a role that row-level security does not bind, and a session without its settings.

        Runs once for each new connection.
        """
        powerful = connection.execute(_TOO_POWERFUL, [OWNER]).fetchone()
        names = list(SESSION_SETTINGS)
        wrong = connection.execute(_WRONG_SETTINGS, [names, [SESSION_SETTINGS[name] for name in names]]).fetchall()
        self._refusal, self._connect_failure, self._is_login_refused = None, "", False
        if powerful is not None:
            self._refusal = f"row security does not bind the role {powerful[0]}", _ROLE_HINT
        elif wrong:
            self._refusal = f"the session has other settings: {', '.join(name for (name,) in wrong)}", _SETTINGS_HINT
        if self._refusal is not None:
            raise PermissionError(self._refusal[0])
