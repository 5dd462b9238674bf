"""Texts of the page Compliance: status, reports and periods.

The status follows the snapshot that a report created now would contain. Also the address and name of report files.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from urllib.parse import parse_qs, urlencode

from compliance.reports import periods as report_period
from compliance.reports.periods import Period
from core.errors.services import InvalidRequest
from core.tenants.lifecycle import State
from core.tenants.status import Status, Subject, SubjectStatus, Verdict
from dashboard.audit import view as audit
from dashboard.components.formatting import code, count, listed, moment
from dashboard.components.key_map import mode
from dashboard.components.tenant_status import Severity
from dashboard.isolation import view as isolation
from dashboard.isolation.view import Check
from database.reports import ReportRow
from openkcm.verification.reports.model import Snapshot
from openkcm.verification.reports.signed_file import ReportFormat

_NAMED = 4
_WORKS = frozenset({"active", "ok"})
_CAUSE = "The page Keys shows the cause and what unlocks the tenant."


@dataclass(frozen=True, slots=True)
class Line:
    """One subject: status, evidence, and what to do."""

    label: str
    value: str
    tone: Severity
    detail: str
    advice: str = ""


def lines(stated: Snapshot, checked: Check | None, chain: audit.Status, found: Verdict) -> tuple[Line, ...]:
    """Return the status of every subject that has a section in the report; `found` is what is measured now."""
    return (
        _measured(_isolation(checked, found.at), found.of(Subject.ISOLATION)),
        _measured(_custody(stated), found.of(Subject.ROOT_KEY)),
        _ages(stated),
        _coverage(stated),
        _chain(chain),
        _approvals(stated.four_eyes),
    )


def _measured(line: Line, one: SubjectStatus) -> Line:
    """Return the line as it is, or as it was measured where a stored good state is not confirmed now."""
    if line.tone is not Severity.GOOD or one.status is Status.OPERATIONAL:
        return line
    tone = Severity.BAD if one.status is Status.STOPPED else Severity.WARNING
    return replace(line, value=one.words, tone=tone, detail=one.detail or line.detail)


def _isolation(checked: Check | None, now: datetime) -> Line:
    found = isolation.verdict(checked, now)
    return Line("Isolation", found.words, found.tone, found.detail, found.advice)


def _custody(stated: Snapshot) -> Line:
    label = "Root key custody"
    if stated.state == State.LOCKED:
        return Line(
            label,
            "Locked",
            Severity.BAD,
            f"{mode(stated.root_key_mode)}. Every request for keys is rejected, and keys in memory were discarded.",
            _CAUSE,
        )
    if any(key.level == "L1" and key.state not in _WORKS for key in stated.keys):
        return Line(
            label,
            "Unavailable",
            Severity.BAD,
            f"{mode(stated.root_key_mode)}. Service keys in memory work for a minute at most; no other key can be "
            "unwrapped.",
            _CAUSE,
        )
    if stated.root_key_mode == "platform":
        return Line(
            label,
            "Platform",
            Severity.WORKING,
            "Your tenant key is dedicated to you, but you have no kill switch that is independent of the platform.",
            "To hold the root key yourself, change it on the page Keys.",
        )
    return Line(
        label,
        "Customer",
        Severity.GOOD,
        f"{mode(stated.root_key_mode)}. Without it no service key can be unwrapped.",
    )


def _ages(stated: Snapshot) -> Line:
    label = "Key rotation"
    overdue = sorted({key.name for key in stated.keys if key.overdue})
    if overdue:
        return Line(
            label,
            f"{len(overdue):,} overdue",
            Severity.WARNING,
            f"Older than the policy allows: {_few([code(name) for name in overdue])}.",
            "Rotate them on the page Keys; no service is interrupted.",
        )
    if not any(key.level == "L2" for key in stated.keys):
        return Line(label, "No tenant key yet", Severity.WORKING, "Created during provisioning.")
    return Line(label, "Within policy", Severity.GOOD, f"{count(len(stated.keys), 'key version')}, none overdue.")


def _coverage(stated: Snapshot) -> Line:
    label, services = "Encryption coverage", stated.coverage
    if not services:
        advice = "Connect a service on the page Services, then list the fields to encrypt."
        return Line(label, "No services", Severity.WORKING, "No service is connected.", advice)
    lacking = [one for one in services if not one.complete]
    if lacking:
        return Line(
            label,
            "Coverage unknown, no fields listed" if all(one.is_unknown for one in lacking) else "Coverage incomplete",
            Severity.WARNING,
            f"{len(lacking):,} of {count(len(services), 'service')}: {_few([code(one.service) for one in lacking])}.",
            "The page Services lists the next steps.",
        )
    return Line(label, "Complete", Severity.GOOD, f"{count(len(services), 'service')}, no gaps.")


def _chain(chain: audit.Status) -> Line:
    label = "Audit stream"
    if chain.alarming:
        advice = "Do not repair anything. The page Audit shows the next steps."
        return Line(label, "Integrity error", Severity.BAD, chain.said, advice)
    if chain.chain is not audit.Chain.SIGNED:
        return Line(label, "Not signed yet", Severity.WORKING, chain.said)
    return Line(label, "Signed", Severity.GOOD, chain.said)


def _approvals(actions: Sequence[str]) -> Line:
    label = "Two-person approval"
    if not actions:
        return Line(
            label,
            "Off",
            Severity.WARNING,
            "One person alone can lock or offboard the tenant, or change its root key.",
            "Select the actions that require approval on the page Settings.",
        )
    named = [action.replace("-", " ") for action in actions]
    return Line(label, f"{count(len(actions), 'action')}", Severity.GOOD, f"{listed(named).capitalize()}.")


def _few(names: Sequence[str]) -> str:
    more = [f"{len(names) - _NAMED:,} more"] if len(names) > _NAMED else []
    return listed([*names[:_NAMED], *more])


_MOMENT = timedelta(microseconds=1)
PATIENCE = timedelta(minutes=3)
"""A report takes seconds; one that is not complete after this time can be retried."""


class Choice(StrEnum):
    SINCE_ENABLED = "Since enabled"
    MONTH = "Last month"
    QUARTER = "Last quarter"
    THIS_YEAR = "This year"
    YEAR = "Last year"
    CUSTOM = "Custom"


@dataclass(frozen=True, slots=True)
class Row:
    """One report: `made` when its files are stored, `late` when a retry is offered."""

    report_id: str
    title: str
    words: str
    made: bool
    late: bool


def default_choice(enabled_at: datetime, now: datetime) -> Choice:
    """Return the last month for a tenant that existed in all of it, else the time since it was enabled."""
    whole_month = report_period.default(enabled_at, now) == report_period.last_month(now)
    return Choice.MONTH if whole_month else Choice.SINCE_ENABLED


def before_tenant(chosen: Period, enabled_at: datetime) -> str:
    """Return the warning about a period that begins before the tenant existed; empty without such a part."""
    if not (days := report_period.days_before(chosen[0], enabled_at)):
        return ""
    if enabled_at >= chosen[1]:
        return f"The tenant was enabled on {_day(enabled_at)}. The report would contain no records."
    return (
        f"The tenant was enabled on {_day(enabled_at)}. The first {count(days, 'day')} of the period have no records, "
        "and the report states it."
    )


def period(choice: str | None, picked: Sequence[date], now: datetime, enabled_at: datetime) -> Period | None:
    """Return the period of a choice; None while the days of a custom one are not selected.

    Raises:
        PeriodRefused: no report of it is possible.
    """
    today = now.astimezone(UTC).date()
    match choice:
        case Choice.SINCE_ENABLED:
            chosen = report_period.since_enabled(enabled_at, now)
        case Choice.QUARTER:
            year, quarter = divmod(today.year * 4 + (today.month - 1) // 3 - 1, 4)
            chosen = report_period.named(f"{year}-Q{quarter + 1}")
        case Choice.THIS_YEAR:
            chosen = report_period.named(f"{today.year}")
        case Choice.YEAR:
            chosen = report_period.named(f"{today.year - 1}")
        case Choice.CUSTOM:
            if len(picked) != 2:
                return None
            chosen = report_period.days(picked[0], picked[1])
        case _:
            chosen = report_period.last_month(now)
    return report_period.checked(chosen, now)


def said(since: datetime, until: datetime) -> str:
    """Return a period as text, its last day included: `1 Sep 2026 to 30 Sep 2026`."""
    last = until - _MOMENT
    return f"{_day(since)} to {_day(last)}"


def rows(found: Sequence[ReportRow], now: datetime) -> tuple[Row, ...]:
    """Return the reports, the newest first."""
    return tuple(_row(one, now) for one in found)


def _row(one: ReportRow, now: datetime) -> Row:
    late = one.made_at is None and now - one.requested_at > PATIENCE
    if one.made_at is not None:
        how = f"created {moment(one.made_at, now)}"
    elif late:
        how = f"delayed, requested {moment(one.requested_at, now)}; a dependency was unavailable"
    else:
        how = "in progress"
    return Row(
        one.report_id, said(one.since, one.until), f"For {code(one.made_for)}, {how}", one.made_at is not None, late
    )


def _day(time: datetime) -> str:
    utc = time.astimezone(UTC)
    return f"{utc.day} {utc:%b %Y}"


DOWNLOAD = "compliance-report"
MEDIA: Mapping[ReportFormat, str] = MappingProxyType(
    {
        ReportFormat.PDF: "application/pdf",
        ReportFormat.HTML: "text/html; charset=utf-8",
        ReportFormat.JSON: "application/json",
    }
)
_LONGEST = 200
_REPORT = re.compile(r"[0-9a-f]{32}")


def encode(report_id: str, form: ReportFormat) -> str:
    """Return the query of a file's address."""
    return urlencode({"report": report_id, "form": form})


def decode(query: str) -> tuple[str, ReportFormat]:
    """Return report id and format of a query; raises InvalidRequest."""
    found = parse_qs(query[:_LONGEST])
    try:
        report_id, form = found["report"][0], ReportFormat(found["form"][0])
    except (KeyError, ValueError):
        report_id, form = "", ReportFormat.PDF
    if not _REPORT.fullmatch(report_id):
        raise InvalidRequest("not a valid report address", "open it from the page Compliance")
    return report_id, form


def file_name(tenant_id: str, row: ReportRow, form: ReportFormat) -> str:
    """Return the file name of a download: tenant, period and report."""
    return f"{tenant_id}-report-{row.since:%Y%m%d}-{row.until:%Y%m%d}-{row.report_id[:8]}.{form}"
