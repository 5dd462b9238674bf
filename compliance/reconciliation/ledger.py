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
from core.keys.root_keys import RootKeyMode
from core.tenants.lifecycle import State
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
class RecordedStream:
    """The compared records of a tenant. Those until `archived_until` are in archive files, not in the database.

    `holds_root_key`: the tenant uses a customer's root key, and the record of this change may be archived.
    """

    records: Sequence[AuditRecord]
    archived_until: datetime | None = None
    holds_root_key: bool = False


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
    streams: Mapping[str, RecordedStream],
    since: datetime | None,
    until: datetime,
    *,
    every: bool = True,
) -> ReconciliationResult:
    """Compare the log with the streams of these tenants, from `since` until `until`.

    Without `since` the log must contain the event of the first record about the key server. The canary tenants take
    part in the isolation checks of every tenant, so their comparison needs the streams of all tenants; `every` states
    that `streams` contains all. The comparison of a stream begins after its archived records.
    """
    begin = max(moment for moment in (since, log.begin, datetime.min.replace(tzinfo=until.tzinfo)) if moment)
    checks = [
        record.at
        for stream in streams.values()
        for record in stream.records
        if record.name is AuditName.BOUNDARY_CHECKED
    ]
    starts = {tenant_id: _start(stream, begin) for tenant_id, stream in streams.items()}
    all_recorded = max(starts.values(), default=begin)
    found = {}
    for tenant_id, stream in streams.items():
        is_reserved = tenant_id.startswith(RESERVED_PREFIX)
        start = min(all_recorded if is_reserved else starts[tenant_id], until)
        sides = ReconciliationInput(
            tenant_id,
            log.events.get(tenant_id, ()),
            stream.records,
            Window(start, until),
            checks if is_reserved else (),
            stream.holds_root_key,
        )
        found[tenant_id] = [*_begins_late(tenant_id, stream.records, log.begin, since), *reconcile(sides)]
    platform = about_the_platform(
        log.events.get("", ()), Window(begin, until), sorted(checks) if every else None, all_recorded
    )
    return ReconciliationResult((*log.faults, *platform), found)


def _start(stream: RecordedStream, begin: datetime) -> datetime:
    """Return the begin of a tenant's comparison: an archived record explains no event later than `LATE` after it."""
    return begin if stream.archived_until is None else max(begin, stream.archived_until + LATE)


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


def our_records(database: Database, tenant_id: str, since: datetime | None) -> RecordedStream:
    """Return the records from `LATE` before `since`, and earlier records of operations that may still be running."""
    if since is None:
        records = list(_found(database, tenant_id, AuditFilter(names=frozenset(RELEVANT))))
    else:
        first = since - LATE
        earlier = AuditFilter(names=frozenset(LONG_RUNNING), until=first)
        recent = AuditFilter(names=frozenset(RELEVANT), since=first)
        records = [*_found(database, tenant_id, earlier), *_found(database, tenant_id, recent)]
    # Afterwards: records can be archived while they are read.
    with database.tenant_tx(tenant_id) as tx:
        archived_until, tenant = tx.audit.archived_until(), tx.tenants.get()
    if archived_until is None or tenant is None:
        return RecordedStream(records)
    # The row of an offboarded tenant has its last mode.
    in_use = tenant.state is not State.OFFBOARDED or any(one.name is AuditName.KEY_DESTROYED for one in records)
    return RecordedStream(records, archived_until, in_use and tenant.root_key_mode != RootKeyMode.PLATFORM)


def _found(database: Database, tenant_id: str, chosen: AuditFilter) -> Iterator[AuditRecord]:
    with database.tenant_tx(tenant_id) as tx:
        among = tx.audit.numbers(chosen)
    while among:
        piece, among = among[:PIECE], among[PIECE:]
        with database.tenant_tx(tenant_id) as tx:
            found = tx.audit.found(chosen, piece, PIECE, newest_first=False)
        yield from filter(None, (our_record(one.stored) for one in found))
