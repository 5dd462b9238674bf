"""Notifications of committed changes, on a separate connection (SQL functions `announce_change`, `cache_changes`).

They are read by the number of the transaction. PostgreSQL's NOTIFY would arrive some milliseconds earlier, but takes
one lock for all databases until the end of each commit.
"""

import hashlib
import threading
import time
from collections.abc import Callable

import psycopg
import structlog

from database.postgres.access import login
from database.postgres.deadline import LIVENESS, DeadlineConnection
from database.postgres.errors import unavailable_for_operator

_READ_SECONDS = 0.02
"""The interval of the reads. A cached entry outlives a change by at most this time and that of one read."""
_DEADLINE_SECONDS = 2.0
"""The deadline of a read, which detects a silent peer; until its end, changes can be missed."""
_TRIM_SECONDS = 60.0
_LONGEST_GAP_SECONDS = 300.0
"""The longest time between two reads without a loss: changes are deleted after ten minutes."""
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.05, 1.0

_log = structlog.get_logger(__name__)


AUTHORITIES = hashlib.sha256(b"/authorities").hexdigest()
"""The change that an authority of any tenant is new (SQL function `announce_authority`)."""


class ChangeFeed:
    """Notifications of every committed change that the crypto service must not miss.

    Reported are changes of a tenant's state, a route, a certificate authority, a service's state, a certificate and an
    L3 key, and the update or removal of a managed object. A new object is not reported: the caller MUST NOT cache that
    an object does not exist.

    The feed reads no rows of tenants and needs no tenant context.
    """

    def __init__(self, url: str, role: str, password: str) -> None:
        """`url` has no user and password; `role` is the name of a process (`crypto`), not of a PostgreSQL role."""
        self._url = url
        self._role = role
        self._password = password

    def listen(
        self,
        changed: Callable[[str], None],
        lost: Callable[[], None],
        stop: threading.Event,
        reached: Callable[[int], None] = lambda _until: None,
    ) -> None:
        """Read in the calling thread until `stop` is set; reconnect automatically.

        `changed` receives `tenant_hash(tenant_id)`, `object_hash(tenant_id)` if only managed objects changed, and
        AUTHORITIES. `lost` is called whenever changes may have been missed: before the first `changed` and after each
        reconnection. `reached` receives, after these calls, the number of the first transaction whose changes may not
        have been reported yet, when it has grown.
        """
        pause = _FIRST_PAUSE_SECONDS
        while not stop.is_set():
            try:
                with self._connect() as connection:
                    changes = _Changes(connection)
                    # Call `lost` only after the first read: its caller reads everything again, and a change during that
                    # read must produce a notification.
                    lost()
                    reached(until := changes.until)
                    pause = _FIRST_PAUSE_SECONDS
                    while not stop.wait(_READ_SECONDS):
                        for change in changes.read():
                            changed(change)
                        if not changes.is_complete:
                            break
                        if changes.until > until:
                            reached(until := changes.until)
            except psycopg.Error as failed:
                _log.warning(
                    "change feed lost", error=type(failed).__name__, message=unavailable_for_operator(failed).message
                )
                stop.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _connect(self) -> DeadlineConnection:
        connection = DeadlineConnection.connect(
            self._url,
            **LIVENESS,
            user=login(self._role),
            password=self._password,
            autocommit=True,
            prepare_threshold=None,
            application_name=f"openkcm-{self._role}-feed",
            options="-c search_path=pg_catalog",
        )
        connection.call_seconds = _DEADLINE_SECONDS
        return connection


class _Changes:
    """The changes since the construction; each is returned once."""

    def __init__(self, connection: DeadlineConnection) -> None:
        self.is_complete = True
        """False after changes may have been missed."""
        self._connection = connection
        self._until: int | None = None
        self._returned: set[tuple[int, str]] = set()
        self._read_at = self._trimmed_at = time.monotonic()
        self.read()

    @property
    def until(self) -> int:
        """The number of the first transaction whose changes may be missing."""
        assert self._until is not None  # noqa: S101 - set by the read of the constructor
        return self._until

    def read(self) -> list[str]:
        """Return the hashes of new changes, in the order in which their transactions began."""
        rows = self._connection.execute(
            "select until::text, xid::text, hash from okcm.cache_changes(%s::xid8)",
            [None if self._until is None else str(self._until)],
        ).fetchall()
        now, until = time.monotonic(), int(rows[0][0])
        found = [(int(xid), change) for _, xid, change in rows if xid is not None]
        new = [one for one in found if one not in self._returned]
        # A process that was suspended misses deleted changes; a failover can lose transactions and use their numbers
        # again.
        gap = now - self._read_at > _LONGEST_GAP_SECONDS
        self.is_complete = not gap and (self._until is None or until >= self._until)
        self._returned = {one for one in found if one[0] >= until}
        self._until, self._read_at = until, now
        if now - self._trimmed_at > _TRIM_SECONDS:
            self._trimmed_at = now
            self._connection.execute("select okcm.trim_cache_changes()")
        return [change for _, change in new]


def tenant_hash(tenant_id: str) -> str:
    """Return the name of a tenant in a change feed: SHA-256, hex."""
    return hashlib.sha256(tenant_id.encode()).hexdigest()


def object_hash(tenant_id: str) -> str:
    """Return the name of a tenant's managed objects in a change feed."""
    return tenant_hash(f"{tenant_id}/objects")
