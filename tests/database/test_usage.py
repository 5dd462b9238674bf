import threading
from datetime import timedelta

import pytest

from database.connection import Database
from database.interfaces import UsageTotalRow
from tenancy.errors import DatabaseRefused
from tenancy.services import CryptoOperation
from tests.database.builders import NOW, a_provisioned_tenant, some_usage
from tests.database.fixtures import Field

HOUR = timedelta(hours=1)


@pytest.fixture
def crypto(field: Field, worker: Database) -> Database:
    a_provisioned_tenant(worker, "acme")
    a_provisioned_tenant(worker, "beta")
    return field.open("crypto")


def test_counts_of_the_same_minute_add_up_within_a_batch_and_across(crypto: Database) -> None:
    get = some_usage(operation=CryptoOperation.GET, count=1, refused=0, bytes=32)
    with crypto.tenant_tx("acme") as tx:
        assert tx.usage.add([some_usage(), get, some_usage()], "a")
        assert tx.usage.add([some_usage(minute=NOW + timedelta(minutes=1)), some_usage()], "b")
        assert tx.usage.between(NOW, NOW + HOUR) == [
            some_usage(count=30, refused=3, bytes=3000),
            get,
            some_usage(minute=NOW + timedelta(minutes=1)),
        ]


def test_a_batch_delivered_again_adds_nothing_and_another_tenants_is_another(crypto: Database) -> None:
    with crypto.tenant_tx("acme") as tx:
        assert tx.usage.add([some_usage()], "a")
        assert not tx.usage.add([some_usage()], "a")
    with crypto.tenant_tx("acme") as tx:
        assert not tx.usage.add([some_usage(service="users")], "a")
        assert tx.usage.between(NOW, NOW + HOUR) == [some_usage()]
    with crypto.tenant_tx("beta") as tx:
        assert tx.usage.between(NOW, NOW + HOUR) == []
        assert tx.usage.add([some_usage()], "a")


def test_a_batch_whose_transaction_failed_is_counted_when_it_comes_again(crypto: Database) -> None:
    with pytest.raises(ZeroDivisionError), crypto.tenant_tx("acme") as tx:  # noqa: PT012 - what raises is the whole
        tx.usage.add([some_usage()], "a")
        raise ZeroDivisionError
    with crypto.tenant_tx("acme") as tx:
        assert tx.usage.add([some_usage()], "a")
        assert tx.usage.between(NOW, NOW + HOUR) == [some_usage()]


def test_the_end_of_a_range_is_not_in_it(crypto: Database) -> None:
    with crypto.tenant_tx("acme") as tx:
        tx.usage.add([some_usage(minute=NOW + minutes * timedelta(minutes=1)) for minutes in range(4)], "a")
        found = tx.usage.between(NOW + timedelta(minutes=1), NOW + timedelta(minutes=3))
    assert [row.minute - NOW for row in found] == [timedelta(minutes=1), timedelta(minutes=2)]


def test_totals_add_the_minutes_of_a_range_up_for_each_service_and_operation(crypto: Database) -> None:
    minute = timedelta(minutes=1)
    with crypto.tenant_tx("acme") as tx:
        tx.usage.add([some_usage(minute=NOW + number * minute) for number in range(4)], "a")
        tx.usage.add([some_usage("users", operation=CryptoOperation.GET, count=1, refused=0)], "b")
    with crypto.tenant_tx("beta") as tx:
        tx.usage.add([some_usage()], "a")
    with crypto.tenant_tx("acme") as tx:
        assert tx.usage.totals(NOW, NOW + 3 * minute) == [
            UsageTotalRow("orders", CryptoOperation.ENCRYPT, 30, 3, NOW + 2 * minute),
            UsageTotalRow("users", CryptoOperation.GET, 1, 0, NOW),
        ]
        assert tx.usage.totals(NOW + HOUR, NOW + 2 * HOUR) == []


def test_refusals_are_counted_where_no_service_is_on_record(crypto: Database) -> None:
    refused = some_usage(service="", operation=CryptoOperation.CONNECT, count=1, bytes=0)
    with crypto.tenant_tx("acme") as tx:
        tx.usage.add([refused], "a")
        assert tx.usage.between(NOW, NOW + HOUR) == [refused]


def test_a_batch_without_rows_is_remembered_too(crypto: Database) -> None:
    with crypto.tenant_tx("acme") as tx:
        assert tx.usage.add([], "a")
        assert not tx.usage.add([some_usage()], "a")


def test_processes_that_count_at_once_lose_nothing(crypto: Database) -> None:
    services = [f"service-{number}" for number in range(6)]

    def count(process: int) -> None:
        for turn in range(8):
            order = services if process % 2 else services[::-1]
            with crypto.tenant_tx("acme") as tx:
                tx.usage.add([some_usage(service) for service in order], f"{process}-{turn}")

    threads = [threading.Thread(target=count, args=(process,)) for process in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with crypto.tenant_tx("acme") as tx:
        assert [row.count for row in tx.usage.between(NOW, NOW + HOUR)] == [4 * 8 * 10] * 6


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


@pytest.mark.parametrize(
    "changed", [{"minute": NOW + timedelta(seconds=1)}, {"refused": 11}, {"count": -1}, {"bytes": -1}, {"service": "X"}]
)
def test_what_cannot_be_is_refused_and_not_counted(crypto: Database, changed: dict[str, object]) -> None:
    with pytest.raises(DatabaseRefused, match="23514"), crypto.tenant_tx("acme") as tx:
        tx.usage.add([some_usage(**changed)], "a")
    with crypto.tenant_tx("acme") as tx:
        assert tx.usage.add([some_usage()], "a")
