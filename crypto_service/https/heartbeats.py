"""What agents and services say of themselves, gathered in memory and written down every few seconds.

A tenant's heartbeats of that time are one transaction, however many there were. What was gathered is written when the
process ends, and lost when it is killed: that is at most `_PAUSE_SECONDS` of it, and contacts come again by themselves.
Bounded: a database that is away for long makes it forget, never grow. Nothing here is evidence of anything; a service
says it of itself.
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
_BELIEVED_SECONDS = 90.0
"""How long what a writing found of a service's newest certificate answers its heartbeats."""
_SERVICES = 20_000
_INSTANCES = 50
_PLACES = 1000
"""Of one service between two writings; services of one process."""

log = structlog.get_logger()


@dataclass(slots=True)
class _Gathered:
    """Of one service, since the last writing."""

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
    """Since the process began; `lost` are services whose heartbeats the database refused."""

    taken: int = 0
    lost: int = 0


class BufferedHeartbeats:
    """Implements `Heartbeats`; used from its loop."""

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
        self._gathered: dict[str, dict[str, _Gathered]] = {}
        self._newest: dict[tuple[str, str], tuple[str, float]] = {}

    async def note(self, caller: ClientIdentity, told: HeartbeatRequest) -> bool:
        """Take what the caller's service says, and return whether there is a newer certificate than the shown one.

        Raises: TooManyRequests, and where it has to look for the certificate DatabaseUnavailable.
        """
        newest = await self._newest_of(caller)
        # From here on nothing waits: what is refused was not taken, and may be sent again.
        gathered = self._of(caller.tenant_id, caller.service)
        now = self._now()
        if told.instance is not None and told.agent_version is not None and told.not_after is not None:
            if told.instance not in gathered.contacts and len(gathered.contacts) >= _INSTANCES:
                raise TooManyRequests
            gathered.contacts[told.instance] = HeartbeatRow(
                caller.service, told.instance, told.agent_version, told.not_after, told.problem, now
            )
        for use in told.uses:
            gathered.add(now.date(), use.place, _sums(use))
        for one in told.backfills:
            row = BackfillRow(caller.service, one.place, one.done, one.remaining, one.state, now)
            gathered.backfills[one.place] = row
        gathered.backfills = _bounded(gathered.backfills)
        self.totals.taken += 1
        return newest != caller.serial

    async def run(self) -> None:
        """Write down what was gathered, for ever."""
        while True:
            await asyncio.sleep(_PAUSE_SECONDS)
            await self.write()

    async def write(self) -> None:
        """Write down what was gathered, tenant by tenant; never raises what a database may answer."""
        self._forget_newest()
        for tenant_id in list(self._gathered):
            gathered = self._gathered.pop(tenant_id)
            try:
                newest = await self._blocking.run(tenant_id, partial(self._write, tenant_id, gathered))
            except (DatabaseUnavailable, TooManyRequests) as busy:
                self._put_back(tenant_id, gathered)
                log.warning("heartbeats wait for the database", tenant_id=tenant_id, code=busy.code)
            except OpenKcmError as refused:
                self.totals.lost += len(gathered)
                log.warning("heartbeats lost", tenant_id=tenant_id, code=refused.code, services=len(gathered))
            else:
                found_at = self._monotonic()
                self._newest |= {(tenant_id, service): (serial, found_at) for service, serial in newest.items()}

    def _write(self, tenant_id: str, gathered: dict[str, _Gathered]) -> dict[str, str]:
        contacts = [row for one in gathered.values() for row in one.contacts.values()]
        uses = [
            ProtectionUseRow(day, service, place, *sums)
            for service, one in gathered.items()
            for (day, place), sums in one.uses.items()
        ]
        backfills = [row for one in gathered.values() for row in one.backfills.values()]
        with self._database.tenant_tx(tenant_id) as tx:
            tx.agents.note(contacts, uses)
            if backfills:
                tx.agents.note_backfills(backfills)
            return dict(tx.agents.newest(sorted(gathered)))

    def _put_back(self, tenant_id: str, gathered: dict[str, _Gathered]) -> None:
        """Keep what could not be written, beneath what came meanwhile."""
        for service, older in gathered.items():
            newer = self._gathered.setdefault(tenant_id, {}).setdefault(service, _Gathered())
            contacts = older.contacts | newer.contacts
            newer.contacts = dict(list(contacts.items())[-_INSTANCES:])
            newer.backfills = _bounded(older.backfills | newer.backfills)
            for (day, place), sums in older.uses.items():
                newer.add(day, place, sums)

    def _of(self, tenant_id: str, service: str) -> _Gathered:
        services = self._gathered.get(tenant_id, {})
        if service not in services and sum(map(len, self._gathered.values())) >= _SERVICES:
            raise TooManyRequests
        return self._gathered.setdefault(tenant_id, services).setdefault(service, _Gathered())

    async def _newest_of(self, caller: ClientIdentity) -> str:
        """Return the serial of the newest certificate, as a writing found it or else as it is on record now."""
        known = self._newest.get((caller.tenant_id, caller.service))
        if known is not None and self._monotonic() - known[1] < _BELIEVED_SECONDS:
            return known[0]
        serial = await self._blocking.run(caller.tenant_id, partial(self._look, caller))
        self._newest[caller.tenant_id, caller.service] = (serial, self._monotonic())
        return serial

    def _look(self, caller: ClientIdentity) -> str:
        with self._database.tenant_tx(caller.tenant_id) as tx:
            return tx.agents.newest([caller.service]).get(caller.service, caller.serial)

    def _forget_newest(self) -> None:
        ended = self._monotonic() - _BELIEVED_SECONDS
        self._newest = {key: found for key, found in self._newest.items() if found[1] > ended}


def _bounded(backfills: dict[str, BackfillRow]) -> dict[str, BackfillRow]:
    return backfills if len(backfills) <= _PLACES else dict(list(backfills.items())[-_PLACES:])


def _sums(use: ReportedUsage) -> list[int]:
    return [use.operations, use.bytes, use.microseconds, use.requests, use.request_microseconds]
