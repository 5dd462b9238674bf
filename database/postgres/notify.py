"""Notifications of committed changes, on a separate connection (SQL function `announce_change`)."""

import hashlib
import threading
from collections.abc import Callable

import psycopg
import structlog
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from database.postgres.access import login

CHANNEL = "okcm_changed"

_POLL_SECONDS = 0.2
"""How long the feed may continue to listen after `stop`."""
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.05, 1.0

# A silent loss of the peer is detected within about ten seconds; until then, changes can be missed.
_LIVENESS = "keepalives_idle=4 keepalives_interval=2 keepalives_count=3 tcp_user_timeout=10000"

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
                    connection.execute(f"listen {CHANNEL}")
                    # Call `lost` only after LISTEN: its caller reads everything again, and a change during that read
                    # must produce a notification.
                    lost()
                    pause = _FIRST_PAUSE_SECONDS
                    while not stop.is_set():
                        for notice in connection.notifies(timeout=_POLL_SECONDS):
                            changed(notice.payload)
            except psycopg.Error as failed:
                _log.warning("change feed lost", error=type(failed).__name__)
                stop.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _connect(self) -> psycopg.Connection:
        return psycopg.connect(
            make_conninfo(self._url, **conninfo_to_dict(_LIVENESS)),
            user=login(self._role),
            password=self._password,
            autocommit=True,
            connect_timeout=2,
            application_name=f"openkcm-{self._role}-feed",
            options="-c search_path=pg_catalog",
        )


def tenant_hash(tenant_id: str) -> str:
    """Return the name of a tenant in a change feed: SHA-256, hex."""
    return hashlib.sha256(tenant_id.encode()).hexdigest()


def object_hash(tenant_id: str) -> str:
    """Return the name of a tenant's managed objects in a change feed."""
    return tenant_hash(f"{tenant_id}/objects")
