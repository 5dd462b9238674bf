import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import partial

import pytest

from core.errors.platform import DatabaseRefused
from core.services import CryptoOperation
from core.usage import Latency
from database.connection.database import Database
from database.usage import (
    AnsweredDay,
    Days,
    Hours,
    Months,
    RecentUse,
    SpanSum,
    UsageCount,
    UsageDay,
    UsageHour,
    UsageLatency,
    UsageRow,
    UsageSum,
    UsageTotalRow,
)
from tests.concurrency import at_once
from tests.database.builders import NOW, some_uses, took
from tests.database.fixtures import Field
from tests.database.templates import filled_template, two_tenants

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
TODAY = NOW.date()
ENCRYPT, GET = CryptoOperation.ENCRYPT, CryptoOperation.GET
SOME = UsageRow(NOW, "orders", ENCRYPT, 10, 0, 1000)
SOME_OF_A_DAY = UsageSum("orders", ENCRYPT, "", 10, 1000)


template = filled_template(two_tenants(services=False))


@pytest.fixture
def crypto(field: Field) -> Database:
    return field.open("crypto")


def used(sums: Sequence[SpanSum]) -> list[UsageSum]:
    return [one.used for one in sums]


def test_counts_of_a_minute_are_summed_within_and_across_batches(crypto: Database) -> None:
    get = some_uses(operation=GET, count=1, bytes=32)
    refused = some_uses(refusal="object_not_found", count=2, bytes=0)
    with crypto.tenant_tx("acme") as tx:
        assert tx.usage.add([some_uses(), get, refused, some_uses()], "a")
        assert tx.usage.add([some_uses(minute=NOW + timedelta(minutes=1)), some_uses()], "b")
        assert tx.usage.between(NOW, NOW + HOUR) == [
            replace(SOME, count=32, refused=2, bytes=3000),
            UsageRow(NOW, "orders", GET, 1, 0, 32),
            replace(SOME, minute=NOW + timedelta(minutes=1)),
        ]


def test_hours_contain_every_result_and_its_newest_minute(crypto: Database) -> None:
    refused = some_uses(refusal="object_not_found", count=2, bytes=0)
    later = NOW + timedelta(minutes=3)
    with crypto.tenant_tx("acme") as tx:
        assert tx.usage.add([some_uses(), refused], "a")
        assert tx.usage.add([some_uses(minute=later), some_uses(minute=NOW + HOUR)], "b")
        assert not tx.usage.add([some_uses(minute=later)], "b")
        begins = NOW.replace(minute=0)
        assert tx.usage.hours(begins, begins + 2 * HOUR) == [
            UsageHour(begins, UsageSum("orders", ENCRYPT, "", 20, 2000), later),
            UsageHour(begins, UsageSum("orders", ENCRYPT, "object_not_found", 2, 0), NOW),
            UsageHour(begins + HOUR, UsageSum("orders", ENCRYPT, "", 10, 1000), NOW + HOUR),
        ]
        assert len(tx.usage.hours(begins, begins + HOUR)) == 2
        assert tx.usage.recent(later) == RecentUse(20, 0, ())
        assert tx.usage.recent(NOW) == RecentUse(30, 2, ("object_not_found",))


def test_rejected_connections_of_unknown_clients_are_no_recent_requests(crypto: Database) -> None:
    unknown = some_uses(service="", operation=CryptoOperation.CONNECT, refusal="client_not_authorized", count=4)
    with crypto.tenant_tx("acme") as tx:
        tx.usage.add([unknown], "a")
        assert tx.usage.recent(NOW) == RecentUse(0, 0, ())
        assert tx.usage.course(NOW - DAY) == []
        tx.usage.add([some_uses(), some_uses(refusal="object_not_found", count=1)], "b")
        assert tx.usage.recent(NOW) == RecentUse(10, 1, ("object_not_found",))


