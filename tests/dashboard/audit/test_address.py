"""The filters of the Audit page in its address, and the bars of the hours."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.services import CryptoOperation
from dashboard.audit import address, hours
from dashboard.audit.address import AuditQuery
from dashboard.audit.view import OUTCOMES, choices
from database.audit import HourCount

NOW = datetime(2026, 11, 25, 17, 20, tzinfo=UTC)
HOUR = timedelta(hours=1)
MINUTES = st.integers(0, 80 * 365 * 24 * 60).map(lambda n: datetime(2020, 1, 1, tzinfo=UTC) + timedelta(minutes=n))
TEXTS = st.text(max_size=address.LONGEST)
QUERIES = st.builds(
    AuditQuery,
    st.none() | MINUTES.filter(lambda time: time.year < 2060),
    st.none() | MINUTES.filter(lambda time: time.year >= 2060),
    st.lists(st.sampled_from(["orders", "unknown", "a-b"]), unique=True).map(tuple),
    st.lists(st.sampled_from([str(one) for one in CryptoOperation]), unique=True).map(tuple),
    st.sets(st.sampled_from(list(OUTCOMES))).map(lambda chosen: tuple(sorted(chosen))),
    st.lists(st.sampled_from(choices()), unique=True, max_size=3).map(tuple),
    TEXTS,
    TEXTS,
    TEXTS,
)


@given(QUERIES)
def test_every_filter_survives_the_address(query: AuditQuery) -> None:
    parsed, ignored = address.parse(
        {name: [value] if isinstance(value, str) else value for name, value in query.address().items()}
    )
    assert ignored == ()
    assert parsed.address() == query.address()
    assert parsed.filter().outcomes == query.filter().outcomes


@given(st.dictionaries(st.sampled_from(address.FILTERS), st.lists(st.text(), min_size=1, max_size=3)))
def test_no_value_of_an_address_raises(query: dict[str, list[str]]) -> None:
    parsed, ignored = address.parse(query)
    assert address.parse({name: [v] if isinstance(v, str) else v for name, v in parsed.address().items()})[1] == ()
    assert all(sentence.endswith(".") for sentence in ignored)


@pytest.mark.parametrize(("value", "seq"), [("", None), ("7", 7), ("0", 0), ("x", 0), ("\u0667", 0), ("1" * 19, 0)])
def test_the_open_record_is_a_number(value: str, seq: int | None) -> None:
    assert address.parse_seq(value) == seq


def test_a_time_without_a_zone_is_utc_and_seconds_are_cut() -> None:
    parsed, _ = address.parse({"from": ["2026-11-25T17:14:59"], "to": ["2026-11-25T19:00+01:00"]})
    assert (parsed.since, parsed.until) == (NOW.replace(minute=14), NOW.replace(hour=18, minute=0))


def test_bars_fill_hours_without_records_and_add_outcomes() -> None:
    at = NOW.replace(minute=0)
    counts = [
        HourCount(at - 3 * HOUR, "success", 5),
        HourCount(at, "success", 1),
        HourCount(at, "intended", 1),
        HourCount(at, "refused", 2),
        HourCount(at, "failure", 4),
    ]
    shown = hours.bars(counts, AuditQuery(), NOW)
    assert [(bar.answered, bar.not_answered) for bar in shown.bars] == [(5, 0), (0, 0), (0, 0), (2, 6)]
    assert shown.is_cut
    assert shown.summary() == "Records of 4 hours from 25 Nov 14:00 UTC: 7 answered, 6 refused or failed."
    assert not hours.bars(counts, AuditQuery(since=NOW - 4 * HOUR), NOW).is_cut
    assert hours.bars([], AuditQuery(), NOW).summary() == "No records in the hours of this range."


def test_bars_show_at_most_a_week_before_the_end_of_the_range() -> None:
    at = NOW.replace(minute=0)
    assert hours.window(AuditQuery(), NOW).since == at - (hours.MOST - 1) * HOUR
    assert hours.window(AuditQuery(until=NOW - 48 * HOUR), NOW).since == at - (hours.MOST + 47) * HOUR
    assert hours.window(AuditQuery(since=NOW - HOUR), NOW).since == NOW - HOUR


def test_a_selected_hour_stays_within_the_range() -> None:
    at = NOW.replace(minute=0)
    query = AuditQuery(since=at + timedelta(minutes=14), search="4711")
    assert hours.narrowed(query, at) == AuditQuery(query.since, at + HOUR, search="4711")
    assert hours.narrowed(AuditQuery(), at) == AuditQuery(at, at + HOUR)
