"""Reconciliation of the key server's audit log with the audit streams of all tenants (docs/reconciliation.md).

The relevant records of each audit stream are read in pieces.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from compliance.audit.export import PIECE
from compliance.reconciliation.access_rules import about_the_platform
from compliance.reconciliation.model import (
    LATE,
    SERVER,
    SLACK,
    AuditRecord,
    Discrepancy,
    DiscrepancyKind,
    ReconciliationInput,
    ServerEvent,
    Severity,
    Window,
    our_record,
)
from compliance.reconciliation.rules import LONG_RUNNING, RELEVANT, reconcile
from core.audit import AuditFilter
from database.connection.database import Database
from openkcm.contract.audit_events import AuditName
from openkcm.contract.names import RESERVED_PREFIX


@dataclass(slots=True)
class ServerLog:
    """Events and faults of the key server's log; `events` by tenant id, those without a tenant under the empty id."""

    events: defaultdict[str, list[ServerEvent]] = field(default_factory=lambda: defaultdict(list))
    faults: list[Discrepancy] = field(default_factory=list)
    begin: datetime | None = None
    end: datetime | None = None
    lines: int = 0


@dataclass(frozen=True, slots=True)
class ReconciliationResult:
    """Discrepancies of the log itself and the platform, and of each tenant."""

    platform: Sequence[Discrepancy]
    tenants: Mapping[str, Sequence[Discrepancy]]

    @property
    def clean(self) -> bool:
        """Whether all discrepancies are notices."""
        every = [*self.platform, *(one for found in self.tenants.values() for one in found)]
        return all(one.severity is Severity.NOTICE for one in every)


def reconcile_all(
    log: ServerLog,
    streams: Mapping[str, Sequence[AuditRecord]],
    since: datetime | None,
    until: datetime,
    *,
    every: bool = True,
) -> ReconciliationResult:
    """Compare the log with the streams of these tenants, from `since` until `until`.

    Without `since` the log must contain the event of the first record about the key server. The canary tenants take
    part in the isolation checks of every tenant, so their comparison needs the streams of all tenants; `every` states
    that `streams` contains all.
    """
    begin = max(moment for moment in (since, log.begin, datetime.min.replace(tzinfo=until.tzinfo)) if moment)
    window = Window(begin, until)
    checks = [
        record.at for records in streams.values() for record in records if record.name is AuditName.BOUNDARY_CHECKED
    ]
    found = {}
    for tenant_id, records in streams.items():
        others = checks if tenant_id.startswith(RESERVED_PREFIX) else ()
        differences = reconcile(ReconciliationInput(tenant_id, log.events.get(tenant_id, ()), records, window, others))
        found[tenant_id] = [*_begins_late(tenant_id, records, log.begin, since), *differences]
    return ReconciliationResult(
        (*log.faults, *about_the_platform(log.events.get("", ()), window, sorted(checks) if every else None)), found
    )


def _begins_late(
    tenant_id: str, records: Sequence[AuditRecord], begin: datetime | None, since: datetime | None
) -> Sequence[Discrepancy]:
    """Return a discrepancy for records before the begin of the log: it was truncated, or lost in a log rotation."""
    missed = [
        record for record in records
        if (since is None or record.at >= since + SLACK) and (begin is None or record.at < begin - SLACK)
    ]  # fmt: skip
    if not missed:
        return ()
    what = f"the key server's log begins after record {missed[0].seq}, so {len(missed)} records cannot be compared"
    return (
        Discrepancy(
            DiscrepancyKind.BEGINS_LATE,
            Severity.DIFFERENCE,
            missed[0].at,
            what,
            tenant_id,
            SERVER,
            reference=str(missed[0].seq),
        ),
    )


def our_records(database: Database, tenant_id: str, since: datetime | None) -> list[AuditRecord]:
    """Return the records from `LATE` before `since`, and earlier records of operations that may still be running."""
    if since is None:
        return list(_found(database, tenant_id, AuditFilter(names=frozenset(RELEVANT))))
    first = since - LATE
    earlier = AuditFilter(names=frozenset(LONG_RUNNING), until=first)
    recent = AuditFilter(names=frozenset(RELEVANT), since=first)
    return [*_found(database, tenant_id, earlier), *_found(database, tenant_id, recent)]


def _found(database: Database, tenant_id: str, chosen: AuditFilter) -> Iterator[AuditRecord]:
    with database.tenant_tx(tenant_id) as tx:
        among = tx.audit.numbers(chosen)
    while among:
        piece, among = among[:PIECE], among[PIECE:]
        with database.tenant_tx(tenant_id) as tx:
            found = tx.audit.found(chosen, piece, PIECE, newest_first=False)
        yield from filter(None, (our_record(one.stored) for one in found))
