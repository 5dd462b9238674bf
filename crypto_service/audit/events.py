"""Conversion of write-ahead log records into the rows of the tenants; pure: the same records give the same event ids.

Each release, change and unwrap of a service key becomes a separate audit event, and so do the first rejections of a
second. The other uses and rejections in a batch become one event for each service, operation, rejection code and
second, with their number; where the tenant records resources, one for each resource or object as well. A change whose
transaction appended its event gets no second one. Every record except an
unwrap also counts in the usage of its minute, also a rejection of an unknown service: it was an attempt.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache

from core.errors.requests import TooManyRequests
from core.services import CHANGES, RELEASES, CryptoOperation
from core.usage import BUCKETS, Latency, bucket
from crypto_service.audit.wal import WalRecord
from crypto_service.interfaces import AuditEntry
from database.usage import UsesRow
from openkcm.contract.audit_events import AuditEvent, AuditName

_COUNTED_REFUSALS = frozenset({TooManyRequests.code})
"""Rejections that are counted like uses from the first on: a client that is too fast causes many."""
SEPARATE_REJECTIONS = 100
"""Rejections of one service, operation, code and second in a batch that become separate events, each with its subject;
further ones are counted. Otherwise a client that is rejected at full rate would fill the stream for good."""

_NEVER = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True)
class WalSlice:
    """A part of the records of one log file."""

    journal: str
    lines: Sequence[WalRecord]


@dataclass(slots=True)
class TenantBatch:
    """The rows that one batch adds for one tenant."""

    events: list[AuditEvent] = field(default_factory=list)
    usage: list[UsesRow] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    last_at: datetime = _NEVER
    lines: int = 0


@dataclass(slots=True)
class _Sum:
    """The sums of all records of one use."""

    rest: WalRecord | None = None
    """The first record without an event; `rest_count` and `rest_bytes` are the sums of all such records."""
    rest_count: int = 0
    rest_bytes: int = 0
    last_at: int = 0
    lines: int = 0
    count: int = 0
    bytes: int = 0
    microseconds: int = 0
    took: dict[int, int] = field(default_factory=dict)
    """The number of uses in each bucket of `core.usage`."""


@dataclass(slots=True)
class _Minute:
    """The sums of a minute."""

    count: int = 0
    bytes: int = 0
    microseconds: int = 0
    took: list[int] = field(default_factory=lambda: [0] * BUCKETS)

    def add(self, total: _Sum) -> None:
        self.count += total.count
        self.bytes += total.bytes
        self.microseconds += total.microseconds
        for number, times in total.took.items():
            self.took[number] += times

    def latency(self) -> Latency:
        return Latency(tuple(self.took), self.microseconds)


_Use = tuple[str, str, CryptoOperation, str, int, str]
"""Tenant, service, operation, rejection code, second and resource, which is empty where it is not recorded.