def test_repeated_batch_is_counted_once_per_tenant(crypto: Database) -> None:
    with crypto.tenant_tx("acme") as tx:
        assert tx.usage.add([some_uses()], "a")
        assert not tx.usage.add([some_uses()], "a")
    with crypto.tenant_tx("acme") as tx:
        assert not tx.usage.add([some_uses(service="users")], "a")
        assert tx.usage.between(NOW, NOW + HOUR) == [SOME]
    with crypto.tenant_tx("beta") as tx:
        assert tx.usage.between(NOW, NOW + HOUR) == []
        assert tx.usage.add([some_uses()], "a")


def test_batch_is_counted_when_repeated_after_a_rollback(crypto: Database) -> None:
    with pytest.raises(ZeroDivisionError), crypto.tenant_tx("acme") as tx:  # noqa: PT012 - the whole block raises
        tx.usage.add([some_uses()], "a")
        raise ZeroDivisionError
    with crypto.tenant_tx("acme") as tx:
        assert tx.usage.add([some_uses()], "a")
        assert tx.usage.between(NOW, NOW + HOUR) == [SOME]


def test_range_excludes_its_end(crypto: Database) -> None:
    with crypto.tenant_tx("acme") as tx:
        tx.usage.add([some_uses(minute=NOW + minutes * timedelta(minutes=1)) for minutes in range(4)], "a")
        found = tx.usage.between(NOW + timedelta(minutes=1), NOW + timedelta(minutes=3))
    assert [row.minute - NOW for row in found] == [timedelta(minutes=1), timedelta(minutes=2)]


def test_totals_sum_the_uses_by_service_and_operation(crypto: Database) -> None:
    minute, begins = timedelta(minutes=1), NOW.replace(minute=0)
    with crypto.tenant_tx("acme") as tx:
        for hours in range(3):
            used = [some_uses(minute=begins + hours * HOUR + minutes * minute) for minutes in (0, 30, 59)]
            tx.usage.add(used, f"used-{hours}")
            refused = some_uses("users", operation=GET, refusal="object_not_found", count=1, minute=used[1].minute)
            tx.usage.add([refused], f"refused-{hours}")
    with crypto.tenant_tx("beta") as tx:
        tx.usage.add([some_uses()], "a")
    last = begins + 2 * HOUR
    with crypto.tenant_tx("acme") as tx:
        for since, used, refused in (
            (begins, 9, 3),
            (begins + minute, 8, 3),
            (begins + 31 * minute, 7, 2),
            (begins + HOUR, 6, 2),
            (last + minute, 2, 1),
            (last + 31 * minute, 1, 0),
        ):
            rows = {"orders": UsageTotalRow("orders", ENCRYPT, 10 * used, 0, last + 59 * minute)}
            if refused:
                rows["users"] = UsageTotalRow("users", GET, refused, refused, last + 30 * minute)
            assert tx.usage.totals(since) == list(rows.values())
        assert tx.usage.totals(last + HOUR) == []


def test_totals_after_an_upgrade_count_the_minutes_of_the_former_release(crypto: Database, field: Field) -> None:
    begins, minute = NOW.replace(minute=0), timedelta(minutes=1)
    with crypto.tenant_tx("acme") as tx:
        tx.usage.add([some_uses(minute=begins + hours * HOUR + 5 * minute) for hours in range(4)], "a")
    with field.administrator() as administrator:
        # The former release counted the first hour, and the first minute of the second one.
        administrator.execute("delete from okcm.usage_hour where hour = %s", [begins])
        administrator.execute("update okcm.usage_hour set count = 1 where hour = %s", [begins + HOUR])
    with crypto.tenant_tx("acme") as tx:
        [total] = tx.usage.totals(begins)
        assert total.count == 40
        assert tx.usage.totals(begins + 3 * HOUR) == [replace(total, count=10)]
    with field.administrator() as administrator:
        administrator.execute("delete from okcm.usage_hour")
    with crypto.tenant_tx("acme") as tx:
        assert tx.usage.totals(begins) == [total]


