"""The derived figures of a compliance report: they follow from audit records alone, for its creator and verifier.

One pass over any number of records needs bounded memory: lists keep the newest entries, and the numbers of names and
services are limited. `counted` trusts nothing but the fields of a record, and these may be missing or malformed: a
verifier may process a hostile export.
"""

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from openkcm.contract.audit_events import AuditName, StoredRecord, fields_of
from openkcm.verification.event_labels import what
from openkcm.verification.isolation_controls import DETAIL, tallied
from openkcm.verification.reports.model import (
    ClauseRuns,
    DerivedFigures,
    EventCounts,
    ReportedEvent,
    RootKeyEvent,
    ServiceAccess,
)

DENIED = 200
"""Maximum number of rejected attempts that a report lists; all are counted."""
LISTED = 500
"""Maximum number of changes, approvals and root key events, each."""
_NAMES = 300
_SERVICES = 2000
_CLAUSES = 100
_LONGEST = 200
_OTHERS = "(others)"

_STAMP = "%Y-%m-%dT%H:%M:%S.%fZ"
"""The time format of the stream; its lexical order is the order in time."""
_STAMP_LENGTH = 27

_OUTCOMES = ("success", "intended", "refused", "failure")
_ANSWERED = frozenset({AuditName.CRYPTO_USED, AuditName.CRYPTO_KEY_RELEASED, AuditName.CRYPTO_KEY_CHANGED})

CHANGES = frozenset(
    {
        AuditName.ENABLE_ACCEPTED,
        AuditName.DISABLE_RECORDED,
        AuditName.JOIN_TOKEN_MADE,
        AuditName.FIELD_PROTECTED,
        AuditName.FIELD_PROTECTION_CHANGED,
        AuditName.FIELD_UNPROTECTED,
        AuditName.TENANT_KEY_CREATED,
        AuditName.AUTHORITY_CREATED,
        AuditName.TENANT_ACTIVATED,
        AuditName.SERVICE_CONNECTED,
        AuditName.SERVICE_DISCONNECTED,
        AuditName.TENANT_LOCKED,
        AuditName.TENANT_UNLOCKED,
        AuditName.TENANT_SUSPENDED,
        AuditName.TENANT_RESUMED,
        AuditName.KEYS_ROTATED,
        AuditName.TENANT_KEY_RETIRED,
        AuditName.TENANT_KEY_TRIMMED,
        AuditName.SERVICE_KEY_COMPROMISED,
        AuditName.SERVICE_KEY_DESTROYED,
        AuditName.AUTHORITY_ROLLED,
        AuditName.AUTHORITY_ENDED,
        AuditName.ROOT_KEY_CHANGED,
        AuditName.ROOT_KEY_VERSION_FOLLOWED,
        AuditName.POLICY_CHANGED,
        AuditName.LEAVING_BEGUN,
        AuditName.LEAVING_JOINED,
        AuditName.RESTORED,
        AuditName.DESTRUCTION_BEGUN,
        AuditName.KEY_DESTROYED,
        AuditName.ROWS_ERASED,
        AuditName.SHRED_CERTIFIED,
        AuditName.OFFBOARDED,
        AuditName.SERVICE_CONNECT_REQUESTED,
        AuditName.SERVICE_DISCONNECT_REQUESTED,
        AuditName.LOCK_REQUESTED,
        AuditName.UNLOCK_REQUESTED,
        AuditName.SUSPEND_REQUESTED,
        AuditName.RESUME_REQUESTED,
        AuditName.ROOT_KEY_CHANGE_REQUESTED,
        AuditName.POLICY_CHANGE_REQUESTED,
        AuditName.ROTATE_REQUESTED,
        AuditName.RETIRE_REQUESTED,
        AuditName.AUTHORITY_ROLL_REQUESTED,
        AuditName.OFFBOARD_REQUESTED,
        AuditName.RESTORE_REQUESTED,
    }
)
"""Changes of a tenant, and requests for them; automatic changes of single keys and certificates are only counted."""

_DETAILS = ("action", "argument", "requested_by", "decided_by", "before", "after", "locked_by", "health", "operation")
_MORE_DETAILS = ("policy", "provider", "version", "versions", "service", "code", "reason")
"""The details that a report shows; the record itself has the rest."""


