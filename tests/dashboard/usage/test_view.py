from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import keys as root_key_errors
from core.services import KEY_REQUESTS, CryptoOperation
from dashboard.audit.address import parse
from dashboard.components.formatting import short
from dashboard.usage import view
from dashboard.usage.periods import Interval, period, whole_days
from dashboard.usage.view import OPERATIONS, reason
from database.usage import SpanSum, UsageCount, UsageLatency, UsageSum
from tests.database.builders import took

ENCRYPT, GET, LOCATE, CONNECT = (
    CryptoOperation.ENCRYPT,
    CryptoOperation.GET,
    CryptoOperation.LOCATE,
    CryptoOperation.CONNECT,
)
NOW = datetime(2026, 11, 25, 12, 34, tzinfo=UTC)
TODAY = NOW.date()
MIDNIGHT = datetime(2026, 11, 25, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
WEEK = whole_days(TODAY - 6 * DAY, TODAY)
HOURS = period("Today", (), NOW)
REFUSED = "refused or failed requests"


TOTALS = [
    UsageSum("", CONNECT, "client_not_authorized", 3, 0),
    UsageSum("orders", ENCRYPT, "", 700, 7000, took(*[40] * 700)),
    UsageSum("orders", ENCRYPT, "database_unavailable", 5, 0),
    UsageSum("orders", ENCRYPT, "ciphertext_refused", 2, 0),
    UsageSum("orders", LOCATE, "", 90, 0, took(*[9000] * 90)),
    UsageSum("users", GET, "", 200, 0, took(*[3000] * 100)),
]


def headlines(totals: Sequence[UsageSum], counts: Sequence[UsageCount], **changed: object) -> view.Headlines:
    return view.headlines(totals, counts, replace(view.HeadlineFacts(WEEK, TODAY, 6, 600, this_month=1001), **changed))


def test_the_metrics_count_key_requests_and_refusals():
    counts = [UsageCount(MIDNIGHT - DAY, "encrypt", 600), UsageCount(MIDNIGHT, "encrypt", 307)]
    texts = headlines(TOTALS, counts)
    assert (texts.requests, texts.this_month) == ("907", "1,001")
    # A database that was down denied nothing; a rejected certificate was denied.
    assert (texts.refused, texts.refused_note) == ("10", "5 denied, 5 failed: 1.00 % of all requests")
    assert (texts.p95, texts.p95_note) == ("4.1 ms", "average 410 µs")
    untimed = headlines([UsageSum("orders", ENCRYPT, "", 3, 0)], counts)
    assert (untimed.refused, untimed.refused_note) == ("0", "0 denied, 0 failed: 0 % of all requests")
    assert (untimed.p95, untimed.p95_note) == ("not timed", "no measurements in this period")
    few = [UsageSum("orders", ENCRYPT, "", 10**6, 0), UsageSum("orders", ENCRYPT, "ciphertext_refused", 1, 0)]
    assert headlines(few, []).refused_note == "1 denied, 0 failed: under 0.01 % of all requests"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, "average 100 per complete UTC day"),
        ({"complete_days": 1}, "average 600 per complete UTC day"),
        ({"complete_days": 0, "on_complete_days": 0}, "no complete UTC day yet"),
        ({"on_complete_days": 0}, "average 0 per complete UTC day"),
        ({"period": HOURS}, "today since 00:00 UTC"),
        ({"period": period("24 hours", (), NOW)}, "in 24 hours, with the current one"),
        ({"period": period("Custom", (TODAY - DAY,), NOW)}, "in this UTC day"),
    ],
)
def test_the_average_is_of_complete_days_and_the_note_says_so(changed: dict[str, object], words: str):
    counts = [UsageCount(MIDNIGHT - DAY, "encrypt", 600), UsageCount(MIDNIGHT, "encrypt", 5000)]
    assert headlines([], counts, **changed).per_day == words


def test_every_interval_of_the_period_is_drawn_and_the_largest_part_comes_first():
    counts = [
        UsageCount(MIDNIGHT - DAY, "get", 3),
        UsageCount(MIDNIGHT, "encrypt", 5),
        UsageCount(MIDNIGHT, "get", 1),
    ]
    shown = whole_days(TODAY - 2 * DAY, TODAY)
    series = view.course(counts, shown, Interval.DAY, view.operation_name, "key requests")
    assert series.source() == [
        ["Day (UTC)", "Encrypt", "KMIP Get"],
        ["2026-11-23", 0, 0],
        ["2026-11-24", 0, 3],
        ["2026-11-25", 5, 1],
    ]
    assert series.summary() == "9 key requests over 3 bars, most on 2026-11-25 with 6; the largest part is Encrypt."


