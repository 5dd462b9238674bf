"""The reports of a tenant as the page Compliance lists them, and the periods that it offers."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum

from compliance.reports import periods as report_period
from compliance.reports.periods import Period
from dashboard.views.words import code, moment
from database.reports import ReportRow

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
