"""Retention: every table has one or a limit, and the database deletes only expired rows of the signed tenant."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from core.errors.platform import DatabaseRefused
from core.retention import ARCHIVED, DELETED, LIMITED
from core.scheduled import ScheduledTask
from database.connection.database import Database
from database.offboarding import _OF_LAST_EVENT
from database.platform.retention import RetentionQueries
from database.postgres.access import PLATFORM
from tests.database.builders import a_dead_letter, a_provisioned_tenant
from tests.database.fixtures import Field
from tests.database.templates import filled_template, two_tenants

ACME, BETA = "acme", "beta"


def fill(field: Field) -> None:
    two_tenants(active=True, root_keys=True)(field)
    for tenant in (ACME, BETA):
        a_dead_letter(field, tenant)


template = filled_template(fill)


@pytest.fixture
def administrator(field: Field) -> Iterator[psycopg.Connection]:
    with field.administrator() as connection:
        yield connection


def rules(administrator: psycopg.Connection) -> dict[str, tuple[str, int]]:
    rows = administrator.execute("select name, age, minimum from okcm.retention_rules()").fetchall()
    return {name: (age, minimum) for name, age, minimum in rows}


def test_every_table_has_a_retention_or_a_limit(administrator: psycopg.Connection) -> None:
    """Fails for a new table until core/retention.py says how it is kept from growing without an end."""
    tables = administrator.execute(
        "select relname from pg_class where relnamespace = 'okcm'::regnamespace and relkind in ('r', 'p')"
        " and not relispartition"
    ).fetchall()
    declared = [*DELETED, *ARCHIVED, *LIMITED]
    assert sorted(declared) == sorted(name for (name,) in tables)


def test_minima_equal_those_of_the_database_and_defaults_are_not_below(administrator: psycopg.Connection) -> None:
    assert {table: one.minimum for table, one in DELETED.items()} == {
        table: minimum for table, (_, minimum) in rules(administrator).items()
    }
    assert [table for table, one in DELETED.items() if one.days < one.minimum] == []


def count(administrator: psycopg.Connection, table: str, tenant: str) -> int:
    [row] = administrator.execute(f"select count(*) from okcm.{table} where tenant_id = %s", [tenant]).fetchall()
    return int(row[0])


def aged(administrator: psycopg.Connection, table: str, days: int, where: str = "tenant_id = 'acme'") -> None:
    """Move the rows into the past; the results of an assessment move with its lines."""
    age, _ = rules(administrator)[table]
    value, others = f"date_trunc('hour', now()) - interval '{days} days'", ""
    if table == "service_certificate":
        others = ", not_before = now() - interval '9999 days'"
    if table == "usage_month":  # the first day of a month, which is younger than a number of days below the retention
        later = 1 if days < DELETED[table].minimum else 0
        value = f"date_trunc('month', now() - interval '{days} days') + interval '{later} months'"
    administrator.execute(f"update okcm.{table} set {age} = {value}{others} where {where}")


_STAYS = {"marketplace_event", "operation_step", "root_key_change", "rotation", "service_certificate"}
"""Tables that keep the newest expired row of a tenant or service."""
_SEPARATE = {"boundary_result", "boundary_clause"}
"""Tested in tests/database/connection/test_examinations.py."""


@pytest.mark.parametrize("table", sorted(DELETED.keys() - _SEPARATE))
def test_rows_are_deleted_after_their_retention_and_not_before(
    worker: Database, administrator: psycopg.Connection, table: str
) -> None:
    queries, days = RetentionQueries(worker), DELETED[table].minimum
    administrator.execute(
        "update okcm.enrolment set state = 'issued', settled_at = now();"
        "update okcm.approval set state = 'withdrawn', expires_at = now();"
        "update okcm.root_key_request set sealed = null;"
        "update okcm.marketplace_event set started_at = now()"
    )
    aged(administrator, table, 0, "true")
    before = count(administrator, table, ACME), count(administrator, table, BETA)
    assert before[0] > 0
    aged(administrator, table, days - 1)
    assert queries.tenants_with_expired_rows(table, days, 10) == []
    assert queries.delete_expired_rows(ACME, table, days, 100) == 0
    aged(administrator, table, days + 2)
    assert queries.delete_expired_rows(BETA, table, days, 100) == 0
    unsent = count(administrator, "outbox", ACME) - 1
    kept = before[0] if table in _STAYS else unsent if table == "outbox" else 0
    assert queries.tenants_with_expired_rows(table, days, 10) == ([] if table in _STAYS else [(ACME, None)])
    assert queries.delete_expired_rows(ACME, table, days, 100) == before[0] - kept
    assert (count(administrator, table, ACME), count(administrator, table, BETA)) == (kept, before[1])
    assert queries.tenants_with_expired_rows(table, days, 10) == []


def test_newest_rows_that_other_operations_need_stay(worker: Database, administrator: psycopg.Connection) -> None:
    queries = RetentionQueries(worker)
    administrator.execute(
        "insert into okcm.marketplace_event (tenant_id, event_id, kind, organization, region, occurred_at, started_at)"
        " select 'acme', 'e' || n, case n when 3 then 'service_discovered' when 2 then 'service_enabled'"
        "  else 'service_disabled' end, 'x', 'x', timestamptz '2000-01-01' + n * interval '1 day', now()"
        " from generate_series(1, 3) n;"
        "delete from okcm.marketplace_event where tenant_id = 'acme' and event_id = 'event-1';"
        "insert into okcm.rotation (tenant_id, number, tenant_key, from_version, services, state)"
        " select 'acme', n, true, 1, 'none', case when n > 4 then 'failed' else 'done' end"
        " from generate_series(2, 6) n;"
        "insert into okcm.operation_step (tenant_id, operation_id, step, number)"
        " select 'acme', 'old', 'step', 1;"
        "insert into okcm.service_certificate (tenant_id, serial, service, generation, request_id, certificate_pem,"
        " not_before, not_after, authority) select tenant_id, 'cc' || n, service, n, request_id, 'x', not_before,"
        " not_after, authority from okcm.service_certificate, generate_series(2, 4) n where tenant_id = 'acme'"
    )
    for table in ("marketplace_event", "rotation", "service_certificate"):
        aged(administrator, table, 2000)
    aged(administrator, "operation_step", 2000, "operation_id = 'old'")
    aged(administrator, "operation_step", 1000, "tenant_id = 'acme' and operation_id <> 'old'")
    for table in ("marketplace_event", "rotation", "service_certificate", "operation_step"):
        queries.delete_expired_rows(ACME, table, DELETED[table].days, 100)

    def left(table: str, column: str) -> set[object]:
        rows = administrator.execute(f"select {column} from okcm.{table} where tenant_id = 'acme'").fetchall()
        return {value for (value,) in rows}

    assert left("marketplace_event", "event_id") == {"e2"}
    assert left("rotation", "number") == {4, 5, 6}
    assert left("service_certificate", "generation") == {4}
    assert left("operation_step", "operation_id") == {"provision-1"}


@pytest.mark.parametrize("stated", [500, -4000], ids=["past by now", "still in the future"])
def test_last_event_of_the_marketplace_stays_also_with_a_wrong_time_of_another(
    worker: Database, administrator: psycopg.Connection, stated: int
) -> None:
    """An early disable states a time long after its acceptance; the later enable is the last word."""
    queries, days = RetentionQueries(worker), DELETED["marketplace_event"].days
    administrator.execute("delete from okcm.marketplace_event where tenant_id = 'acme'")
    for event_id, kind, accepted, occurred in (
        ("c", "service_enabled", 2000, 2000),
        ("b", "service_disabled", 1900, stated),
        ("a", "service_enabled", 1800, 1801),
        ("d", "service_enabled", 1800, 1801),
    ):
        administrator.execute(
            "insert into okcm.marketplace_event"
            " (tenant_id, event_id, kind, organization, region, occurred_at, accepted_at, started_at)"
            " select 'acme', %s, %s, 'x', 'x', today - %s * interval '1 day', today - %s * interval '1 day', today"
            " from date_trunc('day', now()) today",
            [event_id, kind, occurred, accepted],
        )

    def last() -> tuple[object, ...]:
        [row] = administrator.execute(f"select e.event_id, e.kind {_OF_LAST_EVENT}", [ACME]).fetchall()
        return row

    before = last()
    assert before[1] == "service_enabled"
    while queries.delete_expired_rows(ACME, "marketplace_event", days, 1):
        assert last() == before
    assert count(administrator, "marketplace_event", ACME) == 1


def test_open_work_is_never_deleted(worker: Database, administrator: psycopg.Connection) -> None:
    queries = RetentionQueries(worker)
    administrator.execute(
        "update okcm.rotation set state = 'running'; update okcm.root_key_change set state = 'running';"
        "update okcm.root_key_request set sealed = 'x'; update okcm.marketplace_event set started_at = null;"
        "update okcm.outbox set sent_at = null, expired_at = null; update okcm.approval set state = 'pending',"
        " expires_at = now()"
    )
    open_work = "rotation root_key_change root_key_request marketplace_event outbox approval enrolment"
    for table in open_work.split():
        before = count(administrator, table, ACME)
        aged(administrator, table, 5000)
        assert queries.tenants_with_expired_rows(table, DELETED[table].days, 10) == []
        assert queries.delete_expired_rows(ACME, table, DELETED[table].days, 100) == 0
        assert count(administrator, table, ACME) == before > 0


def test_request_stays_while_certificates_are_issued_for_it(
    worker: Database, administrator: psycopg.Connection
) -> None:
    administrator.execute("update okcm.service_request set used_at = now() - interval '3 years'")
    with worker.tenant_tx(ACME) as tx:
        leaf = tx.services.leaf("orders")
        assert leaf is not None
        tx.services.record_leaf(leaf._replace(serial="cc", generation=2, request_id="request-orders"))
    queries = RetentionQueries(worker)
    assert [queries.delete_expired_rows(one, "service_request", 400, 10) for one in (ACME, BETA)] == [0, 1]


def test_deletion_stops_at_its_limit_and_takes_the_oldest_first(
    worker: Database, administrator: psycopg.Connection
) -> None:
    administrator.execute(
        "insert into okcm.usage_batch (tenant_id, batch_id, added_at)"
        " select t, 'batch-' || n, now() - interval '91 days' - n * interval '1 day'"
        " from unnest(array['acme', 'beta']) t, generate_series(1, 5) n where t = 'acme' or n = 5"
    )
    administrator.execute(
        "update okcm.usage_batch set added_at = added_at - interval '1 hour' where tenant_id = 'beta'"
    )
    queries = RetentionQueries(worker)
    assert queries.tenants_with_expired_rows("usage_batch", 90, 10) == [(BETA, None), (ACME, None)]
    assert queries.tenants_with_expired_rows("usage_batch", 90, 1) == [(BETA, None)]
    with worker.tenant_tx(BETA) as tx:
        tx.tenants.record_attempt(ScheduledTask.ROW_RETENTION)
    [(first, never), (second, tried)] = queries.tenants_with_expired_rows("usage_batch", 90, 10)
    assert (first, never, second) == (ACME, None, BETA)
    assert tried is not None
    assert [queries.delete_expired_rows(ACME, "usage_batch", 90, 2) for _ in range(4)] == [2, 2, 1, 0]
    kept = administrator.execute("select batch_id from okcm.usage_batch where tenant_id = 'acme'").fetchall()
    assert kept == [("batch-orders",)]


@pytest.mark.parametrize("table", ["outbox", "audit_event", "managed_object", "tenant", "service_key"])
def test_less_days_than_the_minimum_and_other_tables_are_rejected(worker: Database, table: str) -> None:
    queries = RetentionQueries(worker)
    for days in (0, -5000, 29):
        for call in (
            lambda: queries.delete_expired_rows(ACME, table, days, 10),  # noqa: B023 - called at once
            lambda: queries.tenants_with_expired_rows(table, days, 10),  # noqa: B023 - called at once
        ):
            with pytest.raises(DatabaseRefused, match="23514"):
                call()


def test_deletion_needs_the_context_of_one_tenant(worker: Database, administrator: psycopg.Connection) -> None:
    aged(administrator, "usage_minute", 5000, "true")
    with pytest.raises(DatabaseRefused, match="42501"), worker.raw_tx(PLATFORM) as connection:
        connection.execute("select okcm.delete_expired_rows('usage_minute', 90, 10)")
    with pytest.raises(DatabaseRefused, match="42501"), worker.raw_tx(ACME) as connection:
        connection.execute("select okcm.tenants_with_expired_rows('usage_minute', 90, 10)")
    assert count(administrator, "usage_minute", ACME) == count(administrator, "usage_minute", BETA) == 1


def test_careless_function_deletes_no_young_row_and_no_row_of_another_tenant(
    worker: Database, administrator: psycopg.Connection
) -> None:
    """The attack: a function of the owner that deletes all rows of a table, in the context of one tenant."""
    administrator.execute(
        "create function okcm.careless() returns void language plpgsql security definer"
        " set search_path = pg_catalog, pg_temp"
        " as $$ begin delete from okcm.usage_batch; delete from okcm.report; end $$;"
        "alter function okcm.careless() owner to okcm_owner;"
        "grant execute on function okcm.careless() to okcm_worker"
    )
    aged(administrator, "usage_batch", 91, "true")
    aged(administrator, "report", 89, "true")
    with worker.raw_tx(ACME) as connection:
        connection.execute("select okcm.careless()")
    left = [count(administrator, table, tenant) for table in ("usage_batch", "report") for tenant in (ACME, BETA)]
    assert left == [0, 1, 1, 1]


def test_steps_from_tenant_to_tenant_read_no_large_table(worker: Database, administrator: psycopg.Connection) -> None:
    administrator.execute(
        "insert into okcm.usage_minute select 'acme', date_trunc('minute', now()) - n * interval '1 minute', 'orders',"
        " 'encrypt', 1, 0, 1 from generate_series(1, 40000) n on conflict do nothing; analyze okcm.usage_minute"
    )
    began = datetime.now(UTC)
    assert RetentionQueries(worker).tenants_with_expired_rows("usage_minute", 90, 10) == []
    assert datetime.now(UTC) - began < timedelta(seconds=0.5)


def test_deleted_certificate_that_is_expired_notifies_no_cache(
    worker: Database, administrator: psycopg.Connection
) -> None:
    administrator.execute("listen okcm_changed")
    administrator.execute(
        "insert into okcm.service_certificate (tenant_id, serial, service, generation, request_id, certificate_pem,"
        " not_before, not_after, authority) select tenant_id, 'cc', service, 2, request_id, 'x', not_before,"
        " not_after, authority from okcm.service_certificate where tenant_id = 'acme'"
    )
    aged(administrator, "service_certificate", 2000)
    list(administrator.notifies(timeout=0.1))
    assert RetentionQueries(worker).delete_expired_rows(ACME, "service_certificate", 400, 10) == 1
    assert list(administrator.notifies(timeout=0.1)) == []


def test_tenant_without_rows_has_nothing_to_delete(worker: Database) -> None:
    a_provisioned_tenant(worker, "gamma")
    assert RetentionQueries(worker).delete_expired_rows("gamma", "usage_minute", 90, 10) == 0
