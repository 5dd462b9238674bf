from datetime import date, timedelta

import pytest

from dashboard.views.usage_period import LONGEST, Period, period, this_month

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


@pytest.mark.parametrize("choice", [None, "", "thirty", "' or true --", "today"])
def test_what_is_no_choice_is_the_default(choice: str | None):
    assert period(choice, (), TODAY) == THIRTY_DAYS


def test_custom_days_are_shown_as_picked_and_one_alone_by_itself():
    first = date(2026, 2, 1)
    assert period("Custom", (first, date(2026, 3, 1)), TODAY) == Period(first, date(2026, 3, 1))
    assert period("Custom", (first,), TODAY) == Period(first, first)


@pytest.mark.parametrize(
    "picked",
    [
        (),
        (TODAY, TODAY - timedelta(days=1)),
        (TODAY, TODAY + timedelta(days=1)),
        (TODAY + timedelta(days=1),),
        (TODAY - LONGEST, TODAY),
        (date.min, date.min),
    ],
)
def test_custom_days_that_cannot_be_shown_are_the_default(picked: tuple[date, ...]):
    assert period("Custom", picked, TODAY) == THIRTY_DAYS


def test_two_years_with_a_leap_day_can_be_shown():
    first, last = date(2024, 1, 1), date(2025, 12, 31)
    assert period("Custom", (first, last), TODAY) == Period(first, last)


def test_this_month_begins_on_the_first():
    assert this_month(TODAY) == Period(date(2026, 11, 1), TODAY)


@pytest.mark.parametrize(
    ("first", "words"),
    [
        (TODAY, "25 Nov 2026"),
        (date(2026, 10, 27), "27 Oct to 25 Nov 2026"),
        (date(2025, 12, 1), "1 Dec 2025 to 25 Nov 2026"),
    ],
)
def test_a_period_is_said_with_the_years_it_needs(first: date, words: str):
    assert Period(first, TODAY).words() == words