def test_months_are_the_sum_of_their_days():
    counts = [
        UsageCount(datetime(2026, 10, 30, tzinfo=UTC), "orders", 3),
        UsageCount(datetime(2026, 10, 31, tzinfo=UTC), "orders", 4),
        UsageCount(MIDNIGHT, "orders", 1),
    ]
    shown = whole_days(date(2026, 10, 27), TODAY)
    series = view.course(counts, shown, Interval.MONTH, view.service_name, "key requests")
    assert series.rows == (("2026-10", (7,)), ("2026-11", (1,)))
    empty = view.course([], WEEK, Interval.DAY, view.operation_name, REFUSED)
    assert (empty.names, len(empty.rows)) == ((), 7)
    assert empty.summary() == "No refused or failed requests in this period."


@pytest.mark.parametrize(("parts", "shown"), [(8, 8), (9, 8), (20, 8)])
def test_the_smallest_series_are_merged_without_loss(parts: int, shown: int):
    counts = [UsageCount(MIDNIGHT, f"service-{number:02}", 100 - number) for number in range(parts)]
    series = view.course(counts, HOURS, Interval.HOUR, view.service_name, "key requests")
    assert len(series.names) == shown
    assert (series.names[-1] == view.OTHERS) is (parts > shown)
    assert series.total == sum(one.count for one in counts)


def test_an_interval_without_a_measurement_has_no_latency_and_none_is_zero():
    latencies = [UsageLatency(MIDNIGHT, took(40, 50)), UsageLatency(MIDNIGHT + 12 * HOUR, took(9_000_000))]
    course = view.latency_course(latencies, HOURS, Interval.HOUR)
    assert [row for row in course.rows if row[2]] == [
        ("2026-11-25 00:00", 0.064, 2),
        ("2026-11-25 12:00", 8388.608, 1),
    ]
    assert {row[1:] for row in course.rows if not row[2]} == {(None, 0)}
    assert course.is_beyond
    assert course.summary().startswith("p95 latency was measured in 2 of 13 intervals; its highest upper bound is 8.39")
    none = view.latency_course([], WEEK, Interval.MONTH)
    assert (none.rows, none.is_beyond) == ((("2026-11", None, 0),), False)
    assert none.summary() == "No latency was measured in this period."
    days = [UsageLatency(MIDNIGHT, took(*[40] * 95)), UsageLatency(MIDNIGHT - DAY, took(*[4000] * 5))]
    assert view.latency_course(days, WEEK, Interval.MONTH).rows == (("2026-11", 0.045, 100),)


_COUNTED = st.tuples(
    st.integers(0, 12),
    st.sampled_from(["", "orders", "users", "ledger"]),
    st.sampled_from(CryptoOperation),
    st.sampled_from(["", "", "ciphertext_refused", "vault_unavailable", "new_code"]),
    st.integers(1, 10**9),
)


@given(st.lists(_COUNTED, max_size=40))
def test_bars_totals_and_tables_agree_for_all_rows(rows: list[tuple[int, str, CryptoOperation, str, int]]):
    sums: Counter[tuple[str, CryptoOperation, str]] = Counter()
    for _, service, operation, refusal, count in rows:
        sums[service, operation, refusal] += count
    totals = [UsageSum(*group, count, 0) for group, count in sums.items()]
    refused = [SpanSum(UsageSum(*group, count, 0), MIDNIGHT, MIDNIGHT) for group, count in sums.items()]

    def at(hour: int) -> datetime:
        return MIDNIGHT + hour * HOUR

    keys = [row for row in rows if row[2] in KEY_REQUESTS]
    by_service = [UsageCount(at(hour), service, count) for hour, service, _, _, count in keys]
    by_operation = [UsageCount(at(hour), operation.value, count) for hour, _, operation, _, count in keys]
    by_cause = [UsageCount(at(hour), refusal, count) for hour, _, _, refusal, count in rows if refusal]
    bars = [
        view.course(by_service, HOURS, Interval.HOUR, view.service_name, "key requests"),
        view.course(by_operation, HOURS, Interval.HOUR, view.operation_name, "key requests"),
    ]
    causes = view.course(by_cause, HOURS, Interval.HOUR, view.cause_name, REFUSED)
    lines, table = view.lines(totals), view.refusals(refused, HOURS)
    texts = headlines(totals, by_service, period=HOURS)
    requests = sum(line.requests for line in lines if line.kind == view.KEY_REQUEST)
    assert {one.total for one in bars} == {requests}
    assert texts.requests == short(requests)
    rejected = sum(one.count for one in table)
    assert causes.total == rejected == sum(line.refused for line in lines)
    assert texts.refused == short(rejected)
    others = sum(line.requests for line in lines) - requests
    assert view.total(lines) == (
        f"Total: {requests:,} key requests and {others:,} other requests, of which {rejected:,} refused or failed."
    )
    for one in (*bars, causes):
        assert [sum(row[1:]) for row in one.source()[1:]] == [sum(numbers) for _, numbers in one.rows]


