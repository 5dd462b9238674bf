"""From the lines of journals to what goes into the tenants' rows; pure: the same lines always give the same ids.

Each release, change, refusal and opening of a service's key is an audit record of its own. The other uses in a batch
become one record for each service and operation and second, with their number. Every line but an opening also counts
in the usage of its minute, refusals too where no service is on record: somebody tried.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from core.errors.requests import TooManyRequests
from core.services import CHANGES, RELEASES, CryptoOperation
from core.usage import BUCKETS, Latency, bucket
from crypto_service.audit.wal import WalRecord
from database.usage import UsesRow
from openkcm.contract.audit_events import AuditEvent, AuditName

_COUNTED_REFUSALS = frozenset({TooManyRequests.code})
"""Refusals that are counted like uses: one record each would let a client that is too fast write the stream full."""

_NEVER = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True)
class WalSlice:
    """Some lines of one journal file."""

    journal: str
    lines: Sequence[WalRecord]


@dataclass(slots=True)
class TenantBatch:
    """What one batch means for one tenant."""

    events: list[AuditEvent] = field(default_factory=list)
    usage: list[UsesRow] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    last_at: datetime = _NEVER
    lines: int = 0


@dataclass(slots=True)
class _Sum:
    """All lines of one use. Those of a use that stands alone are records already and only count."""

    first: WalRecord
    alone: bool
    last_at: int = 0
    lines: int = 0
    count: int = 0
    bytes: int = 0
    microseconds: int = 0
    took: dict[int, int] = field(default_factory=dict)
    """How many were in each bucket of `core.usage`."""


@dataclass(slots=True)
class _Minute:
    """The sums of a minute."""

    count: int = 0
    bytes: int = 0
    microseconds: int = 0
    took: list[int] = field(default_factory=lambda: [0] * BUCKETS)

    def add(self, together: _Sum) -> None:
        self.count += together.count
        self.bytes += together.bytes
        self.microseconds += together.microseconds
        for number, times in together.took.items():
            self.took[number] += times

    def latency(self) -> Latency:
        return Latency(tuple(self.took), self.microseconds)


_Use = tuple[str, str, CryptoOperation, str, int]
"""Tenant, service, operation, code of the refusal, second; all but the tenant make the id of a record."""


def records(batch_id: str, pieces: Iterable[WalSlice]) -> dict[str, TenantBatch]:
    """Return, by tenant, what the lines of a batch mean."""
    found: defaultdict[str, TenantBatch] = defaultdict(TenantBatch)
    sums = _summed(pieces, found)
    minutes: defaultdict[tuple[str, int, str, CryptoOperation, str], _Minute] = defaultdict(_Minute)
    for (tenant_id, service, operation, refused, second), together in sums.items():
        tenant = found[tenant_id]
        tenant.lines += together.lines
        tenant.last_at = max(tenant.last_at, _moment(together.last_at))
        if not together.alone:
            event_id = ":".join([batch_id, service, operation, refused, str(second)])
            tenant.events.append(_event(together.first, event_id, together.count, together.bytes))
        if operation is CryptoOperation.OPEN:
            continue  # by the service's requests, each of which has a line that counts, or by itself
        if service and not refused:
            tenant.seen.add(service)
        minutes[tenant_id, second // 60, service, operation, refused].add(together)
    for (tenant_id, minute, service, operation, refused), counted in minutes.items():
        row = UsesRow(
            _moment(minute * 60_000), service, operation, refused, counted.count, counted.bytes, counted.latency()
        )
        found[tenant_id].usage.append(row)
    return dict(found)


def _summed(pieces: Iterable[WalSlice], found: Mapping[str, TenantBatch]) -> dict[_Use, _Sum]:
    """Add the lines up, and put the records of those that stand alone into `found`: all that is done for each line."""
    sums: dict[_Use, _Sum] = {}
    for piece in pieces:
        for line in piece.lines:
            entry = line.entry
            use = (entry.tenant_id, entry.service, entry.operation, entry.refused, line.at // 1000)
            together = sums.get(use)
            if together is None:
                together = sums[use] = _Sum(line, _stands_alone(line))
            together.lines += 1
            together.count += entry.count
            together.bytes += entry.bytes
            if entry.microseconds:
                number = bucket(entry.microseconds)
                together.took[number] = together.took.get(number, 0) + entry.count
                together.microseconds += entry.count * entry.microseconds
            together.last_at = max(together.last_at, line.at)
            if together.alone:
                event_id = f"{piece.journal}:{line.offset}"
                found[entry.tenant_id].events.append(_event(line, event_id, entry.count, entry.bytes))
    return sums


def _stands_alone(line: WalRecord) -> bool:
    entry = line.entry
    if entry.refused:
        return entry.refused not in _COUNTED_REFUSALS
    return entry.operation in RELEASES or entry.operation in CHANGES or entry.operation is CryptoOperation.OPEN


def _event(line: WalRecord, event_id: str, count: int, size: int) -> AuditEvent:
    entry = line.entry
    moment = _moment(line.at).isoformat(timespec="milliseconds")
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
        subject=_storable(entry.subject) if _stands_alone(line) else entry.service,
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
    """Without NUL, which PostgreSQL's text cannot hold: a client must not be able to make its record undeliverable."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
