"""The one door to the rows: a pool per process, a transaction per tenant.

The context is set in the same message that begins the transaction, so no statement ever runs without it, and it is
local to the transaction, so it ends with it whatever happens. The same message first throws away everything a previous
borrower could have left in the session; doing that when a connection is taken, not when it is given back, holds
however it came back.
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
"""How long a caller waits for a connection before DatabaseUnavailable."""

# An attempt to connect is given up before a waiting caller is, and the next caller starts a new one: a database that
# comes back is found at once, not after the pool's back-off of up to minutes.
_RECONNECT_SECONDS = 1.8

# `search_path` without okcm: every name is written out, so none can be captured. The limits end what hangs.
_SESSION = (
    "-c search_path=pg_catalog -c timezone=UTC -c jit=off"
    " -c statement_timeout=10s -c lock_timeout=5s -c idle_in_transaction_session_timeout=60s"
)

# Everything a session can keep that a later transaction would feel. Prepared statements are dropped and never made
# (`prepare_threshold`): hostile SQL could put its own text behind a name the client is going to call.
_CLEAN = "reset all; reset role; deallocate all; close all; unlisten *; select pg_advisory_unlock_all()"

_TENANT = re.compile(rf"{TENANT_ID_PATTERN}|{re.escape(PLATFORM)}")

_TOO_POWERFUL = """
    select rolname from pg_roles where rolname in (session_user, current_user) and (rolsuper or rolbypassrls
        or rolcreaterole or pg_has_role(rolname, %s, 'member'))
"""


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Database:
    """Connections of one process, and the transactions of a tenant.

    Safe to share between threads.

    Nothing is connected before the first transaction, so a process can start while its database is down.
    """

    def __init__(  # noqa: PLR0913 - where, who, two proofs of it, two sizes, and the time
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
        """`url` has no user and password; `role` is a process's name (`worker`), not PostgreSQL's.

        `now` is the clock that contexts are signed by, and MUST agree with the server's to within minutes.
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
            configure=self._admit,
            timeout=_WAIT_SECONDS,
            reconnect_timeout=_RECONNECT_SECONDS,
            name=f"database-{role}",
        )

    @contextmanager
    def tenant_tx(self, tenant_id: str) -> Iterator[TenantTransaction]:
        """Open a transaction for one tenant; commits on a clean exit, rolls back on an exception.

        Raises, from inside or at the end: DatabaseUnavailable, DatabaseRefused. Not to be nested.
        """
        with self.raw_tx(tenant_id) as connection:
            yield TenantTransaction(connection, tenant_id)

    @contextmanager
    def tenant_snapshot(self, tenant_id: str) -> Iterator[TenantTransaction]:
        """Open a transaction that reads a tenant's rows as of one moment and writes none; raises as `tenant_tx`."""
        with self.raw_tx(tenant_id, snapshot=True) as connection:
            yield TenantTransaction(connection, tenant_id)

    @contextmanager
    def raw_tx(self, tenant_id: str, *, snapshot: bool = False) -> Iterator[Connection[TupleRow]]:
        """Open the same transaction as `tenant_tx` as a bare connection, for this package alone."""
        if getattr(self._inside, "open", False):
            # The second one would be another connection: not atomic with the first, and a pool of threads that each
            # hold one and wait for one never moves again.
            raise RuntimeError("tenant transactions do not nest")
        self._inside.open = True
        try:
            with translate_errors():
                connection = self._begin(tenant_id, snapshot=snapshot)
                try:
                    yield connection
                    connection.commit()
                except BaseException:
                    # A connection that broke cannot roll back and need not; the pool replaces it.
                    with suppress(psycopg.Error):
                        connection.rollback()
                    raise
                finally:
                    self._pool.putconn(connection)
        finally:
            self._inside.open = False

    def sign(self, tenant_id: str, expires_at: int) -> str:
        """Return a context for `tenant_id` until `expires_at`, in seconds since the epoch."""
        return sign(self._context_key, tenant_id, expires_at)

    def close(self) -> None:
        """Close the connections; the object cannot be used again."""
        self._pool.close()

    def _begin(self, tenant_id: str, *, snapshot: bool) -> Connection[TupleRow]:
        """Return a connection inside a transaction for `tenant_id`, which the caller puts back."""
        opening = self._opening(tenant_id, snapshot=snapshot)
        self._pool.open()
        stale = self._pool.max_size
        while True:
            connection = self._take()
            try:
                for message in opening:
                    connection.execute(message)
            except psycopg.OperationalError:
                self._pool.putconn(connection)
                # A server that was restarted leaves a pool of dead connections; nothing has been done yet, so go on.
                stale -= 1
                if stale < 0 or not connection.broken:
                    raise
            except BaseException:
                self._pool.putconn(connection)
                raise
            else:
                return connection

    def _opening(self, tenant_id: str, *, snapshot: bool) -> Sequence[bytes]:
        """Return the message that begins a transaction for `tenant_id`.

        A snapshot takes two: the statements of one message are one transaction, which has looked by then.
        """
        # PostgreSQL takes several statements in one message only without parameters; this check is what makes it safe
        # to write the id into the text (a context consists of the id, digits and two bars).
        if not _TENANT.fullmatch(tenant_id):
            raise IllegalTenantId
        context = self.sign(tenant_id, int(self.now().timestamp()) + LIFETIME_SECONDS)
        # What is being done, for pg_stat_activity and the server's log; the same holds for its characters.
        doing = correlation.shown(LONGEST_NAME)
        named = f", set_config('application_name', '{doing}', true)" if doing else ""
        told = (
            f"select set_config('app.tenant_id', '{tenant_id}', true), set_config('app.ctx', '{context}', true){named}"
        )
        if snapshot:
            return _CLEAN.encode(), f"begin isolation level repeatable read read only; {told}".encode()
        return (f"{_CLEAN}; begin; {told}".encode(),)

    def _take(self) -> Connection[TupleRow]:
        try:
            return self._pool.getconn()
        except psycopg.OperationalError:
            if self._refusal is not None:
                raise DatabaseRefused(self._refusal, "use the roles that make up creates") from None
            raise

    def _admit(self, connection: Connection[TupleRow]) -> None:
        """Refuse a role that row security does not bind; runs once for each new connection."""
        powerful = connection.execute(_TOO_POWERFUL, [OWNER]).fetchone()
        self._refusal = None if powerful is None else f"row security does not bind the role {powerful[0]}"
        if self._refusal is not None:
            raise PermissionError(self._refusal)
