"""Rotations, changes of the root key, locks, approvals and reports in the order of time, each with its audit record."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

from core.tenants.approvals import Approval, ApprovalState
from dashboard.approvals.view import WORDS
from dashboard.components.formatting import at, count
from dashboard.components.key_map import mode
from dashboard.components.tenant_status import sentence
from dashboard.rotation.view import whose
from database.reports import ReportRow
from database.root_keys import RootKeyChangeRow
from database.rotation import RotationRow
from openkcm.contract.audit_events import AuditName, StoredRecord, fields_of

MOST = 100
"""Events of the timeline, the newest ones."""
_ROUND = timedelta(minutes=1)

ROTATION, ROOT_KEY, LOCK, APPROVAL, REPORT = "Rotation", "Root key", "Lock", "Approval", "Report"
LANES = (REPORT, APPROVAL, LOCK, ROOT_KEY, ROTATION)
"""Rows of the chart, the lowest first."""

STATE_EVENTS: Mapping[str, str] = MappingProxyType(
    {
        AuditName.TENANT_LOCKED: "Tenant locked",
        AuditName.TENANT_UNLOCKED: "Tenant unlocked",
        AuditName.TENANT_SUSPENDED: "Tenant suspended",
        AuditName.TENANT_RESUMED: "Tenant resumed",
        AuditName.BREACH_CLEARED: "Isolation lock removed",
        AuditName.ROOT_KEY_UNAVAILABLE: "Root key unavailable",
        AuditName.ROOT_KEY_AVAILABLE: "Root key available again",
    }
)
"""Events that only the audit stream has."""
_ROOT_KEY_EVENTS = frozenset({AuditName.ROOT_KEY_UNAVAILABLE, AuditName.ROOT_KEY_AVAILABLE})
_APPROVAL_EVENTS: Mapping[ApprovalState, AuditName] = MappingProxyType(
    {
        ApprovalState.REFUSED: AuditName.APPROVAL_DECLINED,
        ApprovalState.EXPIRED: AuditName.APPROVAL_EXPIRED,
        ApprovalState.WITHDRAWN: AuditName.APPROVAL_WITHDRAWN,
    }
)


@dataclass(frozen=True, slots=True)
class TimelineEvent:
    """One event; `query` leads to its record on the page Audit."""

    at: datetime
    lane: str
    words: str
    query: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Recorded:
    """Stored rows, each the newest first, and records with names of `STATE_EVENTS`."""

    rotations: Sequence[RotationRow] = ()
    changes: Sequence[RootKeyChangeRow] = ()
    approvals: Sequence[Approval] = ()
    reports: Sequence[ReportRow] = ()
    records: Sequence[StoredRecord] = ()


def timeline(recorded: Recorded) -> tuple[TimelineEvent, ...]:
    """Return the newest events, the newest first."""
    events = [
        *(_rotation(row) for row in recorded.rotations),
        *(_change(row) for row in recorded.changes),
        *(_approval(row) for row in recorded.approvals),
        *(_report(row) for row in recorded.reports),
        *_states(recorded.records),
    ]
    return tuple(sorted(events, key=lambda event: event.at, reverse=True)[:MOST])


def _rotation(row: RotationRow) -> TimelineEvent:
    end = {"done": "rotated", "failed": "rotation failed"}.get(row.state, "rotation started")
    words = sentence(f"{whose(row.wanted)}: {end}").removesuffix(".")
    when = row.finished_at or row.started_at
    return TimelineEvent(when, ROTATION, words, around(AuditName.KEYS_ROTATED, when))


def _change(row: RootKeyChangeRow) -> TimelineEvent:
    end = {"done": "Changed to", "failed": "Change failed: to"}.get(row.state, "Change started: to")
    when = row.finished_at or row.started_at
    return TimelineEvent(when, ROOT_KEY, f"{end} {mode(row.to_mode)}", around(AuditName.ROOT_KEY_CHANGED, when))


def _approval(row: Approval) -> TimelineEvent:
    when = row.decided_at or row.requested_at
    name = _APPROVAL_EVENTS.get(row.state, AuditName.APPROVAL_GRANTED)
    return TimelineEvent(when, APPROVAL, f"{WORDS[row.action].title}: {row.state}", around(name, when))


def _report(row: ReportRow) -> TimelineEvent:
    if row.made_at is None:
        return TimelineEvent(
            row.requested_at, REPORT, "Report requested", around(AuditName.REPORT_REQUESTED, row.requested_at)
        )
    return TimelineEvent(row.made_at, REPORT, "Report created", around(AuditName.REPORT_MADE, row.made_at))


def _states(records: Iterable[StoredRecord]) -> Iterable[TimelineEvent]:
    for stored in records:
        fields = fields_of(stored.record)
        name, time = str(fields.get("name")), _time(fields.get("time"))
        if time is not None and name in STATE_EVENTS:
            lane = ROOT_KEY if name in _ROOT_KEY_EVENTS else LOCK
            yield TimelineEvent(time, lane, STATE_EVENTS[name], {"seq": str(stored.seq)})


def _time(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:  # a damaged record, which the page Audit reports
        return None


def around(name: AuditName, when: datetime) -> Mapping[str, str]:
    """Return the address query of the page Audit for an event at a time, to the minute around it."""
    utc = when.astimezone(UTC).replace(second=0, microsecond=0)
    return {"event": name.value, "from": _minute(utc - _ROUND), "to": _minute(utc + 2 * _ROUND)}


def _minute(time: datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%MZ}"


def summary(events: Sequence[TimelineEvent]) -> str:
    """Return the accessible name of the chart."""
    if not events:
        return "No rotation, root key change, lock, approval or report is recorded."
    return f"{count(len(events), 'event')} from {at(events[-1].at)} to {at(events[0].at)}, one row per kind."


def options(events: Sequence[TimelineEvent]) -> dict[str, Any]:
    """Return the ECharts options; the points are in the order of `events`."""
    return {
        "animation": False,
        "tooltip": {"trigger": "item", "formatter": "{b}"},
        "useUTC": True,
        "grid": {"left": 8, "right": 16, "top": 12, "bottom": 8, "containLabel": True},
        "xAxis": {"type": "time"},
        "yAxis": {"type": "category", "data": list(LANES)},
        "series": [
            {
                "type": "scatter",
                "symbolSize": 14,
                "selectedMode": "single",
                "itemStyle": {"opacity": 0.8},
                "data": [
                    {"name": f"{event.words}, {at(event.at)}", "value": [event.at.isoformat(), event.lane]}
                    for event in events
                ],
            }
        ],
    }
