"""Reader of a tenant's coverage from the database, for the command and the dashboard.

Only the database role of the dashboard may read the usage of services; the role of an operator may not. Imports no
psycopg: it uses the interfaces of the database package.
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
"""KMIP states of an object that is neither deactivated, compromised nor destroyed, as in ObjectCountRow."""


def read_coverage(tx: TenantTransaction, now: datetime) -> Coverage:
    """Return the coverage of the tenant; `now` is in UTC. Raises TenantUnknown."""
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
    for report in tx.agents.backfills():
        day = report.reported_at.astimezone(UTC).date()
        backfills[report.service].append(
            BackfillProgress(report.place, report.state, report.done, report.remaining, day)
        )
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
