"""The marketplace's threads for transactions: a lost one fails alone, after an outage the queued ones fail at once."""

import time
from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest

from core.errors.platform import DatabaseUnavailable
from database.connection.database import Database
from marketplace.db_executor import DatabaseExecutor
from tests.database.fixtures import Field


@pytest.fixture
def executor() -> Iterator[DatabaseExecutor]:
    with closing(DatabaseExecutor(1)) as opened:
        yield opened


@pytest.fixture
def database(field: Field) -> Database:
    return field.open("marketplace", max_size=2)


def use(database: Database) -> None:
    with database.tenant_tx("acme") as tx:
        tx.tenants.get()


def end_session(database: Database, administrator: psycopg.Connection) -> None:
    with database.raw_tx("acme") as connection:
        administrator.execute("select pg_terminate_backend(%s, 5000)", [connection.info.backend_pid])
        connection.execute("select 1")


def exceed_idle_time(database: Database, _administrator: psycopg.Connection) -> None:
    with database.raw_tx("acme") as connection:
        connection.execute("set local idle_in_transaction_session_timeout = '20ms'")
        time.sleep(0.1)  # PostgreSQL measures it
        connection.execute("select 1")


def wait_for_a_lock(database: Database, administrator: psycopg.Connection) -> None:
    with administrator.transaction(), database.raw_tx("acme") as connection:
        administrator.execute("select pg_advisory_xact_lock(1)")
        connection.execute("set local lock_timeout = '20ms'; select pg_advisory_xact_lock(1)")


@pytest.mark.parametrize("lose", [end_session, exceed_idle_time, wait_for_a_lock])
async def test_lost_transaction_fails_no_other_one(
    executor: DatabaseExecutor, database: Database, field: Field, lose
) -> None:
    with field.administrator() as administrator:
        with pytest.raises(DatabaseUnavailable):
            await executor.run(lambda: lose(database, administrator))
        await executor.run(lambda: use(database))


async def test_transactions_after_an_outage_fail_at_once(
    executor: DatabaseExecutor, database: Database, field: Field
) -> None:
    with field.server.offline(field.name):
        with pytest.raises(DatabaseUnavailable):
            await executor.run(lambda: use(database))
        began = time.monotonic()
        with pytest.raises(DatabaseUnavailable):
            await executor.run(lambda: use(database))
        assert time.monotonic() - began < 0.5
