"""The scheduled deletion: all tables and tenants, in pieces, and one failure stops no other."""

from functools import partial

import pytest
from temporalio.testing import ActivityEnvironment

from activities import retention
from activities.retention import RowRetentionActivities
from activities.runtime.concurrency import run_for_each_tenant
from core.retention import DELETED, days_of
from database.connection.database import Database
from database.platform.retention import RetentionQueries
from tests.activities.retention.archiving import CountedMetrics
from tests.database.fixtures import Field
from tests.database.templates import filled_template, two_tenants

template = filled_template(two_tenants(active=True))


def run(worker: Database) -> tuple[CountedMetrics, list[object]]:
    metrics, beats = CountedMetrics(), []
    environment = ActivityEnvironment()
    environment.on_heartbeat = lambda *details: beats.append(details)
    environment.run(RowRetentionActivities(worker, RetentionQueries(worker), days_of({}), metrics).delete_expired_rows)
    return metrics, beats


def fill(field: Field, table: str = "usage_batch", rows: int = 7) -> None:
    with field.administrator() as administrator:
        administrator.execute(
            f"insert into okcm.{table} (tenant_id, batch_id, added_at)"
            " select t, 'old-' || n, now() - interval '91 days' from unnest(array['acme', 'beta']) t,"
            f" generate_series(1, {rows}) n"
        )


def test_expired_rows_of_all_tenants_are_deleted_in_pieces(
    worker: Database, field: Field, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_ROWS", 3)
    fill(field)
    metrics, beats = run(worker)
    assert metrics.rows["usage_batch"] == 14
    assert metrics.failures == []
    assert len(beats) >= len(DELETED) + 2 * 3
    assert "usage_batch" not in run(worker)[0].rows


def test_tenant_that_fails_stops_no_other_and_is_counted(worker: Database, field: Field) -> None:
    fill(field)
    with field.administrator() as administrator:
        administrator.execute(
            "create function okcm.fail() returns trigger language plpgsql as $$ begin raise 'no'; end $$;"
            "create trigger fail before delete on okcm.usage_batch for each row when (old.tenant_id = 'acme')"
            " execute function okcm.fail()"
        )
    metrics, _ = run(worker)
    assert (metrics.failures, metrics.rows["usage_batch"]) == (["rows"], 7)


def test_one_tenant_takes_only_a_share_of_a_run(
    worker: Database, field: Field, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_ROWS", 2)
    monkeypatch.setattr(retention, "_PIECES", 2)
    fill(field)
    assert [run(worker)[0].rows.get("usage_batch", 0) for _ in range(3)] == [8, 6, 0]


def test_run_begins_with_the_tenants_that_the_last_one_did_not_reach(
    worker: Database, field: Field, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row of the failing tenant is the oldest, and a run has time for one tenant only."""
    monkeypatch.setattr(retention, "run_for_each_tenant", partial(run_for_each_tenant, seconds=0.0))
    fill(field)
    with field.administrator() as administrator:
        administrator.execute(
            "update okcm.usage_batch set added_at = added_at - interval '1 year' where tenant_id = 'acme';"
            "create function okcm.fail() returns trigger language plpgsql as $$ begin raise 'no'; end $$;"
            "create trigger fail before delete on okcm.usage_batch for each row when (old.tenant_id = 'acme')"
            " execute function okcm.fail()"
        )
    first, second = run(worker)[0], run(worker)[0]
    assert (first.failures, first.rows.get("usage_batch")) == (["rows"], None)
    assert (second.failures, second.rows["usage_batch"]) == ([], 7)


def test_table_that_fails_stops_no_other_table_of_its_tenant(worker: Database, field: Field) -> None:
    fill(field)
    with field.administrator() as administrator:
        administrator.execute(
            "insert into okcm.usage_minute values ('acme', date_trunc('minute', now() - interval '91 days'), 'orders',"
            " 'encrypt', 1, 0, 1);"
            "create function okcm.fail() returns trigger language plpgsql as $$ begin raise 'no'; end $$;"
            "create trigger fail before delete on okcm.usage_batch for each row execute function okcm.fail()"
        )
    metrics, _ = run(worker)
    assert (metrics.failures, metrics.rows["usage_minute"]) == (["rows", "rows"], 1)
