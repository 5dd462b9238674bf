"""Sign-ons to the dashboard, so that one of them can be ended everywhere at once."""

from dataclasses import dataclass
from datetime import datetime

from psycopg import Connection
from psycopg.rows import TupleRow

from database.rows import SessionRow

# A session is kept for a month after it expired, so that an old cookie is told from one that was never issued.
_BEGIN = """
with forgotten as (
    delete from okcm.dashboard_session where expires_at < now() - interval '30 days'
)
insert into okcm.dashboard_session (tenant_id, session_id, subject, expires_at)
values (%s, %s, %s, %s) on conflict do nothing
"""


@dataclass(frozen=True, slots=True)
class Sessions:
    connection: Connection[TupleRow]
    tenant_id: str

    def begin(self, session_id: str, subject: str, expires_at: datetime) -> bool:
        """Record a sign-on; False when it is on record, which nothing changes. Forgets what ended a month ago."""
        return self.connection.execute(_BEGIN, [self.tenant_id, session_id, subject, expires_at]).rowcount == 1

    def get(self, session_id: str) -> SessionRow | None:
        found = self.connection.execute(
            "select session_id, subject, expires_at, last_seen_at, ended_at from okcm.dashboard_session"
            " where session_id = %s",
            [session_id],
        ).fetchone()
        return None if found is None else SessionRow(*found)

    def seen(self, session_id: str, at: datetime) -> None:
        """Move `last_seen_at` forward."""
        self.connection.execute(
            "update okcm.dashboard_session set last_seen_at = greatest(last_seen_at, %s) where session_id = %s",
            [at, session_id],
        )

    def end(self, session_id: str) -> bool:
        """End a session for good; False when there is none that has not ended."""
        ended = self.connection.execute(
            "update okcm.dashboard_session set ended_at = clock_timestamp() where session_id = %s and ended_at is null",
            [session_id],
        )
        return ended.rowcount == 1
