from datetime import date, timedelta

import pytest

from dashboard.usage.periods import LONGEST, Period, period, this_month

TODAY = date(2026, 11, 25)
THIRTY_DAYS = Period(date(2026, 10, 27), TODAY)


@pytest.mark.parametrize(
    ("choice", "first", "days"),
    [
        ("Today", TODAY, 1),
        ("7 days", date(2026, 11, 19), 7),
        ("30 days", date(2026, 10, 27), 30),
        ("12 months", date(2025, 12, 1), 360),
    ],
)
def test_a_choice_ends_today_and_has_its_days(choice: str, first: date, days: int):
    chosen = period(choice, (), TODAY)
    assert (chosen, chosen.days) == (Period(first, TODAY), days)
    assert chosen.all_days()[:: days - 1 or 1] in ([first, TODAY], [TODAY])


def test_custom_days_are_shown_as_selected_and_one_day_alone_is_valid():
    first = date(2026, 2, 1)
    assert period("Custom", (first, date(2026, 3, 1)), TODAY) == Period(first, date(2026, 3, 1))
    assert period("Custom", (first,), TODAY) == Period(first, first)
    leap = date(2024, 1, 1), date(2025, 12, 31)
    assert period("Custom", leap, TODAY) == Period(*leap)


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
    assert period(choice, picked, TODAY) == THIRTY_DAYS


@pytest.mark.parametrize(
    ("first", "words"),
    [
        (TODAY, "25 Nov 2026"),
        (date(2026, 10, 27), "27 Oct to 25 Nov 2026"),
        (date(2025, 12, 1), "1 Dec 2025 to 25 Nov 2026"),
    ],
)
def test_a_period_is_shown_with_the_required_years(first: date, words: str):
    assert Period(first, TODAY).words() == words
    assert this_month(TODAY) == Period(date(2026, 11, 1), TODAY)
