from datetime import UTC, date, datetime, timedelta

import pytest

from dashboard.usage.periods import LONGEST, Interval, Period, period, this_month, whole_days
from database.usage import Days, Hours, Months

NOW = datetime(2026, 11, 25, 12, 34, 56, tzinfo=UTC)
TODAY = NOW.date()
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
THIRTY_DAYS = whole_days(date(2026, 10, 27), TODAY)
FEBRUARY = whole_days(date(2026, 2, 2), date(2026, 2, 20))


@pytest.mark.parametrize(
    ("choice", "first", "days"),
    [
        ("7 days", date(2026, 11, 19), 7),
        ("30 days", date(2026, 10, 27), 30),
        ("12 months", date(2025, 12, 1), 360),
    ],
)
def test_a_choice_ends_today_and_has_its_days(choice: str, first: date, days: int):
    chosen = period(choice, (), NOW)
    assert (chosen, chosen.days) == (whole_days(first, TODAY), days)
    assert chosen.span(Interval.DAY) == Days(first, TODAY)
    assert chosen.span(Interval.MONTH) == Months(first, TODAY)
    # So many bars of days that they cannot be compared begin with months.
    intervals = (Interval.DAY, Interval.MONTH)
    assert chosen.intervals == (intervals if days < 100 else intervals[::-1])
    labels = chosen.labels(Interval.DAY)
    assert (len(labels), labels[0], labels[-1]) == (days, first.isoformat(), "2026-11-25")
    assert chosen.labels(Interval.MONTH)[-1] == "2026-11"


@pytest.mark.parametrize(
    ("choice", "begins", "hours", "words"),
    [
        ("Today", datetime(2026, 11, 25, tzinfo=UTC), 13, "25 Nov 2026"),
        ("24 hours", datetime(2026, 11, 24, 13, tzinfo=UTC), 24, "24 Nov 13:00 to 25 Nov 2026 13:00"),
    ],
)
def test_hours_end_with_the_current_one(choice: str, begins: datetime, hours: int, words: str):
    chosen = period(choice, (), NOW)
    assert (chosen.words(), chosen.intervals) == (words, (Interval.HOUR,))
    assert chosen.span(Interval.HOUR) == Hours(begins, begins + hours * HOUR)
    labels = chosen.labels(Interval.HOUR)
    assert (len(labels), labels[-1]) == (hours, "2026-11-25 12:00")


def test_one_custom_day_is_in_hours_while_they_are_kept():
    for ago, is_hourly in ((0, True), (1, True), (28, True), (29, False), (400, False)):
        chosen = period("Custom", (TODAY - ago * DAY,), NOW)
        assert (chosen.first, chosen.last, chosen.is_hourly) == (TODAY - ago * DAY, TODAY - ago * DAY, is_hourly)
    yesterday = period("Custom", (TODAY - DAY,), NOW)
    assert (len(yesterday.labels(Interval.HOUR)), yesterday.words()) == (24, "24 Nov 2026")
    assert period("Custom", (TODAY,), NOW) == period("Today", (), NOW)


def test_custom_days_are_shown_as_selected():
    first = date(2026, 2, 1)
    assert period("Custom", (first, date(2026, 3, 1)), NOW) == whole_days(first, date(2026, 3, 1))
    leap = date(2024, 1, 1), date(2025, 12, 31)
    assert period("Custom", leap, NOW) == whole_days(*leap)


@pytest.mark.parametrize(
    ("choice", "picked"),
    [
        *((choice, ()) for choice in (None, "", "thirty", "' or true --", "today", "Custom")),
        ("Custom", (TODAY, TODAY - timedelta(days=1))),
        ("Custom", (TODAY, TODAY + timedelta(days=1))),
        ("Custom", (TODAY + timedelta(days=1),)),
        ("Custom", (TODAY - LONGEST, TODAY)),
        ("Custom", (date.min, date.min)),
    ],
)
def test_an_invalid_choice_is_the_default(choice: str | None, picked: tuple[date, ...]):
    assert period(choice, picked, NOW) == THIRTY_DAYS


@pytest.mark.parametrize(
    ("first", "words"),
    [
        (TODAY, "25 Nov 2026"),
        (date(2026, 10, 27), "27 Oct to 25 Nov 2026"),
        (date(2025, 12, 1), "1 Dec 2025 to 25 Nov 2026"),
    ],
)
def test_a_period_is_shown_with_the_required_years(first: date, words: str):
    assert whole_days(first, TODAY).words() == words
    assert this_month(NOW) == Days(date(2026, 11, 1), TODAY)


@pytest.mark.parametrize(
    ("shown", "first_day", "expected"),
    [
        (THIRTY_DAYS, TODAY - 60 * DAY, Months(date(2026, 10, 27), TODAY - DAY)),
        (THIRTY_DAYS, TODAY - 2 * DAY, Months(TODAY - DAY, TODAY - DAY)),
        (THIRTY_DAYS, TODAY - DAY, None),
        (THIRTY_DAYS, TODAY, None),
        (
            whole_days(date(2026, 2, 2), date(2026, 2, 20)),
            date(2026, 1, 1),
            Months(date(2026, 2, 2), date(2026, 2, 20)),
        ),
    ],
)
def test_days_between_the_first_use_and_today_are_complete(shown: Period, first_day: date, expected: Months | None):
    assert shown.complete_days(first_day, TODAY) == expected
