"""One clock for a test of years: the present moves, for PostgreSQL and the worker together, and no row is changed.

In between it does not advance, so what is due does not depend on the speed of the machine. Temporal moves a workflow's
own clock. OpenBao's cannot be moved; of what it does only the end of an authority is a matter of years.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from config import secrets
from config.secrets import Role, read_secret
from config.settings import Settings
from vault.auth.client import VaultClient, VaultSession
from vault.auth.transport import Answer

_ASKED = {"now": "stable", "statement_timestamp": "stable", "clock_timestamp": "volatile"}
"""What migrations and queries ask for the time, and how often PostgreSQL has to ask anew."""


class PlayedClock:
    """A present that a test moves."""

    def __init__(self, administrator: psycopg.Connection) -> None:
        """Replace PostgreSQL's clock in a test's database, from a future midnight on.

        So nothing that OpenBao signs is from the future.
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
            # PostgreSQL calls its built-in functions by number, but the planner inlines a body as simple as this.
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

    The worker may request a lifetime and no date, so an administrator makes this one request with a date.
    """

    def __init__(self, settings: Settings, administrator: VaultClient, clock: PlayedClock) -> None:
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
