from datetime import date, timedelta

import pytest

from core.errors import keys as root_key_errors
from core.services import KEY_REQUESTS, CryptoOperation
from dashboard.usage import view
from dashboard.usage.periods import Period
from dashboard.usage.view import OPERATIONS, reason
from database.usage import DayCount, UsageSum
from tests.database.builders import took

ENCRYPT, GET, LOCATE, CONNECT = (
    CryptoOperation.ENCRYPT,
    CryptoOperation.GET,
    CryptoOperation.LOCATE,
    CryptoOperation.CONNECT,
)
TODAY = date(2026, 11, 25)
DAY = timedelta(days=1)
WEEK = Period(TODAY - 6 * DAY, TODAY)


TOTALS = [
    UsageSum("", CONNECT, "client_not_authorized", 3, 0),
    UsageSum("orders", ENCRYPT, "", 700, 7000, took(*[40] * 700)),
    UsageSum("orders", ENCRYPT, "database_unavailable", 5, 0),
    UsageSum("orders", ENCRYPT, "ciphertext_refused", 2, 0),
    UsageSum("orders", LOCATE, "", 90, 0, took(*[9000] * 90)),
    UsageSum("users", GET, "", 200, 0, took(*[3000] * 100)),
]


def test_the_metrics_count_key_requests_and_denied_attempts():
    texts = view.headlines(TOTALS, WEEK, [DayCount(TODAY, "encrypt", 1000), DayCount(TODAY, "get", 1)])
    assert (texts.requests, texts.per_day) == ("907", "130 a day")
    assert texts.this_month == "1,001"
    # A database that was down denied nothing; a rejected certificate was denied.
    assert (texts.denied, texts.denied_share) == ("5", "0.50 % of all")
    assert (texts.p95, texts.p95_note) == ("4.1 ms", "average 410 µs")
    assert view.headlines(TOTALS, Period(TODAY, TODAY), []).per_day == "so far today (UTC)"
    untimed = view.headlines([UsageSum("orders", ENCRYPT, "", 3, 0)], WEEK, [])
    assert (untimed.requests, untimed.per_day) == ("3", "0.4 a day")
    assert (untimed.denied, untimed.denied_share) == ("0", "0 % of all")
    assert (untimed.p95, untimed.p95_note) == ("not timed", "no measurements in this period")
    few = [UsageSum("orders", ENCRYPT, "", 10**6, 0), UsageSum("orders", ENCRYPT, "ciphertext_refused", 1, 0)]
    assert view.headlines(few, WEEK, []).denied_share == "under 0.01 % of all"


def test_every_day_of_the_period_is_drawn_and_the_largest_part_comes_first():
    counts = [DayCount(TODAY - DAY, "get", 3), DayCount(TODAY, "encrypt", 5), DayCount(TODAY, "get", 1)]
    series = view.by_day(counts, Period(TODAY - 2 * DAY, TODAY), view.operation_name)
    assert series.source() == [
        ["Day", "Encrypt", "KMIP Get"],
        ["2026-11-23", 0, 0],
        ["2026-11-24", 0, 3],
        ["2026-11-25", 5, 1],
    ]
    assert series.summary() == ("9 key requests over 3 bars, most on 2026-11-25 with 6; the largest part is Encrypt.")


def test_months_are_the_sum_of_their_days():
    counts = [
        DayCount(date(2026, 10, 30), "orders", 3),
        DayCount(date(2026, 10, 31), "orders", 4),
        DayCount(TODAY, "orders", 1),
    ]
    series = view.by_month(counts, Period(date(2026, 10, 27), TODAY), view.service_name)
    assert series.rows == (("2026-10", (7,)), ("2026-11", (1,)))
    empty = view.by_day([], WEEK, view.operation_name)
    assert (empty.names, len(empty.rows), empty.summary()) == ((), 7, "No key requests in this period.")


@pytest.mark.parametrize(("parts", "shown"), [(8, 8), (9, 8), (20, 8)])
def test_the_smallest_series_are_merged_without_loss(parts: int, shown: int):
    counts = [DayCount(TODAY, f"service-{number:02}", 100 - number) for number in range(parts)]
    series = view.by_day(counts, Period(TODAY, TODAY), view.service_name)
    assert len(series.names) == shown
    assert (series.names[-1] == view.OTHERS) is (parts > shown)
    assert sum(series.rows[0][1]) == sum(one.count for one in counts)


def test_a_line_counts_all_requests_and_the_latency_of_successful_ones():
    lines = view.lines(TOTALS)
    assert [(line.service, line.operation, line.requests, line.refused) for line in lines] == [
        ("no known service", "Connect", 3, 3),
        ("orders", "Encrypt", 707, 7),
        ("orders", "Locate key", 90, 0),
        ("users", "KMIP Get", 200, 0),
    ]
    assert (lines[1].average, lines[1].p50, lines[1].p95, lines[1].p99) == ("40 µs", *["45 µs"] * 3)
    assert lines[0].p95 == "not timed"
    assert [line.kind for line in lines] == ["Other request", "Key request", "Other request", "Key request"]


def test_denials_come_before_failures_and_each_has_a_meaning():
    found = view.refusals(TOTALS)
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
