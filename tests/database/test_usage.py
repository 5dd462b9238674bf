from dataclasses import replace
from datetime import date, timedelta
from functools import partial

import pytest

from core.errors.platform import DatabaseRefused
from core.services import CryptoOperation
from core.usage import Latency
from database.connection.database import Database
from database.schema.migrate import read_migrations
from database.usage import AnsweredDay, DayCount, UsageDay, UsageRow, UsageSum, UsageTotalRow
from tests.concurrency import at_once
from tests.database.builders import NOW, some_uses, took
from tests.database.fixtures import Field
from tests.database.templates import filled_template, two_tenants

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
TODAY = date(2026, 11, 25)
ENCRYPT, GET = CryptoOperation.ENCRYPT, CryptoOperation.GET
SOME = UsageRow(NOW, "orders", ENCRYPT, 10, 0, 1000)
SOME_OF_A_DAY = UsageSum("orders", ENCRYPT, "", 10, 1000)


template = filled_template(two_tenants(services=False))


@pytest.fixture
def crypto(field: Field) -> Database:
    return field.open("crypto")


def test_counts_of_the_same_minute_add_up_within_a_batch_and_across(crypto: Database) -> None:
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


def test_a_batch_delivered_again_adds_nothing_and_another_tenants_is_another(crypto: Database) -> None:
    with crypto.tenant_tx("acme") as tx:
        assert tx.usage.add([some_uses()], "a")
        assert not tx.usage.add([some_uses()], "a")
    with crypto.tenant_tx("acme") as tx:
        assert not tx.usage.add([some_uses(service="users")], "a")
        assert tx.usage.between(NOW, NOW + HOUR) == [SOME]
    with crypto.tenant_tx("beta") as tx:
        assert tx.usage.between(NOW, NOW + HOUR) == []
        assert tx.usage.add([some_uses()], "a")


def test_a_batch_whose_transaction_failed_is_counted_when_it_comes_again(crypto: Database) -> None:
    with pytest.raises(ZeroDivisionError), crypto.tenant_tx("acme") as tx:  # noqa: PT012 - what raises is the whole
        tx.usage.add([some_uses()], "a")
        raise ZeroDivisionError
    with crypto.tenant_tx("acme") as tx:
        assert tx.usage.add([some_uses()], "a")
        assert tx.usage.between(NOW, NOW + HOUR) == [SOME]


def test_the_end_of_a_range_is_not_in_it(crypto: Database) -> None:
    with crypto.tenant_tx("acme") as tx:
        tx.usage.add([some_uses(minute=NOW + minutes * timedelta(minutes=1)) for minutes in range(4)], "a")
        found = tx.usage.between(NOW + timedelta(minutes=1), NOW + timedelta(minutes=3))
    assert [row.minute - NOW for row in found] == [timedelta(minutes=1), timedelta(minutes=2)]


def test_totals_add_the_minutes_of_a_range_up_for_each_service_and_operation(crypto: Database) -> None:
    minute = timedelta(minutes=1)
    with crypto.tenant_tx("acme") as tx:
        tx.usage.add([some_uses(minute=NOW + number * minute) for number in range(4)], "a")
        tx.usage.add([some_uses("users", operation=GET, refusal="object_not_found", count=1)], "b")
    with crypto.tenant_tx("beta") as tx:
        tx.usage.add([some_uses()], "a")
    with crypto.tenant_tx("acme") as tx:
        assert tx.usage.totals(NOW, NOW + 3 * minute) == [
            UsageTotalRow("orders", ENCRYPT, 30, 0, NOW + 2 * minute),
            UsageTotalRow("users", GET, 1, 1, NOW),
        ]
        assert tx.usage.totals(NOW + HOUR, NOW + 2 * HOUR) == []


def test_refusals_are_counted_where_no_service_is_on_record(crypto: Database) -> None:
    refused = some_uses(service="", operation=CryptoOperation.CONNECT, refusal="caller_refused", count=1, bytes=0)
    with crypto.tenant_tx("acme") as tx:
        tx.usage.add([refused], "a")
        assert tx.usage.between(NOW, NOW + HOUR) == [UsageRow(NOW, "", CryptoOperation.CONNECT, 1, 1, 0)]
        assert tx.usage.sums(TODAY, TODAY) == [UsageSum("", CryptoOperation.CONNECT, "caller_refused", 1, 0)]


def test_a_batch_without_rows_is_remembered_too(crypto: Database) -> None:
    with crypto.tenant_tx("acme") as tx:
        assert tx.usage.add([], "a")
        assert not tx.usage.add([some_uses()], "a")


def test_processes_that_count_at_once_lose_nothing(crypto: Database) -> None:
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