@dataclass(slots=True)
class _Sums:
    records: int = 0
    first_seq: int = 0
    last_seq: int = 0
    events: Counter[tuple[str, str]] = field(default_factory=Counter)
    names: set[str] = field(default_factory=set)
    answered: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    services: set[str] = field(default_factory=set)
    denied: deque[ReportedEvent] = field(default_factory=lambda: deque(maxlen=DENIED))
    denied_total: int = 0
    clauses: dict[str, list[int]] = field(default_factory=dict)
    isolation_runs: int = 0
    root_key: deque[RootKeyEvent] = field(default_factory=lambda: deque(maxlen=LISTED))
    root_key_total: int = 0
    unavailable: dict[str, tuple[str, datetime]] = field(default_factory=dict)
    changes: deque[ReportedEvent] = field(default_factory=lambda: deque(maxlen=LISTED))
    changes_total: int = 0
    approvals: deque[ReportedEvent] = field(default_factory=lambda: deque(maxlen=LISTED))
    approvals_total: int = 0
    is_complete: bool = True


class ReportCounter:
    """Figures of the records in a period, added one by one in the stream's order."""

    def __init__(self, since: datetime, until: datetime) -> None:
        """Include `since` and exclude `until`."""
        self._first, self._end, self._sums = _stamp(since), _stamp(until), _Sums()

    def add(self, stored: StoredRecord) -> None:
        fields = fields_of(stored.record)
        time = fields.get("time")
        if isinstance(time, str) and len(time) == _STAMP_LENGTH and self._first <= time < self._end:
            _add(self._sums, stored.seq, time, fields)

    def figures(self) -> DerivedFigures:
        """Return the figures so far."""
        return _figures(self._sums)


def counted(records: Iterable[StoredRecord], since: datetime, until: datetime) -> DerivedFigures:
    """Return the figures of a period from all records in the stream's order."""
    counter = ReportCounter(since, until)
    for stored in records:
        counter.add(stored)
    return counter.figures()


def _stamp(at: datetime) -> str:
    return at.astimezone(UTC).strftime(_STAMP)


def _add(sums: _Sums, seq: int, time: str, fields: Mapping[str, object]) -> None:
    name, outcome = _text(fields, "name"), _text(fields, "outcome")
    sums.records += 1
    sums.first_seq = sums.first_seq or seq
    sums.last_seq = seq
    if outcome in _OUTCOMES:
        sums.events[_bounded_name(sums, sums.names, name, _NAMES), outcome] += 1
    family = name.partition(".")[0]
    if family == "crypto":
        times = _count(fields)
        service = _bounded_name(sums, sums.services, _text(fields, "actor"), _SERVICES)
        if name in _ANSWERED and outcome == "success":
            sums.answered[service] += times
        elif outcome == "refused":
            sums.refused[service] += times
    elif name == AuditName.BOUNDARY_CHECKED and outcome in {"success", "failure"}:
        _add_run(sums, fields)
    if outcome == "refused" or family in {"root_key", "approval"} or name in CHANGES:
        _add_to_lists(sums, seq, time, name, fields)


def _add_run(sums: _Sums, fields: Mapping[str, object]) -> None:
    sums.isolation_runs += 1
    for clause, ended in tallied(_detail(fields, DETAIL)).items():
        if clause not in sums.clauses and len(sums.clauses) >= _CLAUSES:
            sums.is_complete = False
            continue
        runs = sums.clauses.setdefault(clause, [0, 0, 0])
        for number, times in enumerate(ended):
            runs[number] += times


def _add_to_lists(sums: _Sums, seq: int, time: str, name: str, fields: Mapping[str, object]) -> None:
    """Append the record to each list that it belongs to."""
    moment = _moment(seq, time, name, fields)
    if moment is None:
        return
    if moment.outcome == "refused":
        sums.denied.append(moment)
        sums.denied_total += _count(fields)
    if name.startswith("approval."):
        sums.approvals.append(moment)
        sums.approvals_total += 1
    if name in CHANGES and moment.outcome == "success":
        sums.changes.append(moment)
        sums.changes_total += 1
    # A lock with the health of a root key was caused by the key holder, and so was its end; other locks are manual.
    of_root_key = name in {AuditName.TENANT_LOCKED, AuditName.TENANT_UNLOCKED} and _detail(fields, "health") != ""
    if name.startswith("root_key.") or of_root_key:
        sums.root_key.append(RootKeyEvent(moment=moment, seconds=_seconds_to_lock(sums, moment, fields)))
        sums.root_key_total += 1


