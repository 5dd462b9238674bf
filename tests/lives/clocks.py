"""One clock for a test that lives through years, and those who have to go by it.

Nothing is read from anybody's clock but the present: what is old is what was made long ago. So the present is moved,
for PostgreSQL, for the worker and for the certificates' ends together, and no row is touched. A workflow's own clock is
Temporal's to move. OpenBao's cannot be moved; of what it does only the end of an authority is a matter of years.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from database.connection import Database
from vault.session import VaultCalls
from vault.transport import Answer

_MOVED = {"now": "stable", "statement_timestamp": "stable", "clock_timestamp": "volatile"}
"""What migrations and queries ask for the time, and how often PostgreSQL has to ask anew."""


class PlayedClock:
    """The present, moved forward by `forward`."""

    def __init__(self, administrator: psycopg.Connection, patch: pytest.MonkeyPatch) -> None:
        """Take over the clock of a test's own database, whose administrator may replace what PostgreSQL comes with."""
        self._administrator = administrator
        self.elapsed = timedelta()
        administrator.execute("create schema played")
        administrator.execute("create table played.clock as select interval '0' as elapsed")
        administrator.execute(
            "create function played.elapsed() returns interval language sql stable"
            " as 'select elapsed from played.clock'"
        )
        administrator.execute("grant usage on schema played to public; grant select on played.clock to public")
        for name, kind in _MOVED.items():
            returns = f"returns timestamptz language {{}} {kind} as"
            administrator.execute(f"create function played.{name}() {returns.format('internal')} '{name}'")
            # The planner puts a simple function's body in the place of its call, of whatever version it finds here.
            administrator.execute(
                f"create or replace function pg_catalog.{name}() {returns.format('sql')}"
                f" 'select played.{name}() + played.elapsed()'"
            )
        sign = Database.sign

        def sign_later(database: Database, tenant_id: str, expires_at: int) -> str:
            return sign(database, tenant_id, expires_at + int(self.elapsed.total_seconds()))

        # The context that a process signs for a few minutes is signed at the time that the database will say it is.
        patch.setattr(Database, "sign", sign_later)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.elapsed

    def forward(self, time: timedelta) -> None:
        self.elapsed += time
        self._administrator.execute("update played.clock set elapsed = %s", [self.elapsed])


class DatedSession(VaultCalls):
    """The worker's session, in which an authority ends a year after the moved present.

    The worker may ask for a lifetime and for no date, which is right and tested elsewhere. So this one request is made
    by an administrator with the date that the lifetime comes to; key, signature and constraints are OpenBao's own.
    """

    def __init__(self, worker: VaultCalls, administrator: VaultCalls, clock: PlayedClock) -> None:
        super().__init__(None)
        self._worker, self._administrator, self._clock = worker, administrator, clock

    def request(self, method: str, path: str, data: dict[str, Any] | None = None) -> Answer:
        if path != "pki/root/sign-intermediate" or data is None:
            return self._worker.request(method, path, data)
        wanted = dict(data)
        ends = self._clock.now() + timedelta(hours=int(wanted.pop("ttl").removesuffix("h")))
        return self._administrator.request(method, path, wanted | {"not_after": f"{ends:%Y-%m-%dT%H:%M:%SZ}"})
