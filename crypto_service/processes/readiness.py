"""Whether a process should receive requests: faults of the process itself or of its machine.

A server that does not respond is no such fault: it is the same for all instances, and what they have in memory they
still serve. A load balancer that excluded all of them would make it worse.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

import structlog

from core.errors.platform import DatabaseLoginRefused, ReleaseOutdated, SchemaOutdated, VaultRefused
from core.names import CANARY_TENANT_ID
from crypto_service.audit.wal import WriteAheadLog
from database.connection.database import Database
from openkcm.errors import OpenKcmError
from vault.auth.client import LoginRefused, VaultClient

_CHECK_SECONDS = 1.0
_LOGIN_SECONDS = 15.0
"""Two requests of each process to the key server, which logs them."""
JOURNAL, LOGIN, TENANT_LOGIN = "journal_not_writable", "login_refused", "tenant_login_refused"

log = structlog.get_logger()


class Readiness:
    """Checks periodically; MUST be used from the event loop."""

    def __init__(
        self, journal: WriteAheadLog, database: Database, vault: VaultClient, tenants: Callable[[str], VaultClient]
    ) -> None:
        """`tenants` returns a session with the identity of a tenant."""
        self._logged: tuple[str, ...] = ()
        self._journal, self._database, self._vault, self._tenants = journal, database, vault, tenants
        self._database_fault: str | None = None
        self._login: str | None = None
        self._logged_in_at = -_LOGIN_SECONDS

    @property
    def faults(self) -> tuple[str, ...]:
        """The codes of what is wrong; the process is ready without one."""
        journal = JOURNAL if self._journal.is_failing else None
        return tuple(fault for fault in (journal, self._database_fault, self._login) if fault)

    async def watch(self) -> None:
        """Check until cancelled."""
        while True:
            await self.check()
            await asyncio.sleep(_CHECK_SECONDS)

    async def check(self) -> None:
        """Update `faults`."""
        self._journal.is_writable()
        with suppress(OpenKcmError):  # the former result remains
            self._database_fault = await asyncio.to_thread(self._check_database)
        now = time.monotonic()
        if now - self._logged_in_at >= _LOGIN_SECONDS:
            self._logged_in_at = now
            with suppress(OpenKcmError):  # the former result remains
                self._login = await asyncio.to_thread(self._refused_login)
        if self.faults != self._logged:
            self._logged = self.faults
            (log.error if self._logged else log.info)("readiness changed", faults=self._logged)

    def _check_database(self) -> str | None:
        """Return what another instance may have right: a version that fits the schema, or the password."""
        try:
            self._database.require_ready()
        except (SchemaOutdated, ReleaseOutdated, DatabaseLoginRefused) as fault:
            return fault.code
        return None

    def _refused_login(self) -> str | None:
        """Return which login the key server refuses: that of the process, or that of tenants.

        The second depends on the clock, because it is a token with times.
        """
        try:
            self._vault.read("auth/token/lookup-self")
        except VaultRefused:
            return LOGIN
        try:
            self._tenants(CANARY_TENANT_ID).read("auth/token/lookup-self")
        except LoginRefused:
            return TENANT_LOGIN
        except VaultRefused:  # the policy of tenants denies this request, after a successful login
            pass
        return None
