"""The one door to the rows: a pool per process, a transaction per tenant.

The context is set in the same message that begins the transaction, so no statement ever runs without it, and it is
local to the transaction, so it ends with it whatever happens. The same message first throws away everything a previous
borrower could have left in the session; doing that when a connection is taken, not when it is given back, holds
however it came back.
"""

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta

import psycopg
from psycopg import Connection
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool

from database.boundary_interfaces import TroubledExamination
from database.certificate_rows import EndingRow
from database.context import LIFETIME_SECONDS, LONGEST_NAME, PLATFORM, sign
from database.failures import translated
from database.roles import OWNER, login
from database.root_key_rows import NumberedKey, WatchedKey
from database.rotation_rows import StuckRotationRow
from database.rows import TenantRow
from database.tenants import COLUMNS, tenant_row
from database.transaction import TenantTransaction
from tenancy import correlation
from tenancy.errors import DatabaseRefused, IllegalTenantId
from tenancy.expiry import Ending
from tenancy.ids import TENANT_ID_PATTERN
from tenancy.policy import TenantPolicy
from tenancy.rotation import Stuck

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
            with translated():
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

    def unstarted_events(self, limit: int) -> Sequence[tuple[str, str, str, str]]:
        """Return (tenant id, event id, region, kind) of events no workflow has yet, oldest first (marketplace)."""
        with self.raw_tx(PLATFORM) as connection:
            rows = connection.execute(
                "select tenant_id, event_id, region, kind from okcm.unstarted_events(%s)", [limit]
            )
            return [(tenant_id, event_id, region, kind) for tenant_id, event_id, region, kind in rows]

    def pending_enrolments(self, limit: int) -> Sequence[tuple[str, str, str, str]]:
        """Return (tenant id, enrolment id, region, service) of those without an answer, oldest first (marketplace)."""
        with self.raw_tx(PLATFORM) as connection:
            rows = connection.execute(
                "select tenant_id, enrolment_id, region, service from okcm.pending_enrolments(%s)", [limit]
            )
            return [(tenant_id, enrolment_id, region, service) for tenant_id, enrolment_id, region, service in rows]

    def unknown_serials(self, serials: Sequence[str]) -> Sequence[str]:
        """Return those serials that are on record for no tenant (worker)."""
        with self.raw_tx(PLATFORM) as connection:
            rows = connection.execute("select okcm.unknown_serials(%s::text[])", [list(serials)])
            return [serial for (serial,) in rows]

    def moved_heads(self, limit: int) -> Sequence[str]:
        """Return tenants whose audit stream grew since its head was last signed (worker)."""
        with self.raw_tx(PLATFORM) as connection:
            return [tenant for (tenant,) in connection.execute("select okcm.moved_heads(%s)", [limit])]

    def audit_keys(self) -> Mapping[str, str]:
        """Return `key:version` → PEM of every public key on record (operator, dashboard, worker, crypto)."""
        with self.raw_tx(PLATFORM) as connection:
            rows = connection.execute("select key, public_key_pem from okcm.audit_keys()")
            return {str(key): str(pem) for key, pem in rows}

    def record_audit_keys(self, keys: Mapping[str, str]) -> None:
        """Record public keys, each once and for good (worker); raises DatabaseRefused for another of a known name."""
        with self.raw_tx(PLATFORM) as connection:
            for key, pem in keys.items():
                connection.execute("select okcm.record_audit_key(%s, %s)", [key, pem])

    def waiting_outboxes(self, limit: int) -> Sequence[str]:
        """Return tenants with announcements that were stored over a minute ago and are still unsent (worker)."""
        with self.raw_tx(PLATFORM) as connection:
            return [tenant for (tenant,) in connection.execute("select okcm.waiting_outboxes(%s)", [limit])]

    def watched_root_keys(self, region: str, lately: timedelta) -> Sequence[WatchedKey]:
        """Return the root keys in force that customers of a region hold; `used` within `lately` (worker)."""
        with self.raw_tx(PLATFORM) as connection:
            rows = connection.execute("select * from okcm.watched_root_keys(%s, %s)", [region, lately])
            return [WatchedKey(*row) for row in rows]

    def numbered_root_keys(self) -> Sequence[NumberedKey]:
        """Return the root keys in force of tenants in use that number their versions and are well (worker).

        Tenants that were rotated longest ago come first.
        """
        with self.raw_tx(PLATFORM) as connection:
            return [NumberedKey(*row) for row in connection.execute("select * from okcm.numbered_root_keys()")]

    def untaken_credentials(self, limit: int) -> Sequence[str]:
        """Return tenants with sealed credentials that nobody came for in a quarter of an hour (worker)."""
        with self.raw_tx(PLATFORM) as connection:
            return [tenant for (tenant,) in connection.execute("select okcm.untaken_credentials(%s)", [limit])]

    def stale_services(self, after: tuple[str, str], limit: int) -> Sequence[tuple[str, str]]:
        """Return (tenant id, service) where objects may have to be sealed anew, in order, behind `after` (crypto)."""
        with self.raw_tx(PLATFORM) as connection:
            rows = connection.execute("select * from okcm.stale_services(%s, %s, %s)", [*after, limit])
            return [(tenant_id, service) for tenant_id, service in rows]

    def due_rotations(self, limit: int) -> Sequence[str]:
        """Return tenants with a key that is older than they want, or with a rotation to be finished (worker)."""
        default = TenantPolicy()
        with self.raw_tx(PLATFORM) as connection:
            rows = connection.execute(
                "select okcm.due_rotations(%s, %s, %s)", [default.tenant_key_days, default.service_key_days, limit]
            )
            return [tenant for (tenant,) in rows]

    def stuck_rotations(self, unfinished: timedelta, overdue: timedelta, limit: int) -> Sequence[StuckRotationRow]:
        """Return rotations that failed, have run for longer, or are due for longer than these times (worker)."""
        default = TenantPolicy()
        with self.raw_tx(PLATFORM) as connection:
            rows = connection.execute(
                "select * from okcm.stuck_rotations(%s, %s, %s, %s, %s)",
                [default.tenant_key_days, default.service_key_days, unfinished, overdue, limit],
            )
            return [StuckRotationRow(tenant, Stuck(why), *rest) for tenant, why, *rest in rows]

    def key_probes(self, after: str, limit: int) -> Sequence[tuple[str, str]]:
        """Return (tenant id, ciphertext) of what tenants left for others, behind `after` and round to it (worker)."""
        with self.raw_tx(PLATFORM) as connection:
            rows = connection.execute("select tenant_id, ciphertext from okcm.key_probes(%s, %s)", [after, limit])
            return [(tenant_id, ciphertext) for tenant_id, ciphertext in rows]

    def due_authorities(self, limit: int) -> Sequence[str]:
        """Return tenants whose authority has a third of its life left and can be rolled (worker)."""
        with self.raw_tx(PLATFORM) as connection:
            return [tenant for (tenant,) in connection.execute("select okcm.due_authorities(%s)", [limit])]

    def outlived_authorities(self, limit: int) -> Sequence[str]:
        """Return tenants whose former authority's certificates have all expired (worker)."""
        with self.raw_tx(PLATFORM) as connection:
            return [tenant for (tenant,) in connection.execute("select okcm.outlived_authorities(%s)", [limit])]

    def stale_revocation_lists(self, oldest: timedelta, limit: int) -> Sequence[str]:
        """Return tenants with a revocation list that is missing, older than that, or lacks a revocation (worker)."""
        with self.raw_tx(PLATFORM) as connection:
            rows = connection.execute("select okcm.stale_revocation_lists(%s, %s)", [oldest, limit])
            return [tenant for (tenant,) in rows]

    def expiring(self, limit: int) -> Sequence[EndingRow]:
        """Return what is late or lapsed (tenancy/expiry.py) of tenants that were opened and have not left (worker)."""
        with self.raw_tx(PLATFORM) as connection:
            rows = connection.execute("select * from okcm.expiring(%s)", [limit])
            return [EndingRow(tenant, region, Ending(kind), *rest) for tenant, region, kind, *rest in rows]

    def due_examinations(self, after: str, limit: int) -> Sequence[tuple[str, str]]:
        """Return (tenant id, region) whose boundaries are to be examined, in order, behind `after` (worker)."""
        with self.raw_tx(PLATFORM) as connection:
            rows = connection.execute("select * from okcm.due_examinations(%s, %s)", [after, limit])
            return [(tenant_id, region) for tenant_id, region in rows]

    def troubled_examinations(self, late: timedelta, limit: int) -> Sequence[TroubledExamination]:
        """Return tenants with a breach, or whose examination is due for longer than `late` (worker)."""
        with self.raw_tx(PLATFORM) as connection:
            rows = connection.execute("select * from okcm.troubled_examinations(%s, %s)", [late, limit])
            return [TroubledExamination(*row) for row in rows]

    def list_tenants(self, after: str, limit: int) -> Sequence[TenantRow]:
        """Return tenants in order of id, from the first one behind `after` (operator)."""
        query = f"select {COLUMNS} from okcm.tenant where tenant_id > %s order by tenant_id limit %s"  # noqa: S608 - a constant
        with self.raw_tx(PLATFORM) as connection:
            return [tenant_row(row) for row in connection.execute(query, [after, limit])]

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
                raise DatabaseRefused(self._refusal, "use the roles that openkcm up creates") from None
            raise

    def _admit(self, connection: Connection[TupleRow]) -> None:
        """Refuse a role that row security does not bind; runs once for each new connection."""
        powerful = connection.execute(_TOO_POWERFUL, [OWNER]).fetchone()
        self._refusal = None if powerful is None else f"row security does not bind the role {powerful[0]}"
        if self._refusal is not None:
            raise PermissionError(self._refusal)
