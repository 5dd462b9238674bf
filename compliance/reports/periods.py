"""Periods of reports: whole days in UTC, named by year, quarter, month or days."""

import re
from datetime import UTC, date, datetime, time, timedelta

from core.errors.compliance import PeriodRefused

_PERIOD = re.compile(r"(?P<year>20[0-9]{2})(?:-(?:Q(?P<quarter>[1-4])|(?P<month>0[1-9]|1[0-2])))?")
LONGEST = timedelta(days=1100)
"""Maximum length, about three years; the table okcm.report has the same bound."""

Period = tuple[datetime, datetime]
"""Start (inclusive) and end (exclusive)."""


def named(text: str) -> Period:
    """Return a year (`2026`), quarter (`2026-Q3`) or month (`2026-09`); raises PeriodRefused."""
    found = _PERIOD.fullmatch(text)
    if found is None:
        raise PeriodRefused("the period is invalid", "name a year, a quarter or a month: 2026, 2026-Q3, 2026-09")
    year = int(found["year"])
    if found["quarter"]:
        first, months = 3 * int(found["quarter"]) - 2, 3
    elif found["month"]:
        first, months = int(found["month"]), 1
    else:
        first, months = 1, 12
    return _begins(date(year, first, 1)), _begins(_after(year, first, months))


def days(since: date, until: date) -> Period:
    """Return the period from the day `since` to the day `until`, both inclusive; raises PeriodRefused."""
    if until < since:
        raise PeriodRefused(
            "the period ends before it begins", "name the first day with --since, the last with --until"
        )
    return _begins(since), _begins(until + timedelta(days=1))


def last_month(now: datetime) -> Period:
    """Return the last complete month."""
    today = now.astimezone(UTC).date()
    first = today.replace(day=1)
    return _begins((first - timedelta(days=1)).replace(day=1)), _begins(first)


def since_enabled(enabled_at: datetime, now: datetime) -> Period:
    """Return the period from the day on which the tenant was enabled until now."""
    return _begins(enabled_at.astimezone(UTC).date()), now


def default(enabled_at: datetime, now: datetime) -> Period:
    """Return the last complete month of a tenant that existed in all of it, else the time since it was enabled."""
    month = last_month(now)
    return month if enabled_at <= month[0] else since_enabled(enabled_at, now)


def days_before(since: datetime, enabled_at: datetime) -> int:
    """Return how many whole UTC days of a period are before the day on which the tenant was enabled; 0 without any."""
    return max((enabled_at.astimezone(UTC).date() - since.astimezone(UTC).date()).days, 0)


def checked(period: Period, now: datetime) -> Period:
    """Return a period that a report can cover, with its end limited to `now`; raises PeriodRefused."""
    since, until = period[0], min(period[1], now)
    if since >= until:
        raise PeriodRefused("the period has not begun yet", "name an earlier period")
    if until - since > LONGEST:
        raise PeriodRefused("the period is longer than three years", "create a report for each part of it")
    return since, until


def _after(year: int, month: int, months: int) -> date:
    return date(year + (month + months - 1) // 12, (month + months - 1) % 12 + 1, 1)


def _begins(day: date) -> datetime:
    return datetime.combine(day, time.min, UTC)