def test_rejections_without_a_known_service_are_counted(crypto: Database) -> None:
    refused = some_uses(
        service="", operation=CryptoOperation.CONNECT, refusal="client_not_authorized", count=1, bytes=0
    )
    with crypto.tenant_tx("acme") as tx:
        tx.usage.add([refused], "a")
        assert tx.usage.between(NOW, NOW + HOUR) == [UsageRow(NOW, "", CryptoOperation.CONNECT, 1, 1, 0)]
        assert used(tx.usage.sums_and_causes(Days(TODAY, TODAY))[0]) == [
            UsageSum("", CryptoOperation.CONNECT, "client_not_authorized", 1, 0)
        ]


def test_batch_without_rows_is_recorded(crypto: Database) -> None:
    with crypto.tenant_tx("acme") as tx:
        assert tx.usage.add([], "a")
        assert not tx.usage.add([some_uses()], "a")


def test_concurrent_processes_lose_no_counts(crypto: Database) -> None:
    services = [f"service-{number}" for number in range(6)]

    def count(process: int) -> None:
        for turn in range(8):
            order = services if process % 2 else services[::-1]
            with crypto.tenant_tx("acme") as tx:
                tx.usage.add([some_uses(service) for service in order], f"{process}-{turn}")

    at_once(*(partial(count, process) for process in range(4)))
    with crypto.tenant_tx("acme") as tx:
        assert [row.count for row in tx.usage.between(NOW, NOW + HOUR)] == [4 * 8 * 10] * 6
        assert [day.used.count for day in tx.usage.days(TODAY, TODAY)] == [4 * 8 * 10] * 6


def test_invalid_count_is_rejected(crypto: Database) -> None:
    for changed in (
        {"minute": NOW + timedelta(seconds=1)},
        {"count": -1},
        {"bytes": -1},
        {"service": "X"},
        {"latency": Latency((1,) * 39)},
        {"latency": Latency((-1, *(0,) * 39))},
        {"latency": Latency(microseconds=-1)},
    ):
        with pytest.raises(DatabaseRefused, match=r"23502|23514"), crypto.tenant_tx("acme") as tx:
            tx.usage.add([some_uses(**changed)], "a")
    with crypto.tenant_tx("acme") as tx:
        assert tx.usage.between(NOW, NOW + HOUR) == []
        assert tx.usage.add([some_uses()], "a")


def test_utc_day_sums_its_minutes_batches_and_latencies(crypto: Database) -> None:
    midnight = NOW.replace(hour=0)
    with crypto.tenant_tx("acme") as tx:
        tx.usage.add([some_uses(latency=took(40, 50)), some_uses(minute=midnight, latency=took(40))], "a")
        tx.usage.add([some_uses(latency=took(9_000_000)), some_uses(minute=midnight - timedelta(minutes=1))], "b")
        assert not tx.usage.add([some_uses()], "b")
        assert tx.usage.days(TODAY - DAY, TODAY) == [
            UsageDay(TODAY - DAY, SOME_OF_A_DAY),
            UsageDay(TODAY, replace(SOME_OF_A_DAY, count=30, bytes=3000, latency=took(40, 50, 40, 9_000_000))),
        ]
        assert used(tx.usage.sums_and_causes(Days(TODAY - DAY, TODAY))[0]) == [
            replace(SOME_OF_A_DAY, count=40, bytes=4000, latency=took(40, 50, 40, 9_000_000))
        ]


def test_sums_are_separate_by_service_operation_and_error(crypto: Database) -> None:
    denied = some_uses("users", operation=GET, refusal="object_not_found", count=2, bytes=0)
    with crypto.tenant_tx("acme") as tx:
        tx.usage.add([denied, some_uses("users", operation=GET), some_uses(), some_uses(minute=NOW - DAY)], "a")
        assert used(tx.usage.sums_and_causes(Days(TODAY - DAY, TODAY))[0]) == [
            replace(SOME_OF_A_DAY, count=20, bytes=2000),
            UsageSum("users", GET, "", 10, 1000),
            UsageSum("users", GET, "object_not_found", 2, 0),
        ]
        assert tx.usage.sums_and_causes(Days(TODAY + DAY, TODAY + 2 * DAY))[0] == []


