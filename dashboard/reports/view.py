"""How the tenant stands on the page Compliance, by what a report made now would state, and what to do about it.

The reports of a tenant as the page Compliance lists them, and the periods that it offers.

The address of a report's file, and how the file is called.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from urllib.parse import parse_qs, urlencode

from compliance.reports import periods as report_period
from compliance.reports.periods import Period
from core.errors.services import InvalidRequest
from core.tenants.lifecycle import State
from dashboard.audit import view as audit
from dashboard.components.formatting import code, count, listed, moment, relative
from dashboard.components.key_hierarchy import mode
from dashboard.components.tenant_status import Severity
from database.reports import ReportRow
from openkcm.verification.isolation_controls import CLAUSES
from openkcm.verification.reports.evaluation import OLDEST_CHECK
from openkcm.verification.reports.model import LatestCheck, Snapshot
from openkcm.verification.reports.signed_file import ReportFormat

_NAMED = 4
_WORKS = frozenset({"active", "ok"})


@dataclass(frozen=True, slots=True)
class Line:
    """One subject: how it stands, what that rests on, and what to do where it is not in order."""

    label: str
    value: str
    tone: Severity
    detail: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class ClauseRow:
    """One clause and how the newest attacks on it ended."""

    clause: str
    means: str
    how: str
    tone: Severity


def lines(stated: Snapshot, chain: audit.Status, now: datetime) -> tuple[Line, ...]:
    """Return the state of everything that a report has a section of its own for."""
    return (
        _isolation(stated.checks, now),
        _custody(stated),
        _ages(stated),
        _coverage(stated),
        _chain(chain),
        _two_people(stated.four_eyes),
    )


def clauses(checks: Sequence[LatestCheck]) -> tuple[ClauseRow, ...]:
    """Return each clause of the standard with the newest results; nothing where nothing was ever checked."""
    if not checks:
        return ()
    return tuple(_clause(clause.id, clause.means, checks) for clause in CLAUSES.values())


def _clause(clause: str, means: str, checks: Sequence[LatestCheck]) -> ClauseRow:
    ended = [one.outcome for one in checks if one.clause == clause]
    held, breached = ended.count("held"), ended.count("breached")
    if breached:
        return ClauseRow(clause, means, f"{count(breached, 'attack')} succeeded", Severity.BAD)
    if held:
        return ClauseRow(clause, means, f"{count(held, 'attack')} refused", Severity.GOOD)
    return ClauseRow(clause, means, "not checked", Severity.WORKING)


def _isolation(checks: Sequence[LatestCheck], now: datetime) -> Line:
    label = "Isolation"
    if not checks:
        return Line(
            label,
            "Not examined",
            Severity.WARNING,
            "No attack across the tenant's boundary is on record.",
            "They are made every day and after every change of a key; look again tomorrow, then ask the operators.",
        )
    at = max(one.at for one in checks)
    breached = sorted({one.clause for one in checks if one.outcome == "breached"})
    held = {one.clause for one in checks if one.outcome == "held"}
    if breached:
        return Line(
            label,
            "Broken",
            Severity.BAD,
            f"An attack on {_few(breached)} succeeded {relative(at, now)}.",
            "Ask the platform's operators now, and keep a copy of the audit stream.",
        )
    detail = f"{len(held):,} of {count(len(CLAUSES), 'clause')} attacked and held, {relative(at, now)}."
    if now - at > OLDEST_CHECK:
        advice = "They should be attacked every day. Ask the platform's operators why they were not."
        return Line(label, "Not examined of late", Severity.WARNING, detail, advice)
    if any(not clause.optional and clause.id not in held for clause in CLAUSES.values()):
        advice = (
            "The full examination is made every day and after every change of a key; below is which are still open."
        )
        return Line(label, "Held where examined", Severity.WORKING, detail, advice)
    return Line(label, "Held", Severity.GOOD, detail)


def _custody(stated: Snapshot) -> Line:
    label = "Custody of the root key"
    if stated.state == State.LOCKED or any(key.level == "L1" and key.state not in _WORKS for key in stated.keys):
        return Line(
            label,
            "Locked" if stated.state == State.LOCKED else "Out of reach",
            Severity.BAD,
            f"{mode(stated.root_key_mode)}. Nothing of the tenant opens while it is so.",
            "The page Keys says what is wrong and what unlocks it.",
        )
    if stated.root_key_mode == "platform":
        return Line(
            label,
            "Held by the platform",
            Severity.WORKING,
            "Your tenant key is your own, but you have no kill switch that the platform could not undo.",
            "To hold the root key yourself, change it on the page Keys.",
        )
    return Line(label, "Yours", Severity.GOOD, f"{mode(stated.root_key_mode)}. With it gone, nothing opens.")


def _ages(stated: Snapshot) -> Line:
    label = "Ages of keys"
    overdue = sorted({key.name for key in stated.keys if key.overdue})
    if overdue:
        return Line(
            label,
            f"{len(overdue):,} overdue",
            Severity.WARNING,
            f"Older than the policy wants: {_few([code(name) for name in overdue])}.",
            "Rotate them on the page Keys; nothing is interrupted by it.",
        )
    if not any(key.level == "L2" for key in stated.keys):
        return Line(label, "No tenant key yet", Severity.WORKING, "It is made while the tenant is provisioned.")
    return Line(
        label, "In their periods", Severity.GOOD, f"{count(len(stated.keys), 'version')} of keys, none overdue."
    )


def _coverage(stated: Snapshot) -> Line:
    label, services = "Encryption coverage", stated.coverage
    if not services:
        advice = "Connect a service on the page Services, then say which of its data is to be encrypted."
        return Line(label, "Nothing to protect yet", Severity.WORKING, "No service is connected.", advice)
    lacking = [one.service for one in services if not one.complete]
    if lacking:
        return Line(
            label,
            "Not all is known to be protected",
            Severity.WARNING,
            f"{len(lacking):,} of {count(len(services), 'service')}: {_few([code(name) for name in lacking])}.",
            "The page Services names what is missing, and what to do next.",
        )
    return Line(label, "All covered", Severity.GOOD, f"{count(len(services), 'service')}, nothing of them is missing.")


def _chain(chain: audit.Status) -> Line:
    label = "Audit stream"
    if chain.alarming:
        advice = "Repair nothing. The page Audit says what to do first."
        return Line(label, "Not whole", Severity.BAD, chain.said, advice)
    if chain.chain is not audit.Chain.SIGNED:
        return Line(label, "Not signed yet", Severity.WORKING, chain.said)
    return Line(label, "Whole and signed", Severity.GOOD, chain.said)


def _two_people(actions: Sequence[str]) -> Line:
    label = "Two people"
    if not actions:
        return Line(
            label,
            "For nothing",
            Severity.WARNING,
            "One person alone can lock the tenant, change its root key, or have it leave.",
            "Choose on the page Settings what takes two people.",
        )
    named = [action.replace("-", " ") for action in actions]
    return Line(label, f"For {count(len(actions), 'action')}", Severity.GOOD, f"{listed(named).capitalize()}.")


def _few(names: Sequence[str]) -> str:
    more = [f"{len(names) - _NAMED:,} more"] if len(names) > _NAMED else []
    return listed([*names[:_NAMED], *more])


_MOMENT = timedelta(microseconds=1)
PATIENCE = timedelta(minutes=3)
"""A report is made in seconds; one that is not made after this is asked for again."""


class Choice(StrEnum):
    MONTH = "Last month"
    QUARTER = "Last quarter"
    THIS_YEAR = "This year"
    YEAR = "Last year"
    CUSTOM = "Custom"


@dataclass(frozen=True, slots=True)
class Row:
    """One report: `made` says that its files are there, `late` that asking again is what to do."""

    report_id: str
    title: str
    words: str
    made: bool
    late: bool


def period(choice: str | None, picked: Sequence[date], now: datetime) -> Period | None:
    """Return the period of a choice; None while the days of a custom one are still to be picked.

    Raises:
        PeriodRefused: there can be no report of it.
    """
    today = now.astimezone(UTC).date()
    match choice:
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
    """Return a period as people say it, its last day included: `1 Sep 2026 to 30 Sep 2026`."""
    last = until - _MOMENT
    return f"{_day(since)} to {_day(last)}"


def rows(found: Sequence[ReportRow], now: datetime) -> tuple[Row, ...]:
    """Return the reports, the newest first."""
    return tuple(_row(one, now) for one in found)


def _row(one: ReportRow, now: datetime) -> Row:
    late = one.made_at is None and now - one.requested_at > PATIENCE
    if one.made_at is not None:
        how = f"made {moment(one.made_at, now)}"
    elif late:
        how = f"not made yet, asked for {moment(one.requested_at, now)}; something it needs was down"
    else:
        how = "being made"
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
    """Return the query that asks for a file."""
    return urlencode({"report": report_id, "form": form})


def decode(query: str) -> tuple[str, ReportFormat]:
    """Return which report is asked for and in which form; raises InvalidRequest."""
    found = parse_qs(query[:_LONGEST])
    try:
        report_id, form = found["report"][0], ReportFormat(found["form"][0])
    except (KeyError, ValueError):
        report_id, form = "", ReportFormat.PDF
    if not _REPORT.fullmatch(report_id):
        raise InvalidRequest("this is not the address of a report", "open it from the page Compliance")
    return report_id, form


def file_name(tenant_id: str, row: ReportRow, form: ReportFormat) -> str:
    """Return how a file is saved: whose, of which days, and which of several."""
    return f"{tenant_id}-report-{row.since:%Y%m%d}-{row.until:%Y%m%d}-{row.report_id[:8]}.{form}"