def test_old_batches_are_forgotten_when_new_ones_come(crypto: Database, field: Field) -> None:
    with crypto.tenant_tx("acme") as tx:
        tx.usage.add([], "old")
        tx.usage.add([], "recent")
    with field.administrator() as administrator:
        administrator.execute(
            "update okcm.usage_batch set added_at = now() - interval '91 days' where batch_id = 'old'"
        )
        with crypto.tenant_tx("acme") as tx:
            tx.usage.add([], "new")
        kept = administrator.execute("select batch_id from okcm.usage_batch order by batch_id").fetchall()
    assert kept == [("new",), ("recent",)]


def test_a_count_that_is_impossible_is_rejected_and_not_counted(crypto: Database) -> None:
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


def test_a_day_is_a_utc_day_and_adds_its_minutes_batches_and_latencies_up(crypto: Database) -> None:
    midnight = NOW.replace(hour=0)
    with crypto.tenant_tx("acme") as tx:
        tx.usage.add([some_uses(latency=took(40, 50)), some_uses(minute=midnight, latency=took(40))], "a")
        tx.usage.add([some_uses(latency=took(9_000_000)), some_uses(minute=midnight - timedelta(minutes=1))], "b")
        assert not tx.usage.add([some_uses()], "b")
        assert tx.usage.days(TODAY - DAY, TODAY) == [
            UsageDay(TODAY - DAY, SOME_OF_A_DAY),
            UsageDay(TODAY, replace(SOME_OF_A_DAY, count=30, bytes=3000, latency=took(40, 50, 40, 9_000_000))),
        ]
        assert tx.usage.sums(TODAY - DAY, TODAY) == [
            replace(SOME_OF_A_DAY, count=40, bytes=4000, latency=took(40, 50, 40, 9_000_000))
        ]


def test_sums_keep_services_operations_and_refusals_apart(crypto: Database) -> None:
    denied = some_uses("users", operation=GET, refusal="object_not_found", count=2, bytes=0)
    with crypto.tenant_tx("acme") as tx:
        tx.usage.add([denied, some_uses("users", operation=GET), some_uses(), some_uses(minute=NOW - DAY)], "a")
        assert tx.usage.sums(TODAY - DAY, TODAY) == [
            replace(SOME_OF_A_DAY, count=20, bytes=2000),
            UsageSum("users", GET, "", 10, 1000),
            UsageSum("users", GET, "object_not_found", 2, 0),
        ]
        assert tx.usage.sums(TODAY + DAY, TODAY + 2 * DAY) == []


def test_counts_by_day_are_of_the_operations_and_the_part_that_were_asked_for(crypto: Database) -> None:
    with crypto.tenant_tx("acme") as tx:
        tx.usage.add([some_uses(), some_uses("users", refusal="x"), some_uses(operation=GET, minute=NOW - DAY)], "a")
        assert tx.usage.by_day(TODAY - DAY, TODAY, "operation", {ENCRYPT, GET}) == [
            DayCount(TODAY - DAY, "get", 10),
            DayCount(TODAY, "encrypt", 20),
        ]
        assert tx.usage.by_day(TODAY - DAY, TODAY, "service", {ENCRYPT}) == [
            DayCount(TODAY, "orders", 10),
            DayCount(TODAY, "users", 10),
        ]
        assert tx.usage.by_day(TODAY, TODAY, "service", {GET}) == []


def test_the_first_day_is_the_tenants_own(crypto: Database) -> None:
    with crypto.tenant_tx("acme") as tx:
        assert tx.usage.first_day() is None
        tx.usage.add([some_uses(), some_uses(minute=NOW - 3 * DAY)], "a")
        assert tx.usage.first_day() == TODAY - 3 * DAY
    with crypto.tenant_tx("beta") as tx:
        assert tx.usage.first_day() is None


def test_what_was_counted_before_there_were_days_is_in_them(crypto: Database, field: Field) -> None:
    with crypto.tenant_tx("acme") as tx:
        tx.usage.add([some_uses(), some_uses(refusal="x", count=2, bytes=0), some_uses("users", minute=NOW - DAY)], "a")
    migration = next(migration for migration in read_migrations() if migration.name.startswith("0009"))
    with field.administrator() as administrator:
        administrator.execute("drop table okcm.usage_day")
        administrator.execute("set role okcm_owner")
        administrator.execute(migration.text.encode())
    with crypto.tenant_tx("acme") as tx:
        assert tx.usage.days(TODAY - DAY, TODAY) == [
            UsageDay(TODAY - DAY, replace(SOME_OF_A_DAY, service="users")),
            UsageDay(TODAY, SOME_OF_A_DAY),
            UsageDay(TODAY, UsageSum("orders", ENCRYPT, "not_recorded", 2, 0)),
        ]


def test_what_was_answered_is_told_by_service_day_and_operation_and_refusals_are_not(crypto: Database) -> None:
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