def test_counts_cover_the_requested_operations_and_part(crypto: Database) -> None:
    midnight, hour = NOW.replace(hour=0, minute=0), NOW.replace(minute=0)
    days, hours = Days(TODAY - DAY, TODAY), Hours(hour - HOUR, hour + HOUR)
    with crypto.tenant_tx("acme") as tx:
        tx.usage.add([some_uses(), some_uses("users", refusal="x"), some_uses(operation=GET, minute=NOW - DAY)], "a")
        tx.usage.add([some_uses(minute=NOW - HOUR, count=3), some_uses(minute=NOW + HOUR, count=100)], "b")
        assert tx.usage.counts(days, "operation", {ENCRYPT, GET}) == [
            UsageCount(midnight - DAY, "get", 10),
            UsageCount(midnight, "encrypt", 123),
        ]
        assert tx.usage.counts(days, "operation", {GET})[0].day == TODAY - DAY
        assert tx.usage.counts(hours, "service", {ENCRYPT}) == [
            UsageCount(hour - HOUR, "orders", 3),
            UsageCount(hour, "orders", 10),
            UsageCount(hour, "users", 10),
        ]
        assert tx.usage.counts(Days(TODAY, TODAY), "service", {GET}) == []


def test_rejections_are_counted_by_cause_over_time_and_by_service_with_their_first_and_last_time(
    crypto: Database,
) -> None:
    midnight, hour = NOW.replace(hour=0, minute=0), NOW.replace(minute=0)
    later = NOW + timedelta(minutes=7)
    locked = some_uses(refusal="locked", count=2, bytes=0)
    with crypto.tenant_tx("acme") as tx:
        tx.usage.add([some_uses(), locked, replace(locked, minute=later), replace(locked, minute=NOW - DAY)], "a")
        tx.usage.add([replace(locked, service="users", refusal="down", operation=GET, minute=NOW - HOUR)], "b")
        days, hours = Days(TODAY - DAY, TODAY), Hours(hour - HOUR, hour + HOUR)
        assert tx.usage.sums_and_causes(days)[0][1:] == [
            SpanSum(UsageSum("orders", ENCRYPT, "locked", 6, 0), midnight - DAY, midnight),
            SpanSum(UsageSum("users", GET, "down", 2, 0), midnight, midnight),
        ]
        assert tx.usage.sums_and_causes(hours)[0][1:] == [
            SpanSum(UsageSum("orders", ENCRYPT, "locked", 4, 0), hour, later),
            SpanSum(UsageSum("users", GET, "down", 2, 0), hour - HOUR, NOW - HOUR),
        ]
        assert tx.usage.sums_and_causes(days)[1] == [
            UsageCount(midnight - DAY, "locked", 2),
            UsageCount(midnight, "down", 2),
            UsageCount(midnight, "locked", 4),
        ]
        assert tx.usage.sums_and_causes(hours)[1] == [UsageCount(hour - HOUR, "down", 2), UsageCount(hour, "locked", 4)]
        assert [one.refusal for one in used(tx.usage.sums_and_causes(hours)[0])] == ["", "locked", "down"]


def test_latencies_are_those_of_successful_uses_in_hours_and_days_that_have_one(crypto: Database) -> None:
    midnight, hour = NOW.replace(hour=0, minute=0), NOW.replace(minute=0)
    slow = some_uses(minute=NOW - 2 * HOUR, latency=took(9000))
    with crypto.tenant_tx("acme") as tx:
        tx.usage.add([some_uses(latency=took(40)), some_uses("users", latency=took(50)), slow], "a")
        tx.usage.add([some_uses(refusal="x", latency=took(7), minute=NOW - HOUR)], "b")
        tx.usage.add([some_uses(operation=GET, latency=took(7))], "c")
        assert tx.usage.latencies(Hours(hour - 2 * HOUR, hour + HOUR), {ENCRYPT}) == [
            UsageLatency(hour - 2 * HOUR, took(9000)),
            UsageLatency(hour, took(40, 50)),
        ]
        assert tx.usage.latencies(Days(TODAY, TODAY), {ENCRYPT}) == [UsageLatency(midnight, took(9000, 40, 50))]


