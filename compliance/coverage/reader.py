"""What is known of how much of a tenant is encrypted, read and judged: the command and the dashboard show it alike.

Only the dashboard's role may read what services do with their keys; an operator's sees none of it (0009, 0020). Imports
no psycopg: what it needs of the database comes through the interfaces.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from compliance.coverage.assessment import (
    ENCRYPTING,
    BackfillProgress,
    Coverage,
    ReportedUse,
    RequestCount,
    ServiceFacts,
    coverage,
    first_day,
)
from core.errors.tenants import TenantUnknown
from core.services import CryptoOperation
from database.connection.transaction import TenantTransaction
from database.services.agents import HeartbeatRow
from openkcm.contract.services import is_connected

_USABLE = frozenset({0, 1, 2})
"""KMIP's states, as ObjectCountRow has them, of an object that is neither deactivated, compromised nor destroyed."""


def read_coverage(tx: TenantTransaction, now: datetime) -> Coverage:
    """Return how much of the tenant is encrypted; `now` is in UTC. Raises TenantUnknown."""
    tenant = tx.tenants.get()
    if tenant is None:
        raise TenantUnknown
    return coverage(tenant.state, _services(tx, now), now)


def _services(tx: TenantTransaction, now: datetime) -> list[ServiceFacts]:
    first, last = first_day(now.date()), now.date()
    uses: defaultdict[str, list[ReportedUse]] = defaultdict(list)
    for row in tx.agents.uses(first, last):
        sums = (row.operations, row.bytes, row.microseconds, row.requests, row.request_microseconds)
        uses[row.service].append(ReportedUse(row.day, row.place, *sums))
    backfills: defaultdict[str, list[BackfillProgress]] = defaultdict(list)
    for told in tx.agents.backfills():
        day = told.told_at.astimezone(UTC).date()
        backfills[told.service].append(BackfillProgress(told.place, told.state, told.done, told.remaining, day))
    asked: defaultdict[str, list[RequestCount]] = defaultdict(list)
    for answered in tx.usage.answered(first, last, ENCRYPTING):
        asked[answered.service].append(RequestCount(answered.day, answered.operation, answered.count))
    kept: defaultdict[str, int] = defaultdict(int)
    for count in tx.objects.counts():
        kept[count.service] += count.count * (count.state in _USABLE)
    fetched, agents = tx.usage.last_answered(CryptoOperation.GET), _agents(tx.agents.all(), now)
    fields = tx.protection.by_service()
    found = {row.service: row for row in tx.enrolments.discovered()}
    connected = [
        ServiceFacts(
            service=row.service,
            kind=row.kind,
            state=row.state,
            discovered=row.service in found,
            certificate_ends=row.certificate_not_after,
            agents_connected=agents.get(row.service),
            fields=tuple(fields.get(row.service, ())),
            uses=tuple(uses[row.service]),
            backfills=tuple(backfills[row.service]),
            asked=tuple(asked[row.service]),
            fetched=fetched.get(row.service),
            keys_kept=kept[row.service],
        )
        for row in tx.services.all()
    ]
    known = {one.service for one in connected}
    return connected + [
        ServiceFacts(row.service, row.kind, None, discovered=True) for row in found.values() if row.service not in known
    ]


def _agents(agents: Iterable[HeartbeatRow], now: datetime) -> Mapping[str, int]:
    counted: defaultdict[str, int] = defaultdict(int)
    for one in agents:
        counted[one.service] += is_connected(one.last_contact_at, now)
    return counted