All except the tenant form the id of an event.
"""


def records(batch_id: str, slices: Iterable[WalSlice]) -> dict[str, TenantBatch]:
    """Return the rows of a batch by tenant."""
    found: defaultdict[str, TenantBatch] = defaultdict(TenantBatch)
    sums = _sum_records(slices, found)
    minutes: defaultdict[tuple[str, int, str, CryptoOperation, str], _Minute] = defaultdict(_Minute)
    for (tenant_id, service, operation, refused, second, resource), total in sums.items():
        tenant = found[tenant_id]
        tenant.lines += total.lines
        tenant.last_at = max(tenant.last_at, _moment(total.last_at))
        if total.rest is not None:
            event_id = ":".join([batch_id, service, operation, refused, str(second), *_digest(resource)])
            subject = resource or service
            tenant.events.append(_event(total.rest, event_id, subject, total.rest_count, total.rest_bytes))
        if operation is CryptoOperation.OPEN:
            continue  # caused by a request, which is counted, or by the service itself
        if service and not refused:
            tenant.seen.add(service)
        minutes[tenant_id, second // 60, service, operation, refused].add(total)
    for (tenant_id, minute, service, operation, refused), counted in minutes.items():
        row = UsesRow(
            _moment(minute * 60_000), service, operation, refused, counted.count, counted.bytes, counted.latency()
        )
        found[tenant_id].usage.append(row)
    return dict(found)


def _sum_records(slices: Iterable[WalSlice], found: Mapping[str, TenantBatch]) -> dict[_Use, _Sum]:
    """Sum the records, and add the separate events to `found`: the only work that is done for each record."""
    sums: dict[_Use, _Sum] = {}
    for wal_slice in slices:
        for line in wal_slice.lines:
            entry = line.entry
            # Rejections are counted together, so that a client that is rejected at full rate does not fill the stream.
            resource = entry.subject if entry.names_subject and not entry.refused else ""
            use = (entry.tenant_id, entry.service, entry.operation, entry.refused, line.at // 1000, resource)
            total = sums.get(use)
            if total is None:
                total = sums[use] = _Sum()
            total.lines += 1
            total.count += entry.count
            total.bytes += entry.bytes
            if entry.microseconds:
                number = bucket(entry.microseconds)
                total.took[number] = total.took.get(number, 0) + entry.count
                total.microseconds += entry.count * entry.microseconds
            total.last_at = max(total.last_at, line.at)
            if entry.recorded:
                continue
            if _is_separate(entry, total.lines):
                event_id = f"{wal_slice.journal}:{line.offset}"
                found[entry.tenant_id].events.append(separate_event(line, event_id))
            else:
                total.rest = total.rest or line
                total.rest_count += entry.count
                total.rest_bytes += entry.bytes
    return sums


def _digest(resource: str) -> tuple[str, ...]:
    """Return the part of an event id for a resource, whose name can be longer than an id."""
    return (hashlib.sha256(resource.encode("utf-8", "replace")).hexdigest()[:32],) if resource else ()


def separate_event(line: WalRecord, event_id: str) -> AuditEvent:
    """Return the audit event of one record."""
    return _event(line, event_id, line.entry.subject, line.entry.count, line.entry.bytes)


def _is_separate(entry: AuditEntry, number: int) -> bool:
    """Return whether a record becomes a separate event; it is the `number`-th of its use."""
    if entry.refused:
        return entry.refused not in _COUNTED_REFUSALS and number <= SEPARATE_REJECTIONS
    return entry.operation in RELEASES or entry.operation in CHANGES or entry.operation is CryptoOperation.OPEN


def _event(line: WalRecord, event_id: str, subject: str, count: int, size: int) -> AuditEvent:
    entry = line.entry
    moment = _moment_text(line.at)
    if entry.operation is CryptoOperation.OPEN:
        return AuditEvent(
            event_id=event_id,
            name=AuditName.SERVICE_KEY_OPENED,
            actor_kind="system",
            actor="crypto",
            subject=entry.service,
            outcome="success",
            correlation_id=_storable(entry.correlation_id),
            details={"version": entry.subject, "at": moment},
        )
    details = {"operation": entry.operation.value, "at": moment}
    if entry.refused:
        details["code"] = entry.refused
    if count != 1:
        details["count"] = str(count)
    if size:
        details["bytes"] = str(size)
    return AuditEvent(
        event_id=event_id,
        name=_name(line),
        actor_kind="service",
        actor=entry.service or "unknown",
        subject=_storable(subject),
        outcome="refused" if entry.refused else "success",
        correlation_id=_storable(entry.correlation_id),
        source=_storable(entry.source),
        details=details,
    )


def _name(line: WalRecord) -> AuditName:
    if line.entry.refused:
        return AuditName.CRYPTO_REFUSED
    if line.entry.operation in RELEASES:
        return AuditName.CRYPTO_KEY_RELEASED
    if line.entry.operation in CHANGES:
        return AuditName.CRYPTO_KEY_CHANGED
    return AuditName.CRYPTO_USED


def _storable(text: str) -> str:
    """Replace NUL, which PostgreSQL's text rejects: a client must not be able to make its event undeliverable."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


@lru_cache(maxsize=16)
def _moment_text(milliseconds: int) -> str:
    """Return a time as text, cached: a busy service writes many records in a millisecond."""
    return _moment(milliseconds).isoformat(timespec="milliseconds")