def by_month(counts: Sequence[UsageCount]) -> list[UsageCount]:
    found = Counter[tuple[datetime, str]]()
    for one in counts:
        found[one.begins.replace(day=1), one.part] += one.count
    return [UsageCount(begins, part, count) for (begins, part), count in sorted(found.items())]


def latencies_by_month(latencies: Sequence[UsageLatency]) -> list[UsageLatency]:
    found = defaultdict[datetime, Latency](Latency)
    for one in latencies:
        month, new = one.begins.replace(day=1), one.latency
        found[month] = Latency(
            tuple(map(sum, zip(found[month].counts, new.counts, strict=True))),
            found[month].microseconds + new.microseconds,
        )
    return [UsageLatency(*item) for item in sorted(found.items())]


def test_months_have_the_sums_of_their_days(field: Field, crypto: Database) -> None:
    """Also for days that an earlier release counted, and if retention has deleted months, or one of them in part."""
    chance, today = random.Random(30), datetime.now(UTC)  # noqa: S311 - sample data only
    uses = [
        some_uses(
            chance.choice(("orders", "users")),
            operation=chance.choice((ENCRYPT, GET)),
            refusal=chance.choice(("", "", "locked", "down")),
            minute=today.replace(second=0, microsecond=0) - chance.randrange(130) * DAY,
            count=chance.randrange(1, 1000),
            latency=took(*(chance.randrange(1, 10_000) for _ in range(3))),
        )
        for _ in range(300)
    ]
    for number in range(0, len(uses), 10):
        with crypto.tenant_tx("acme") as tx:
            tx.usage.add(uses[number : number + 10], str(number))
    dashboard = field.open("dashboard")
    partly = (
        "delete from okcm.usage_month where service = 'orders' and month = (select min(month) from okcm.usage_month)"
    )
    for months_ago, deletion in (
        (6, None),
        (6, partly),  # retention works in batches
        (3, "delete from okcm.usage_month where month < okcm.usage_months_since()"),
        (2, "delete from okcm.usage_month where month < okcm.usage_months_since()"),
        (6, "delete from okcm.usage_month"),
    ):
        with field.administrator() as administrator:
            administrator.execute("update okcm.schema_migration set applied_at = %s", [today - months_ago * 31 * DAY])
            if deletion:
                assert administrator.execute(deletion).rowcount
        ends = [(chance.randrange(165), chance.randrange(165)) for _ in range(25)] + [(164, 0), (0, 0)]
        with dashboard.tenant_tx("acme") as tx:
            for one, other in ends:
                first, last = today.date() - max(one, other) * DAY, today.date() - min(one, other) * DAY
                months, days = Months(first, last), Days(first, last)
                sums, causes = tx.usage.sums_and_causes(days)
                assert tx.usage.sums_and_causes(months) == (sums, by_month(causes))
                for part in ("service", "operation"):
                    assert tx.usage.counts(months, part, {ENCRYPT}) == by_month(tx.usage.counts(days, part, {ENCRYPT}))
                assert tx.usage.latencies(months, {GET}) == latencies_by_month(tx.usage.latencies(days, {GET}))


