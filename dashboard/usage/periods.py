"""The period that the Usage page shows, and its intervals: whole UTC days, or the last 24 hours.

Also the export of usage as CSV (RFC 4180) in UTF-8, with rows for each hour or day.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum

from core.retention import DELETED
from core.usage import Latency
from database.usage import Days, Hours, Months, UsageDay, UsageHour, UsageSpan

LONGEST = timedelta(days=731)
"""Longest period: two years with a leap day, so that queries stay fast."""
_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)


class Choice(StrEnum):
    TODAY = "Today"
    LAST_HOURS = "24 hours"
    WEEK = "7 days"
    MONTH = "30 days"
    YEAR = "12 months"
    CUSTOM = "Custom"


class Interval(StrEnum):
    """The time of one bar."""

    HOUR = "Hour"
    DAY = "Day"
    MONTH = "Month"

    def label(self, begins: datetime) -> str:
        """Return the interval that has a time, in UTC: `2026-11-25 14:00`, `2026-11-25`, `2026-11`."""
        return f"{begins.astimezone(UTC):{_FORMATS[self]}}"


_FORMATS = {Interval.HOUR: "%Y-%m-%d %H:00", Interval.DAY: "%Y-%m-%d", Interval.MONTH: "%Y-%m"}
DEFAULT = Choice.MONTH
_MOST_DAYS = 100
"""More bars are too thin to be compared, so a longer period begins with months."""
_DAYS = {Choice.TODAY: 1, Choice.WEEK: 7, Choice.MONTH: 30}


@dataclass(frozen=True, slots=True)
class Period:
    """The time in [begins, ends), in UTC: whole hours if `is_hourly`, otherwise whole days.

    A period in hours ends with the current hour: nothing is shown for hours to come.
    """

    begins: datetime
    ends: datetime
    is_hourly: bool = False

    @property
    def first(self) -> date:
        """First UTC day."""
        return self.begins.date()

    @property
    def last(self) -> date:
        """Last UTC day."""
        return (self.ends - _HOUR).date()

    @property
    def days(self) -> int:
        """Number of days, which can be incomplete in hours."""
        return (self.last - self.first).days + 1

    @property
    def intervals(self) -> tuple[Interval, ...]:
        """The intervals into which the period can be divided, the default first."""
        if self.is_hourly:
            return (Interval.HOUR,)
        return (Interval.DAY, Interval.MONTH) if self.days <= _MOST_DAYS else (Interval.MONTH, Interval.DAY)

    def span(self, interval: Interval) -> UsageSpan:
        """Return the counters of the period, by month if that is the interval of the bars."""
        if self.is_hourly:
            return Hours(self.begins, self.ends)
        return (Months if interval is Interval.MONTH else Days)(self.first, self.last)

    def complete_days(self, first_day: date, today: date) -> Months | None:
        """Return the days of the period after the first day with use and before today, None if it has none."""
        first, last = max(self.first, first_day + _DAY), min(self.last, today - _DAY)
        return Months(first, last) if first <= last else None

    def labels(self, interval: Interval) -> list[str]:
        """Return each interval of the period, including those without use."""
        step = _HOUR if self.is_hourly else _DAY
        times = (self.begins + step * number for number in range(round((self.ends - self.begins) / step)))
        return list(dict.fromkeys(interval.label(one) for one in times))

    def words(self) -> str:
        """Return the period as text: `25 Nov 2026`, `27 Oct to 25 Nov 2026`, `24 Nov 13:00 to 25 Nov 2026 13:00`."""
        last = f"{self.last.day} {self.last:%b %Y}"
        if self.first == self.last:
            return last
        year = "" if self.first.year == self.last.year else f" {self.first.year}"
        if self.is_hourly:
            return f"{self.first.day} {self.first:%b}{year} {self.begins:%H:%M} to {last} {self.ends:%H:%M}"
        return f"{self.first.day} {self.first:%b}{year} to {last}"


def whole_days(first: date, last: date) -> Period:
    """Return the period of these days, both included."""
    return Period(_midnight(first), _midnight(last) + _DAY)


def period(choice: str | None, picked: Sequence[date], now: datetime) -> Period:
    """Return the selected period; the default for an unknown choice, and for days that cannot be shown.

    `picked` are the first and last day of a custom period. One day alone, before the other is selected, is a period of
    one day. One day is in hours while every setting keeps them.
    """
    known = Choice(choice) if choice in set(Choice) else DEFAULT
    today = now.astimezone(UTC).date()
    if known is Choice.CUSTOM:
        if picked and date.min < picked[0] <= picked[-1] <= today and picked[-1] - picked[0] < LONGEST:
            return _of_days(picked[0], picked[-1], now)
        known = DEFAULT
    if known is Choice.LAST_HOURS:
        ends = _next_hour(now)
        return Period(ends - _DAY, ends, is_hourly=True)
    if known is Choice.YEAR:
        # From the first of a month, so that all months but the current one are complete.
        return _of_days(_month_before(today, 11), today, now)
    return _of_days(today - timedelta(days=_DAYS[known] - 1), today, now)


def this_month(now: datetime) -> Days:
    """Return the current month up to today."""
    today = now.astimezone(UTC).date()
    return Days(today.replace(day=1), today)


def _of_days(first: date, last: date, now: datetime) -> Period:
    days = whole_days(first, last)
    kept = timedelta(days=DELETED["usage_hour"].minimum)  # the least that a setting may choose
    if first == last and days.begins > now - kept + _DAY:
        return Period(days.begins, min(days.ends, _next_hour(now)), is_hourly=True)
    return days


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _next_hour(now: datetime) -> datetime:
    return now.astimezone(UTC).replace(minute=0, second=0, microsecond=0) + _HOUR


def _month_before(day: date, months: int) -> date:
    number = day.year * 12 + day.month - 1 - months
    return date(number // 12, number % 12 + 1, 1)


HEADER = (
    "service",
    "operation",
    "result",
    "requests",
    "bytes",
    "timed_requests",
    "average_ms",
    "p50_within_ms",
    "p95_within_ms",
    "p99_within_ms",
)
_HOUR_FORMAT = "%Y-%m-%dT%H:%MZ"
ANSWERED = "answered"
"""The result of a request without an error code."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def to_csv(rows: Sequence[UsageDay] | Sequence[UsageHour], *, is_hourly: bool = False) -> bytes:
    """Return a header and one row for each day or hour, service, operation and result.

    No cell is evaluated as a formula.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(["hour_utc" if is_hourly else "day_utc", *HEADER])
    for one in rows:
        used = one.used
        words = (used.service, used.operation.value, used.refusal or ANSWERED)
        begins = one.day.isoformat() if isinstance(one, UsageDay) else f"{one.hour.astimezone(UTC):{_HOUR_FORMAT}}"
        writer.writerow([begins, *map(_harmless, words), used.count, used.bytes, *_latency(used.latency)])
    return text.getvalue().encode()


def file_name(tenant_id: str, period: Period) -> str:
    """Return a file name with tenant and period."""
    return f"usage-{tenant_id}-{_ends(period, '-to-').replace(':', '')}.csv"


def recorded(period: Period) -> str:
    """Return the subject of the audit record of an export."""
    return f"usage {_ends(period, ' to ')}"


def _ends(period: Period, between: str) -> str:
    if period.first == period.last or not period.is_hourly:
        return f"{period.first.isoformat()}{between}{period.last.isoformat()}"
    return f"{period.begins:{_HOUR_FORMAT}}{between}{period.ends:{_HOUR_FORMAT}}"


def _harmless(text: str) -> str:
    """Return text that a spreadsheet shows literally."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _latency(latency: Latency) -> list[str | int]:
    times = (latency.average(), *(latency.within(percent) for percent in (50, 95, 99)))
    # Empty without a measurement; `inf` above the largest bucket.
    return [latency.timed, *("" if one is None else f"{one / 1000:.3f}" for one in times)]