def test_a_line_counts_all_requests_and_the_latency_of_successful_ones():
    lines = view.lines(TOTALS)
    assert [(line.service, line.operation, line.requests, line.refused) for line in lines] == [
        ("no known service", "Connect", 3, 3),
        ("orders", "Encrypt", 707, 7),
        ("orders", "Locate key", 90, 0),
        ("users", "KMIP Get", 200, 0),
    ]
    assert (lines[1].average, lines[1].p50, lines[1].p95, lines[1].p99) == (0.04, *[0.045] * 3)
    assert lines[0].p95 is None
    assert not lines[1].is_beyond
    [slow] = view.lines([UsageSum("orders", ENCRYPT, "", 1, 0, took(9_000_000))])
    assert (slow.average, slow.p95, slow.is_beyond) == (8388.608, 8388.608, True)
    assert [line.kind for line in lines] == ["Other request", "Key request", "Other request", "Key request"]


def test_denials_come_before_failures_and_each_has_a_meaning():
    refused = [SpanSum(one, NOW, NOW) for one in TOTALS]
    found = view.refusals(refused, HOURS)
    assert [(one.service, one.reason, one.count, one.denied) for one in found] == [
        ("no known service", "Certificate rejected", 3, True),
        ("orders", "Ciphertext rejected", 2, True),
        ("orders", "Database unavailable", 5, False),
    ]
    assert all(one.meaning.endswith(".") for one in found)
    codes = [error.code for error in root_key_errors.CustomerKeyError.__subclasses__()]
    assert codes
    assert not any(reason(code).denied for code in codes)
    assert (reason("brand_new").name, reason("brand_new").denied) == ("Brand new", True)


def test_the_records_of_a_refusal_are_those_of_its_service_operation_and_time():
    query = {"service": "orders", "operation": "get", "outcome": "refused"}
    one = SpanSum(UsageSum("orders", GET, "object_not_found", 2, 0), MIDNIGHT, MIDNIGHT + 12 * HOUR)
    [found] = view.refusals([one], HOURS)
    assert (found.first, found.last) == ("2026-11-25 00:00", "2026-11-25 12:00")
    assert found.query == query | {"from": "2026-11-25T00:00Z", "to": "2026-11-25T12:02Z"}
    [days] = view.refusals([one._replace(last=MIDNIGHT)], WEEK)
    assert (days.first, days.last) == ("2026-11-25", "2026-11-25")
    assert days.query == query | {"from": "2026-11-25T00:00Z", "to": "2026-11-26T00:01Z"}
    parsed, ignored = parse({name: [value] for name, value in days.query.items()})
    assert (parsed.service, parsed.operation, parsed.outcome, ignored) == (("orders",), ("get",), ("refused",), ())
    [unknown] = view.refusals([one._replace(used=replace(one.used, service=""))], HOURS)
    assert "service" not in unknown.query


@pytest.mark.parametrize(
    ("microseconds", "words"),
    [
        (None, "not timed"),
        (0.4, "1 µs"),
        (45, "45 µs"),
        (410.4, "410 µs"),
        (1000, "1 ms"),
        (4096, "4.1 ms"),
        (46_341, "46.3 ms"),
        (524_288, "524 ms"),
        (1_482_910, "1.48 s"),
        (8_388_608, "8.39 s"),
        (float("inf"), "over 8.39 s"),
    ],
)
def test_a_duration_has_three_significant_digits(microseconds: float | None, words: str):
    assert view.duration(microseconds) == words


def test_every_operation_has_a_name_and_key_requests_are_those_that_need_a_key():
    assert set(OPERATIONS) == set(CryptoOperation)
    others = {"activate", "revoke", "destroy", "locate", "attributes", "change-attributes", "random", "connect", "open"}
    assert {one.value for one in set(CryptoOperation) - KEY_REQUESTS} == others
