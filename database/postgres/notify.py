"""Word of committed changes, on a connection of its own (migrations/0006_services.sql, `announce_change`)."""

import hashlib
import threading
from collections.abc import Callable

import psycopg
import structlog
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from database.postgres.access import login

CHANNEL = "okcm_changed"

_LOOK_SECONDS = 0.2
"""How long after `stop` the feed may still be listening."""
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.05, 1.0

# A peer that vanished without a word is given up within about ten seconds: until then changes could be missed unseen.
_LIVENESS = "keepalives_idle=4 keepalives_interval=2 keepalives_count=3 tcp_user_timeout=10000"

_log = structlog.get_logger(__name__)


class NotifyFeed:
    """Word of every committed change that the crypto service must not miss (PostgreSQL's NOTIFY).

    A change is: a tenant's state, a route, an authority, a service's state, a certificate, an L3; and of a managed
    object that it was altered or removed. A new object is none: that it is not there MUST NOT be remembered.

    It reads no row: LISTEN needs no right and no tenant.
    """

    def __init__(self, url: str, role: str, password: str) -> None:
        """`url` has no user and password; `role` is a process's name (`crypto`), not PostgreSQL's."""
        self._url = url
        self._role = role
        self._password = password

    def listen(self, changed: Callable[[str], None], lost: Callable[[], None], stop: threading.Event) -> None:
        """Listen in the calling thread until `stop`; reconnects by itself.

        `changed` gets `mark(tenant_id)`, or `object_hash(tenant_id)` when managed objects alone changed: hashes,
        because LISTEN is open to every role. `lost` is called whenever changes may have been missed: before the first
        `changed` and after each reconnection.
        """
        pause = _FIRST_PAUSE_SECONDS
        while not stop.is_set():
            try:
                with self._connect() as connection:
                    connection.execute(f"listen {CHANNEL}")
                    # Only now: what is read again because of `lost` is read after the listening began, so that no
                    # change falls between the two.
                    lost()
                    pause = _FIRST_PAUSE_SECONDS
                    while not stop.is_set():
                        for notice in connection.notifies(timeout=_LOOK_SECONDS):
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
    """Return what a change feed calls a tenant: SHA-256, hex."""
    return hashlib.sha256(tenant_id.encode()).hexdigest()


def object_hash(tenant_id: str) -> str:
    """Return what a change feed calls the managed objects of a tenant."""
    return tenant_hash(f"{tenant_id}/objects")
