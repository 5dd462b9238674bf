from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.tenants.offboarding import LONGEST_GRACE, parse_grace, remains, reminders
from openkcm.errors import InvalidName

SINCE = datetime(2026, 11, 25, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("grace", "leads"),
    [
        (30 * DAY, [7 * DAY, DAY]),
        (14 * DAY, [7 * DAY, DAY]),
        (13 * DAY, [DAY]),
        (2 * DAY, [DAY]),
        (DAY, []),
        (timedelta(seconds=20), []),
        (timedelta(), []),
    ],
)
def test_reminders_are_a_week_and_a_day_before_the_end_and_fewer_for_a_short_grace_period(grace, leads):
    assert reminders(SINCE, SINCE + grace) == tuple(SINCE + grace - lead for lead in leads)


@given(st.timedeltas(min_value=timedelta(), max_value=LONGEST_GRACE))
def test_reminders_are_in_the_second_half_of_the_grace_period(grace):
    due = reminders(SINCE, SINCE + grace)
    assert list(due) == sorted(due)
    assert all(SINCE + grace / 2 <= when < SINCE + grace for when in due)


@pytest.mark.parametrize(
    ("text", "grace"),
    [("20s", timedelta(seconds=20)), ("90m", timedelta(minutes=90)), ("12h", DAY / 2), ("365d", 365 * DAY)],
)
def test_parse_grace_accepts_a_number_with_a_unit(text, grace):
    assert parse_grace(text) == grace


@pytest.mark.parametrize("text", ["", "0s", "0d", "366d", "-1d", "1", "d", "1 d", "1w", "1d1h", "1.5d", "9999999999d"])
def test_parse_grace_rejects_invalid_text_with_an_example(text):
    with pytest.raises(InvalidName) as rejected:
        parse_grace(text)
    assert "30d" in rejected.value.hint


def test_remains_state_the_end_of_backups_or_that_it_is_unknown():
    known, unknown = remains(35), remains(None)
    assert [one.what for one in known] == [one.what for one in unknown]
    assert sum("35 days" in one.until for one in known) == 2
    assert sum("does not know" in one.until for one in unknown) == 2
