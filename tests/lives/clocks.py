"""One clock for a test that lives through years, and those who have to go by it.

Nothing is read from anybody's clock but the present: what is old is what was made long ago. So the present is moved,
for PostgreSQL and for the worker together, and no row is touched. In between it stands still: what is due does not
depend on how fast this machine is. A workflow's own clock is Temporal's to move. OpenBao's cannot be moved; of what it
does only the end of an authority is a matter of years.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from config import secrets
from config.secrets import Role, read_secret
from config.settings import Settings
from vault.session import VaultCalls, VaultSession
from vault.transport import Answer

_ASKED = {"now": "stable", "statement_timestamp": "stable", "clock_timestamp": "volatile"}
"""What migrations and queries ask for the time, and how often PostgreSQL has to ask anew."""


class PlayedClock:
    """A present that changes when it is told to."""

    def __init__(self, administrator: psycopg.Connection) -> None:
        """Take over the clock of a test's own database, whose administrator may replace what PostgreSQL comes with.

        It begins at a midnight to come: nothing that OpenBao signs for the newborn is from the future then.
        """
        self._administrator = administrator
        self._present = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=2)
        administrator.execute("create schema played")
        administrator.execute("create table played.clock (present timestamptz not null)")
        administrator.execute("insert into played.clock values (%s)", [self._present])
        administrator.execute(
            "create function played.present() returns timestamptz language sql stable"
            " as 'select present from played.clock'"
        )
        administrator.execute("grant usage on schema played to public; grant select on played.clock to public")
        for name, kind in _ASKED.items():
            # What it comes with PostgreSQL runs by its number, whatever stands here. But the planner puts the body of
            # a function as simple as this one in the place of each call.
            administrator.execute(
                f"create or replace function pg_catalog.{name}() returns timestamptz language sql {kind} as"
                " 'select played.present()'"
            )

    def now(self) -> datetime:
        return self._present

    def reach(self, present: datetime) -> None:
        """Move on to a later present."""
        assert present > self._present
        self._administrator.execute("update played.clock set present = %s", [present])
        self._present = present


class DatedSession(VaultSession):
    """The worker's session, in which an authority ends a year after the moved present.

    The worker may ask for a lifetime and for no date, which is right and tested elsewhere. So this one request is made
    by an administrator with the date that the lifetime comes to; key, signature and constraints are OpenBao's own.
    """

    def __init__(self, settings: Settings, administrator: VaultCalls, clock: PlayedClock) -> None:
        super().__init__(
            settings.vault_url, Role.WORKER, read_secret(settings.secrets, secrets.vault_secret(Role.WORKER))
        )
        self._administrator, self._clock = administrator, clock

    def request(self, method: str, path: str, data: dict[str, Any] | None = None) -> Answer:
        if path != "pki/root/sign-intermediate" or data is None:
            return super().request(method, path, data)
        wanted = dict(data)
        ends = self._clock.now() + timedelta(hours=int(wanted.pop("ttl").removesuffix("h")))
        return self._administrator.request(method, path, wanted | {"not_after": f"{ends:%Y-%m-%dT%H:%M:%SZ}"})
