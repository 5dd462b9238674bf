from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compliance.reports.periods import checked, days, days_before, default, last_month, named
from core.errors.compliance import PeriodRefused

NOW = datetime(2026, 11, 26, 9, tzinfo=UTC)


def at(*day: int) -> datetime:
    return datetime(*day, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "period"),
    [
        ("2026", (at(2026, 1, 1), at(2027, 1, 1))),
        ("2026-Q1", (at(2026, 1, 1), at(2026, 4, 1))),
        ("2026-Q4", (at(2026, 10, 1), at(2027, 1, 1))),
        ("2026-09", (at(2026, 9, 1), at(2026, 10, 1))),
        ("2026-12", (at(2026, 12, 1), at(2027, 1, 1))),
    ],
)
def test_named_returns_year_quarter_or_month(text, period):
    assert named(text) == period


@pytest.mark.parametrize("text", ["", "2026-13", "2026-Q5", "2026-9", "26", "2026-09-01", "1999", "2026-Q1 ", "20²6"])
def test_named_rejects_invalid_periods(text):
    with pytest.raises(PeriodRefused):
        named(text)


def test_days_include_both_days():
    assert days(date(2026, 9, 1), date(2026, 9, 1)) == (at(2026, 9, 1), at(2026, 9, 2))
    with pytest.raises(PeriodRefused):
        days(date(2026, 9, 2), date(2026, 9, 1))


def test_last_month_returns_the_last_complete_month():
    assert last_month(NOW) == (at(2026, 10, 1), at(2026, 11, 1))
    assert last_month(at(2026, 1, 1)) == (at(2025, 12, 1), at(2026, 1, 1))


def test_default_is_the_last_month_only_if_the_tenant_existed_in_all_of_it():
    assert default(at(2026, 10, 1), NOW) == last_month(NOW)
    assert default(at(2026, 10, 1, 1), NOW) == (at(2026, 10, 1), NOW)
    assert default(NOW, NOW) == (at(2026, 11, 26), NOW)


def test_days_before_the_tenant_was_enabled_are_counted_by_utc_day():
    assert days_before(at(2026, 11, 1), at(2026, 11, 11, 23)) == 10
    assert days_before(at(2026, 11, 1), at(2026, 11, 1, 23)) == 0
    assert days_before(at(2026, 11, 1), at(2026, 10, 1)) == 0


def test_checked_limits_the_end_and_the_length():
    assert checked(named("2026"), NOW) == (at(2026, 1, 1), NOW)
    for rejected in (named("2027"), (at(2020, 1, 1), at(2026, 1, 1)), (NOW, NOW)):
        with pytest.raises(PeriodRefused):
            checked(rejected, NOW)


@given(st.integers(1_000_000_000, 4_000_000_000).map(lambda seconds: datetime.fromtimestamp(seconds, UTC)))
def test_every_moment_is_in_exactly_one_month_quarter_and_year(now):
    quarter = (now.month + 2) // 3
    for text in (f"{now:%Y}", f"{now:%Y}-Q{quarter}", f"{now:%Y-%m}"):
        since, until = named(text)
        assert since <= now < until
    assert last_month(now)[1] == named(f"{now:%Y-%m}")[0]
    assert days(now.date(), now.date())[1] - days(now.date(), now.date())[0] == timedelta(days=1)