def _seconds_to_lock(sums: _Sums, moment: ReportedEvent, fields: Mapping[str, object]) -> float | None:
    """Return the seconds from the first rejection by the key holder to the lock that it caused."""
    if moment.name == AuditName.ROOT_KEY_UNAVAILABLE:
        if len(sums.unavailable) < _SERVICES:
            sums.unavailable[moment.subject] = (_detail(fields, "after"), moment.at)
        return None
    if moment.name != AuditName.TENANT_LOCKED:
        return None
    refused = _time_of(_detail(fields, "health_since"))
    if refused is None:
        health, refused = sums.unavailable.get(_detail(fields, "root_key"), ("", None))
        if refused is None or health != _detail(fields, "health"):
            return None
    took = moment.at - refused
    return round(took / timedelta(seconds=1), 3) if took >= timedelta() else None


def _moment(seq: int, time: str, name: str, fields: Mapping[str, object]) -> ReportedEvent | None:
    at = _time_of(time)
    if at is None:
        return None
    return ReportedEvent(
        seq=seq,
        at=at,
        actor=_text(fields, "actor"),
        actor_kind=_text(fields, "actor_kind"),
        name=name,
        subject=_text(fields, "subject"),
        outcome=_text(fields, "outcome"),
        words=_words(name, fields),
    )


def _words(name: str, fields: Mapping[str, object]) -> str:
    details = [(key, _detail(fields, key)) for key in _DETAILS + _MORE_DETAILS]
    shown = "; ".join(f"{key.replace('_', ' ')}: {value}" for key, value in details if value)
    return _shortened(": ".join(filter(None, (what(name), shown))))


def _bounded_name(sums: _Sums, names: set[str], name: str, most: int) -> str:
    """Return the name, or a common name for all that exceed the maximum."""
    if name in names:
        return name
    if len(names) >= most:
        sums.is_complete = False
        return _OTHERS
    names.add(name)
    return name


def _count(fields: Mapping[str, object]) -> int:
    text = _detail(fields, "count")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 15 else 1


def _text(fields: Mapping[str, object], name: str) -> str:
    value = fields.get(name)
    return _shortened(value) if isinstance(value, str) else ""


def _detail(fields: Mapping[str, object], name: str) -> str:
    details = fields.get("details")
    value = details.get(name) if isinstance(details, dict) else None
    return value if isinstance(value, str) else ""


def _shortened(text: str) -> str:
    """Return a text that every report can contain: shortened, and without lone surrogates."""
    whole = text if text.isascii() else text.encode(errors="replace").decode()
    return whole if len(whole) <= _LONGEST else f"{whole[: _LONGEST - 1]}…"


def _time_of(text: str) -> datetime | None:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return at if at.tzinfo is not None else None


def _figures(sums: _Sums) -> DerivedFigures:
    events: dict[str, dict[str, int]] = {}
    for (name, outcome), times in sums.events.items():
        events.setdefault(name, {})[outcome] = times
    services = sorted(sums.answered.keys() | sums.refused.keys())
    return DerivedFigures(
        records=sums.records,
        first_seq=sums.first_seq,
        last_seq=sums.last_seq,
        events=tuple(EventCounts(name=name, **events[name]) for name in sorted(events)),
        access=tuple(
            ServiceAccess(service=one, answered=sums.answered[one], refused=sums.refused[one]) for one in services
        ),
        denied=tuple(sums.denied),
        denied_total=sums.denied_total,
        isolation=tuple(
            ClauseRuns(clause=clause, held=runs[0], breached=runs[1], not_checked=runs[2])
            for clause, runs in sorted(sums.clauses.items())
        ),
        isolation_runs=sums.isolation_runs,
        root_key=tuple(sums.root_key),
        root_key_total=sums.root_key_total,
        changes=tuple(sums.changes),
        changes_total=sums.changes_total,
        approvals=tuple(sums.approvals),
        approvals_total=sums.approvals_total,
        is_complete=sums.is_complete,
    )
