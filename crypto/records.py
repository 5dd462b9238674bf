"""From the lines of journals to what goes into the tenants' rows; pure: the same lines always give the same ids.

Each release, change and refusal is an audit record of its own. The other uses in a batch become one record for each
service and operation and second, with their number. Every line also counts in the usage of its minute.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from crypto.journal_lines import Line
from database.interfaces import UsageRow
from tenancy.audit import AuditEvent, AuditName
from tenancy.errors import TooManyRequests
from tenancy.services import CHANGES, RELEASES, CryptoOperation

_COUNTED_REFUSALS = frozenset({TooManyRequests.code})
"""Refusals that are counted like uses: one record each would let a client that is too fast write the stream full."""

_NEVER = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True)
class Piece:
    """Some lines of one journal file."""

    journal: str
    lines: Sequence[Line]


@dataclass(slots=True)
class TenantRecords:
    """What one batch means for one tenant."""

    events: list[AuditEvent] = field(default_factory=list)
    usage: list[UsageRow] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    last_at: datetime = _NEVER
    lines: int = 0


@dataclass(slots=True)
class _Sum:
    first: Line
    count: int = 0
    bytes: int = 0


_Use = tuple[str, str, CryptoOperation, str, int]
"""Tenant, service, operation, code of the refusal, second; all but the tenant make the id of a record."""


def records(batch_id: str, pieces: Iterable[Piece]) -> dict[str, TenantRecords]:
    """Return, by tenant, what the lines of a batch mean."""
    found: defaultdict[str, TenantRecords] = defaultdict(TenantRecords)
    sums: dict[_Use, _Sum] = {}
    minutes: defaultdict[tuple[str, int, str, CryptoOperation], list[int]] = defaultdict(lambda: [0, 0, 0])
    for journal, line in ((piece.journal, line) for piece in pieces for line in piece.lines):
        entry = line.entry
        tenant = found[entry.tenant_id]
        tenant.lines += 1
        tenant.last_at = max(tenant.last_at, _moment(line.at))
        if _stands_alone(line):
            tenant.events.append(_event(line, f"{journal}:{line.offset}", entry.count, entry.bytes))
        else:
            use = (entry.tenant_id, entry.service, entry.operation, entry.refused, line.at // 1000)
            together = sums.setdefault(use, _Sum(line))
            together.count += entry.count
            together.bytes += entry.bytes
        if entry.service:
            if not entry.refused:
                tenant.seen.add(entry.service)
            counted = minutes[entry.tenant_id, line.at // 60_000, entry.service, entry.operation]
            counted[0] += entry.count
            counted[1] += entry.count if entry.refused else 0
            counted[2] += entry.bytes
    for (tenant_id, *what), together in sums.items():
        event_id = ":".join([batch_id, *map(str, what)])
        found[tenant_id].events.append(_event(together.first, event_id, together.count, together.bytes))
    for (tenant_id, minute, service, operation), (count, refused, size) in minutes.items():
        row = UsageRow(_moment(minute * 60_000), service, operation, count, refused, size)
        found[tenant_id].usage.append(row)
    return dict(found)


def _stands_alone(line: Line) -> bool:
    entry = line.entry
    if entry.refused:
        return entry.refused not in _COUNTED_REFUSALS
    return entry.operation in RELEASES or entry.operation in CHANGES


def _event(line: Line, event_id: str, count: int, size: int) -> AuditEvent:
    entry = line.entry
    details = {"operation": entry.operation.value, "at": _moment(line.at).isoformat(timespec="milliseconds")}
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


def _name(line: Line) -> AuditName:
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
