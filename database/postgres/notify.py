"""Notifications of committed changes, on a separate connection (SQL function `announce_change`)."""

import hashlib
import threading
import time
from collections.abc import Callable

import psycopg
import structlog

from database.postgres.access import login
from database.postgres.deadline import LIVENESS, DeadlineConnection

CHANNEL = "okcm_changed"
_LISTEN = f"listen {CHANNEL}"

_POLL_SECONDS = 0.2
"""How long the feed may continue to listen after `stop`."""
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.05, 1.0

_CHECK_SECONDS, _CHECK_DEADLINE_SECONDS = 2.0, 2.0
"""Interval and deadline of the check that detects a silent peer; until its end, changes can be missed."""

_log = structlog.get_logger(__name__)


class NotifyFeed:
    """Notifications of every committed change that the crypto service must not miss (PostgreSQL's NOTIFY).

    Reported are changes of a tenant's state, a route, a certificate authority, a service's state, a certificate and an
    L3 key, and the update or removal of a managed object. A new object is not reported: the caller MUST NOT cache that
    an object does not exist.

    The feed reads no rows: LISTEN requires neither a right nor a tenant context.
    """

    def __init__(self, url: str, role: str, password: str) -> None:
        """`url` has no user and password; `role` is the name of a process (`crypto`), not of a PostgreSQL role."""
        self._url = url
        self._role = role
        self._password = password

    def listen(self, changed: Callable[[str], None], lost: Callable[[], None], stop: threading.Event) -> None:
        """Listen in the calling thread until `stop` is set; reconnect automatically.

        `changed` receives `tenant_hash(tenant_id)`, or `object_hash(tenant_id)` if only managed objects changed. They
        are hashes because every role can LISTEN. `lost` is called whenever changes may have been missed: before the
        first `changed` and after each reconnection.
        """
        pause = _FIRST_PAUSE_SECONDS
        while not stop.is_set():
            try:
                with self._connect() as connection:
                    connection.execute(_LISTEN)
                    # Call `lost` only after LISTEN: its caller reads everything again, and a change during that read
                    # must produce a notification.
                    lost()
                    pause = _FIRST_PAUSE_SECONDS
                    while not stop.is_set():
                        due = time.monotonic() + _CHECK_SECONDS
                        while not stop.is_set() and time.monotonic() < due:
                            for notice in connection.notifies(timeout=_POLL_SECONDS):
                                changed(notice.payload)
                        # Repeated only for its response, which shows that the peer still sends notifications.
                        connection.execute(_LISTEN)
            except psycopg.Error as failed:
                _log.warning("change feed lost", error=type(failed).__name__)
                stop.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _connect(self) -> DeadlineConnection:
        connection = DeadlineConnection.connect(
            self._url,
            **LIVENESS,
            user=login(self._role),
            password=self._password,
            autocommit=True,
            application_name=f"openkcm-{self._role}-feed",
            options="-c search_path=pg_catalog",
        )
        connection.call_seconds = _CHECK_DEADLINE_SECONDS
        return connection


def tenant_hash(tenant_id: str) -> str:
    """Return the name of a tenant in a change feed: SHA-256, hex."""
    return hashlib.sha256(tenant_id.encode()).hexdigest()


def object_hash(tenant_id: str) -> str:
    """Return the name of a tenant's managed objects in a change feed."""
    return tenant_hash(f"{tenant_id}/objects")