def test_months_are_read_from_the_second_one_after_the_upgrade(field: Field, crypto: Database) -> None:
    """A batch from before the upgrade can be late, so that the month of the upgrade, and earlier ones, lack uses."""
    with field.administrator() as administrator:
        for applied, since in (("2026-11-05", "2026-12-01"), ("2026-11-30 00:00:01", "2027-01-01")):
            administrator.execute("update okcm.schema_migration set applied_at = %s", [f"{applied}+00"])
            row = administrator.execute("select okcm.usage_months_since()::text").fetchone()
            assert row == (since,)
        administrator.execute("update okcm.schema_migration set applied_at = now()")
    with crypto.tenant_tx("acme") as tx:
        # The oldest month is never read, so the incomplete one is the second.
        tx.usage.add([some_uses(minute=NOW - 340 * DAY), some_uses(minute=NOW - 300 * DAY)], "late")
    with field.administrator() as administrator:
        administrator.execute("update okcm.usage_month set count = 0")
    first = TODAY - 350 * DAY
    with field.open("dashboard").tenant_tx("acme") as tx:
        assert tx.usage.sums_and_causes(Months(first, TODAY)) == tx.usage.sums_and_causes(Days(first, TODAY))


@pytest.mark.parametrize(
    ("first", "last", "since", "today", "whole"),
    [
        ("2026-01-01", "2026-03-31", "2020-01-01", "2026-09-09", ("2026-01-01", "2026-04-01")),
        ("2026-01-02", "2026-03-30", "2020-01-01", "2026-09-09", ("2026-02-01", "2026-03-01")),
        ("2025-12-15", "2026-02-10", "2020-01-01", "2026-02-10", ("2026-01-01", "2026-03-01")),
        ("2025-12-15", "2026-02-10", "2020-01-01", "2026-02-11", ("2026-01-01", "2026-02-01")),
        ("2025-12-01", "2026-02-10", "2026-02-01", "2026-02-10", ("2026-02-01", "2026-03-01")),
        ("2025-12-01", "2026-02-10", "2026-03-01", "2026-02-10", ("2026-02-11", "2026-02-11")),
        ("2026-02-02", "2026-02-28", "2020-01-01", "2026-02-10", ("2026-03-01", "2026-03-01")),
        ("2024-02-29", "2024-02-29", "2020-01-01", "2024-02-29", ("2024-03-01", "2024-03-01")),
    ],
)
def test_whole_months_of_a_span(first: str, last: str, since: str, today: str, whole: tuple[str, str]) -> None:
    span = Months(date.fromisoformat(first), date.fromisoformat(last))
    found = span.whole(date.fromisoformat(since), date.fromisoformat(today))
    assert found == tuple(map(date.fromisoformat, whole))


def test_first_day_belongs_to_the_tenant(crypto: Database) -> None:
    with crypto.tenant_tx("acme") as tx:
        assert tx.usage.first_day() is None
        tx.usage.add([some_uses(), some_uses(minute=NOW - 3 * DAY)], "a")
        assert tx.usage.first_day() == TODAY - 3 * DAY
    with crypto.tenant_tx("beta") as tx:
        assert tx.usage.first_day() is None


def test_successful_uses_are_returned_by_service_day_and_operation(crypto: Database) -> None:
    old = some_uses(operation=GET, count=2, minute=NOW - 40 * DAY)
    refused = some_uses("users", operation=GET, refusal="object_not_found", count=5, bytes=0)
    with crypto.tenant_tx("acme") as tx:
        tx.usage.add([some_uses(), old, refused], "a")
    with crypto.tenant_tx("beta") as tx:
        tx.usage.add([some_uses(count=7)], "a")
    with crypto.tenant_tx("acme") as tx:
        assert tx.usage.answered(TODAY - 29 * DAY, TODAY, {ENCRYPT, GET}) == [AnsweredDay("orders", TODAY, ENCRYPT, 10)]
        assert tx.usage.answered(TODAY - 60 * DAY, TODAY, {GET}) == [AnsweredDay("orders", TODAY - 40 * DAY, GET, 2)]
        assert tx.usage.last_answered(GET) == {"orders": TODAY - 40 * DAY}
        assert tx.usage.last_answered(CryptoOperation.MAC) == {}
