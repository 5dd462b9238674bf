from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.tenants.offboarding import LONGEST_GRACE, parse_grace, remains, reminders
from openkcm.errors import InvalidName

SINCE = datetime(2026, 11, 25, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("grace", "left"),
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
def test_reminders_come_a_week_and_a_day_before_the_end_and_fewer_for_a_short_grace(grace, left):
    assert reminders(SINCE, SINCE + grace) == tuple(SINCE + grace - lead for lead in left)


@given(st.timedeltas(min_value=timedelta(), max_value=LONGEST_GRACE))
def test_a_reminder_is_in_the_second_half_of_the_grace_and_before_its_end(grace):
    due = reminders(SINCE, SINCE + grace)
    assert list(due) == sorted(due)
    assert all(SINCE + grace / 2 <= when < SINCE + grace for when in due)


@pytest.mark.parametrize(
    ("text", "grace"),
    [("20s", timedelta(seconds=20)), ("90m", timedelta(minutes=90)), ("12h", DAY / 2), ("365d", 365 * DAY)],
)
def test_a_grace_is_a_number_and_a_unit(text, grace):
    assert parse_grace(text) == grace


@pytest.mark.parametrize("text", ["", "0s", "0d", "366d", "-1d", "1", "d", "1 d", "1w", "1d1h", "1.5d", "9999999999d"])
def test_what_is_no_grace_is_refused_with_an_example(text):
    with pytest.raises(InvalidName) as refused:
        parse_grace(text)
    assert "30d" in refused.value.hint


def test_what_remains_in_backups_is_said_with_its_end_or_that_nobody_told_it():
    told, untold = remains(35), remains(None)
    assert [one.what for one in told] == [one.what for one in untold]
    assert sum("35 days" in one.until for one in told) == 2
    assert sum("not told" in one.until for one in untold) == 2
