"""A connection pool per process and a transaction per tenant: the only access to rows.

One message begins the transaction and sets the tenant context, so no statement runs without a context. The context is
local to the transaction and ends with it. The same message first resets the session. The reset runs when a connection
is taken, not when it is returned, so it does not depend on how the previous caller returned it.
"""

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

import psycopg
from psycopg import Connection
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool

from core import correlation
from core.errors.platform import DatabaseRefused
from database.connection.transaction import TenantTransaction
from database.postgres.access import LIFETIME_SECONDS, LONGEST_NAME, OWNER, PLATFORM, login, sign
from database.postgres.errors import translate_errors
from openkcm.contract.names import TENANT_ID_PATTERN
from openkcm.errors import IllegalTenantId

_WAIT_SECONDS = 2.0
"""How long a caller waits for a connection before DatabaseUnavailable is raised."""

# An attempt to connect ends before a waiting caller gives up, and the next caller starts a new one. A database that is
# available again is found at once, not after the pool's backoff of up to minutes.
_RECONNECT_SECONDS = 1.8

# `search_path` excludes okcm: every name is qualified, so no other object can capture it. The timeouts end stuck calls.
_SESSION = (
    "-c search_path=pg_catalog -c timezone=UTC -c jit=off"
    " -c statement_timeout=10s -c lock_timeout=5s -c idle_in_transaction_session_timeout=60s"
)

# All session state that can affect a later transaction. Prepared statements are dropped and never created
# (`prepare_threshold`): hostile SQL could prepare its own text under a name that the client calls later.
_CLEAN = "reset all; reset role; deallocate all; close all; unlisten *; select pg_advisory_unlock_all()"

_TENANT = re.compile(rf"{TENANT_ID_PATTERN}|{re.escape(PLATFORM)}")

_TOO_POWERFUL = """
    select rolname from pg_roles where rolname in (session_user, current_user) and (rolsuper or rolbypassrls
        or rolcreaterole or pg_has_role(rolname, %s, 'member'))
"""


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Database:
    """Connections of one process and the transactions of a tenant.

    Safe to share between threads.

    The first transaction connects, so a process can start while its database is down.
    """

    def __init__(  # noqa: PLR0913 - address, role, two secrets, two sizes and the clock
        self,
        url: str,
        role: str,
        password: str,
        context_key: bytes,
        *,
        min_size: int = 1,
        max_size: int = 16,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        """`url` has no user and password; `role` is the name of a process (`worker`), not of a PostgreSQL role.

        `now` is the clock for the expiry of contexts; it MUST agree with the server's clock to within minutes.
        """
        self.now = now
        self._context_key = context_key
        self._refusal: str | None = None
        self._inside = threading.local()
        self._pool: ConnectionPool[Connection[TupleRow]] = ConnectionPool(
            url,
            kwargs={
                "user": login(role),
                "password": password,
                "autocommit": True,
                "prepare_threshold": None,
                "connect_timeout": 2,
                "application_name": f"openkcm-{role}",
                "options": _SESSION,
            },
            min_size=min_size,
            max_size=max_size,
            open=False,
            configure=self._require_row_security,
            timeout=_WAIT_SECONDS,
            reconnect_timeout=_RECONNECT_SECONDS,
            name=f"database-{role}",
        )

    @contextmanager
    def tenant_tx(self, tenant_id: str) -> Iterator[TenantTransaction]:
        """Open a transaction for one tenant; commit on a normal exit, roll back on an exception.

        Must not be nested.

        Raises:
            DatabaseUnavailable, DatabaseRefused: in the block or at its end.
        """
        with self.raw_tx(tenant_id) as connection:
            yield TenantTransaction(connection, tenant_id)

    @contextmanager
    def tenant_snapshot(self, tenant_id: str) -> Iterator[TenantTransaction]:
        """Open a read-only transaction that reads a tenant's rows as of one moment; raises as `tenant_tx` does."""
        with self.raw_tx(tenant_id, snapshot=True) as connection:
            yield TenantTransaction(connection, tenant_id)

    @contextmanager
    def raw_tx(self, tenant_id: str, *, snapshot: bool = False) -> Iterator[Connection[TupleRow]]:
        """Open the transaction of `tenant_tx` and return its connection; for this package only."""
        if getattr(self._inside, "open", False):
            # A nested transaction would use a second connection: it would not be atomic with the first, and threads
            # that each hold one connection and wait for another would deadlock the pool.
            raise RuntimeError("tenant transactions do not nest")
        self._inside.open = True
        try:
            with translate_errors():
                connection = self._begin(tenant_id, snapshot=snapshot)
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

    def sign(self, tenant_id: str, expires_at: int) -> str:
        """Return a signed context for `tenant_id` until `expires_at`, in seconds since the epoch."""
        return sign(self._context_key, tenant_id, expires_at)

    def close(self) -> None:
        """Close all connections; the object cannot be used again."""
        self._pool.close()

    def _begin(self, tenant_id: str, *, snapshot: bool) -> Connection[TupleRow]:
        """Return a connection inside a transaction for `tenant_id`; the caller returns it to the pool."""
        messages = self._begin_messages(tenant_id, snapshot=snapshot)
        self._pool.open()
        stale = self._pool.max_size
        while True:
            connection = self._take()
            try:
                for message in messages:
                    connection.execute(message)
            except psycopg.OperationalError:
                self._pool.putconn(connection)
                # A restart of the server leaves dead connections in the pool. No statement has run yet, so retry.
                stale -= 1
                if stale < 0 or not connection.broken:
                    raise
            except BaseException:
                self._pool.putconn(connection)
                raise
            else:
                return connection

    def _begin_messages(self, tenant_id: str, *, snapshot: bool) -> Sequence[bytes]:
        """Return the messages that begin a transaction for `tenant_id`.

        A snapshot takes two messages: the statements of one message share a transaction, whose snapshot already exists.
        """
        # PostgreSQL accepts several statements in one message only without parameters. This check makes it safe to
        # write the id into the text; a context consists of the id, digits, hex and two bars.
        if not _TENANT.fullmatch(tenant_id):
            raise IllegalTenantId
        context = self.sign(tenant_id, int(self.now().timestamp()) + LIFETIME_SECONDS)
        # The correlation id, for pg_stat_activity and the server's log; its characters are safe for the same reason.
        correlation_id = correlation.shown(LONGEST_NAME)
        set_name = f", set_config('application_name', '{correlation_id}', true)" if correlation_id else ""
        set_context = (
            f"select set_config('app.tenant_id', '{tenant_id}', true), set_config('app.ctx', '{context}', true)"
            f"{set_name}"
        )
        if snapshot:
            return _CLEAN.encode(), f"begin isolation level repeatable read read only; {set_context}".encode()
        return (f"{_CLEAN}; begin; {set_context}".encode(),)

    def _take(self) -> Connection[TupleRow]:
        try:
            return self._pool.getconn()
        except psycopg.OperationalError:
            if self._refusal is not None:
                raise DatabaseRefused(self._refusal, "use the roles that the database setup creates") from None
            raise

    def _require_row_security(self, connection: Connection[TupleRow]) -> None:
        """Reject a role that row-level security does not bind; runs once for each new connection."""
        powerful = connection.execute(_TOO_POWERFUL, [OWNER]).fetchone()
        self._refusal = None if powerful is None else f"row security does not bind the role {powerful[0]}"
        if self._refusal is not None:
            raise PermissionError(self._refusal)
