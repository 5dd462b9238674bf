"""Heartbeats of agents and services, collected in memory and written to the database every few seconds.

All heartbeats of a tenant in that time are one transaction. A process that ends writes what it has; a killed process
loses at most `_PAUSE_SECONDS` of it, and the next heartbeats replace it. Memory is bounded: when the database is
unavailable for long, heartbeats are dropped. Nothing here is evidence, because services report it themselves.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import partial

import structlog

from core.errors.platform import DatabaseUnavailable
from core.errors.requests import TooManyRequests
from crypto_service.https.schemas import HeartbeatRequest, ReportedUsage
from crypto_service.interfaces import BlockingExecutor, ClientIdentity
from database.connection.database import Database
from database.services.agents import BackfillRow, HeartbeatRow, ProtectionUseRow
from openkcm.contract.services import OTHER_PLACES
from openkcm.errors import OpenKcmError

_PAUSE_SECONDS = 2.0
_NEWEST_CACHE_SECONDS = 90.0
"""How long the newest serial of a service, as read with a write, is used to answer its heartbeats."""
_SERVICES = 20_000
_INSTANCES = 50
_PLACES = 1000
"""Limits between two writes: services of one process; instances and places of one service."""

log = structlog.get_logger()


@dataclass(slots=True)
class _Pending:
    """The heartbeats of one service since the last write."""

    contacts: dict[str, HeartbeatRow] = field(default_factory=dict)
    uses: dict[tuple[date, str], list[int]] = field(default_factory=dict)
    backfills: dict[str, BackfillRow] = field(default_factory=dict)

    def add(self, day: date, place: str, sums: list[int]) -> None:
        if (day, place) not in self.uses and len(self.uses) >= _PLACES:
            place = OTHER_PLACES
        kept = self.uses.get((day, place))
        self.uses[day, place] = sums if kept is None else [one + more for one, more in zip(kept, sums, strict=True)]


@dataclass(slots=True)
class Totals:
    """Totals since the process started; `lost` counts services whose heartbeats the database rejected."""

    taken: int = 0
    lost: int = 0


class BufferedHeartbeats:
    """Collects heartbeats and writes them; MUST be used from one loop."""

    def __init__(
        self,
        database: Database,
        blocking: BlockingExecutor,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.totals = Totals()
        self._database, self._blocking = database, blocking
        self._now, self._monotonic = now, monotonic
        self._pending: dict[str, dict[str, _Pending]] = {}
        self._newest: dict[tuple[str, str], tuple[str, float]] = {}

    async def note(self, caller: ClientIdentity, heartbeat: HeartbeatRequest) -> bool:
        """Collect a heartbeat of the caller, and return whether its service has a newer certificate than this one.

        Raises: TooManyRequests, and DatabaseUnavailable if it has to read the newest certificate.
        """
        newest = await self._newest_of(caller)
        # No await follows: a rejected heartbeat was not collected, and may be sent again.
        pending = self._of(caller.tenant_id, caller.service)
        now = self._now()
        if heartbeat.instance is not None and heartbeat.agent_version is not None and heartbeat.not_after is not None:
            if heartbeat.instance not in pending.contacts and len(pending.contacts) >= _INSTANCES:
                raise TooManyRequests
            pending.contacts[heartbeat.instance] = HeartbeatRow(
                caller.service, heartbeat.instance, heartbeat.agent_version, heartbeat.not_after, heartbeat.problem, now
            )
        for use in heartbeat.uses:
            pending.add(now.date(), use.place, _sums(use))
        for one in heartbeat.backfills:
            row = BackfillRow(caller.service, one.place, one.done, one.remaining, one.state, now)
            pending.backfills[one.place] = row
        pending.backfills = _bounded(pending.backfills)
        self.totals.taken += 1
        return newest != caller.serial

    async def run(self) -> None:
        """Write the collected heartbeats periodically; never returns."""
        while True:
            await asyncio.sleep(_PAUSE_SECONDS)
            await self.write()

    async def write(self) -> None:
        """Write the collected heartbeats tenant by tenant; errors of the database are logged, not raised."""
        self._forget_newest()
        for tenant_id in list(self._pending):
            pending = self._pending.pop(tenant_id)
            try:
                newest = await self._blocking.run(tenant_id, partial(self._write, tenant_id, pending))
            except (DatabaseUnavailable, TooManyRequests) as busy:
                self._restore(tenant_id, pending)
                log.warning("heartbeats wait for the database", tenant_id=tenant_id, code=busy.code)
            except OpenKcmError as refused:
                self.totals.lost += len(pending)
                log.warning("heartbeats lost", tenant_id=tenant_id, code=refused.code, services=len(pending))
            else:
                found_at = self._monotonic()
                self._newest |= {(tenant_id, service): (serial, found_at) for service, serial in newest.items()}

    def _write(self, tenant_id: str, pending: dict[str, _Pending]) -> dict[str, str]:
        contacts = [row for one in pending.values() for row in one.contacts.values()]
        uses = [
            ProtectionUseRow(day, service, place, *sums)
            for service, one in pending.items()
            for (day, place), sums in one.uses.items()
        ]
        backfills = [row for one in pending.values() for row in one.backfills.values()]
        with self._database.tenant_tx(tenant_id) as tx:
            tx.agents.note(contacts, uses)
            if backfills:
                tx.agents.note_backfills(backfills)
            return dict(tx.agents.newest(sorted(pending)))

    def _restore(self, tenant_id: str, pending: dict[str, _Pending]) -> None:
        """Restore heartbeats that could not be written; newer ones take precedence."""
        for service, older in pending.items():
            newer = self._pending.setdefault(tenant_id, {}).setdefault(service, _Pending())
            contacts = older.contacts | newer.contacts
            newer.contacts = dict(list(contacts.items())[-_INSTANCES:])
            newer.backfills = _bounded(older.backfills | newer.backfills)
            for (day, place), sums in older.uses.items():
                newer.add(day, place, sums)

    def _of(self, tenant_id: str, service: str) -> _Pending:
        services = self._pending.get(tenant_id, {})
        if service not in services and sum(map(len, self._pending.values())) >= _SERVICES:
            raise TooManyRequests
        return self._pending.setdefault(tenant_id, services).setdefault(service, _Pending())

    async def _newest_of(self, caller: ClientIdentity) -> str:
        """Return the serial of the newest certificate, from the last write or else from the database."""
        known = self._newest.get((caller.tenant_id, caller.service))
        if known is not None and self._monotonic() - known[1] < _NEWEST_CACHE_SECONDS:
            return known[0]
        serial = await self._blocking.run(caller.tenant_id, partial(self._read_newest, caller))
        self._newest[caller.tenant_id, caller.service] = (serial, self._monotonic())
        return serial

    def _read_newest(self, caller: ClientIdentity) -> str:
        with self._database.tenant_tx(caller.tenant_id) as tx:
            return tx.agents.newest([caller.service]).get(caller.service, caller.serial)

    def _forget_newest(self) -> None:
        ended = self._monotonic() - _NEWEST_CACHE_SECONDS
        self._newest = {key: found for key, found in self._newest.items() if found[1] > ended}


def _bounded(backfills: dict[str, BackfillRow]) -> dict[str, BackfillRow]:
    return backfills if len(backfills) <= _PLACES else dict(list(backfills.items())[-_PLACES:])


def _sums(use: ReportedUsage) -> list[int]:
    return [use.operations, use.bytes, use.microseconds, use.requests, use.request_microseconds]
