"""One clock for a test of years: a test moves the time of PostgreSQL and of the worker together, and changes no row.

Between two moves the clock does not advance, so that due work does not depend on the speed of the machine. Temporal
skips the time of a workflow. The clock of OpenBao cannot be moved; only the expiry of a tenant CA depends on it.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from config import secrets
from config.secrets import Role, read_secret
from config.settings import Settings
from vault.auth.client import VaultClient, VaultSession
from vault.auth.transport import Answer

_TIME_FUNCTIONS = {"now": "stable", "statement_timestamp": "stable", "clock_timestamp": "volatile"}
"""The time functions that migrations and queries call, with their volatility."""


class MovedClock:
    """A clock that a test moves."""

    def __init__(self, administrator: psycopg.Connection) -> None:
        """Replace PostgreSQL's clock in a test's database; it starts at a midnight in the future.

        Therefore no certificate of OpenBao begins after the present of the test.
        """
        self._administrator = administrator
        self._present = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=2)
        administrator.execute("create schema test_clock")
        administrator.execute("create table test_clock.clock (present timestamptz not null)")
        administrator.execute("insert into test_clock.clock values (%s)", [self._present])
        administrator.execute(
            "create function test_clock.present() returns timestamptz language sql stable"
            " as 'select present from test_clock.clock'"
        )
        administrator.execute("grant usage on schema test_clock to public; grant select on test_clock.clock to public")
        for name, kind in _TIME_FUNCTIONS.items():
            # PostgreSQL calls its built-in functions by number, but the planner inlines a body as simple as this.
            administrator.execute(
                f"create or replace function pg_catalog.{name}() returns timestamptz language sql {kind} as"
                " 'select test_clock.present()'"
            )

    def now(self) -> datetime:
        return self._present

    def move_to(self, present: datetime) -> None:
        """Move the clock forward."""
        assert present > self._present
        self._administrator.execute("update test_clock.clock set present = %s", [present])
        self._present = present


class DatedSession(VaultSession):
    """The worker's session, in which a tenant CA expires one year after the moved time.

    The worker may request a lifetime but not a date, so an administrator makes this request with a date.
    """

    def __init__(self, settings: Settings, administrator: VaultClient, clock: MovedClock) -> None:
        super().__init__(
            settings.vault_url, Role.WORKER, read_secret(settings.secrets, secrets.vault_secret(Role.WORKER))
        )
        self._administrator, self._clock = administrator, clock

    def request(self, method: str, path: str, data: dict[str, Any] | None = None) -> Answer:
        if path != "pki/root/sign-intermediate" or data is None:
            return super().request(method, path, data)
        fields = dict(data)
        not_after = self._clock.now() + timedelta(hours=int(fields.pop("ttl").removesuffix("h")))
        return self._administrator.request(method, path, fields | {"not_after": f"{not_after:%Y-%m-%dT%H:%M:%SZ}"})
