"""The days that the Usage page shows. Days are UTC days; the first and the last are included.

Also the export of usage as CSV (RFC 4180) in UTF-8, with one row for each day.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum

from core.usage import Latency
from database.usage import UsageDay

LONGEST = timedelta(days=731)
"""Longest period: two years with a leap day, so that queries stay fast."""


class Choice(StrEnum):
    TODAY = "Today"
    WEEK = "7 days"
    MONTH = "30 days"
    YEAR = "12 months"
    CUSTOM = "Custom"


DEFAULT = Choice.MONTH
_DAYS = {Choice.TODAY: 1, Choice.WEEK: 7, Choice.MONTH: 30}


@dataclass(frozen=True, slots=True)
class Period:
    first: date
    last: date

    @property
    def days(self) -> int:
        """Number of days."""
        return (self.last - self.first).days + 1

    def all_days(self) -> list[date]:
        """Return each day, including days without use."""
        return [self.first + timedelta(days=number) for number in range(self.days)]

    def words(self) -> str:
        """Return the period as text: `25 Nov 2026`, `27 Oct to 25 Nov 2026`."""
        last = f"{self.last.day} {self.last:%b %Y}"
        if self.first == self.last:
            return last
        year = "" if self.first.year == self.last.year else f" {self.first.year}"
        return f"{self.first.day} {self.first:%b}{year} to {last}"


def period(choice: str | None, picked: Sequence[date], today: date) -> Period:
    """Return the selected period; the default for an unknown choice, and for days that cannot be shown.

    `picked` are the first and last day of a custom period. One day alone, before the other is selected, is a period of
    one day.
    """
    known = Choice(choice) if choice in set(Choice) else DEFAULT
    if known is Choice.CUSTOM:
        if picked and date.min < picked[0] <= picked[-1] <= today and picked[-1] - picked[0] < LONGEST:
            return Period(picked[0], picked[-1])
        known = DEFAULT
    if known is Choice.YEAR:
        # From the first of a month, so that all months but the current one are complete.
        return Period(_month_before(today, 11), today)
    return Period(today - timedelta(days=_DAYS[known] - 1), today)


def this_month(today: date) -> Period:
    """Return the current month up to today."""
    return Period(today.replace(day=1), today)


def _month_before(day: date, months: int) -> date:
    number = day.year * 12 + day.month - 1 - months
    return date(number // 12, number % 12 + 1, 1)


HEADER = (
    "day_utc",
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
ANSWERED = "answered"
"""The result of a request without an error code."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def to_csv(days: Sequence[UsageDay]) -> bytes:
    """Return a header and one row for each day, service, operation and result. No cell is evaluated as a formula."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(HEADER)
    for one in days:
        used = one.used
        words = (used.service, used.operation.value, used.refusal or ANSWERED)
        writer.writerow([one.day.isoformat(), *map(_harmless, words), used.count, used.bytes, *_latency(used.latency)])
    return text.getvalue().encode()


def file_name(tenant_id: str, period: Period) -> str:
    """Return a file name with tenant and period."""
    return f"usage-{tenant_id}-{period.first.isoformat()}-to-{period.last.isoformat()}.csv"


def _harmless(text: str) -> str:
    """Return text that a spreadsheet shows literally."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _latency(latency: Latency) -> list[str | int]:
    times = (latency.average(), *(latency.within(percent) for percent in (50, 95, 99)))
    # Empty without a measurement; `inf` above the largest bucket.
    return [latency.timed, *("" if one is None else f"{one / 1000:.3f}" for one in times)]
