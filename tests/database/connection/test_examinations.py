"""Recorded isolation assessments: when they are due, which are late or failed, and their retention."""

import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from core.errors.platform import DatabaseRefused
from core.isolation import LATE, run_of
from core.names import ca_key, l2_key
from core.retention import DELETED
from core.tenants.lifecycle import Transition
from core.tenants.locks import LockReason
from database.connection.database import Database
from database.platform.retention import RetentionQueries
from database.platform.scheduled import PlatformQueries
from tests.database.builders import a_result, a_route, an_event, an_examination
from tests.database.fixtures import Field
from tests.database.signing import SIGNER
from tests.database.templates import filled_template

ACME, BETA = "acme", "beta"
DAY = timedelta(days=1)


def fill(field: Field) -> None:
    database = field.open("worker")
    PlatformQueries(database).record_audit_keys(SIGNER.public_keys())
    for tenant in (ACME, BETA, "openkcm-canary"):
        with database.tenant_tx(tenant) as tx:
            tx.tenants.request(an_event(tenant))
            tx.tenants.move(Transition.PROVISION)
            tx.keys.record(l2_key(tenant), "L2", 1)
            tx.keys.record(ca_key(tenant), "CA", 1)
            tx.routes.publish(a_route(tenant))
            tx.tenants.move(Transition.ACTIVATE)


template = filled_template(fill)


def now() -> datetime:
    return datetime.now(UTC)


def aged(field: Field, tenant: str, by: timedelta) -> None:
    """Move the start of a tenant into the past by `by`."""
    with field.administrator() as administrator:
        administrator.execute("update okcm.tenant set ready_at = ready_at - %s where tenant_id = %s", [by, tenant])
        administrator.execute(
            "update okcm.route set published_at = published_at - %s where tenant_id = %s", [by, tenant]
        )


def due(worker: Database) -> list[str]:
    return [tenant for tenant, _ in PlatformQueries(worker).due_examinations("", 10)]


def examined(worker: Database, tenant: str, ago: timedelta = timedelta(), **changed: object) -> None:
    with worker.tenant_tx(tenant) as tx:
        an_examination(tx, a_result(**changed), run=run_of(uuid.uuid4().hex), at=now() - ago)


def test_assessment_of_a_new_tenant_is_due_within_a_day_but_never_for_platform_tenants(worker, field) -> None:
    aged(field, ACME, timedelta(seconds=5))
    aged(field, "openkcm-canary", 3 * DAY)
    assert ACME not in due(worker) or BETA not in due(worker)
    aged(field, ACME, DAY)
    assert due(worker) == [ACME]
    aged(field, BETA, DAY)
    assert due(worker) == [ACME, BETA]
    assert PlatformQueries(worker).due_examinations(ACME, 10) == [(BETA, "eu-west-1")]
    assert PlatformQueries(worker).due_examinations("", 1) == [(ACME, "eu-west-1")]


def test_assessment_is_due_again_within_a_day(worker, field) -> None:
    aged(field, ACME, 3 * DAY)
    examined(worker, ACME, DAY)
    assert due(worker) == [ACME]
    examined(worker, ACME)
    assert due(worker) == []


def test_assessments_of_many_tenants_are_spread_over_the_day(worker, field) -> None:
    with field.administrator() as administrator:
        administrator.execute(
            "insert into okcm.tenant (tenant_id, organization, region, state, ready_at)"
            " select 'tenant-' || n, 'x', 'eu-west-1', 'active', now() from generate_series(0, 199) n"
        )
    # "Late" before that time means: due within the next day.
    ahead = [
        one.since
        for one in PlatformQueries(worker).troubled_examinations(-DAY - LATE, 1000)
        if "tenant-" in one.tenant_id
    ]
    assert len(ahead) == 200
    assert now() - timedelta(minutes=1) < min(ahead)
    assert max(ahead) <= now() + DAY
    hours = Counter(at.hour for at in ahead)
    assert len(hours) >= 20
    assert max(hours.values()) < 30


@pytest.mark.parametrize(
    ("table", "values"),
    [
        (
            "rotation (tenant_id, number, tenant_key, from_version, services, state, finished_at)",
            "'acme', 9, true, 1, 'none', 'done', now()",
        ),
        (
            "root_key_change (tenant_id, number, from_mode, from_name, to_mode, to_name, state, finished_at)",
            "'acme', 9, 'platform', 'x', 'platform', 'y', 'failed', now()",
        ),
        ("route", "set published_at = now() where tenant_id = 'acme'"),
        ("tenant", "set restored_at = now() where tenant_id = 'acme'"),
    ],
    ids=["rotation", "root-key", "authority", "restore"],
)
def test_key_change_makes_an_assessment_due_after_its_end(worker, field, table, values) -> None:
    aged(field, ACME, 3 * DAY)
    examined(worker, ACME, timedelta(seconds=1))
    assert due(worker) == []
    with field.administrator() as administrator:
        change = f"update okcm.{table} {values}" if "(" not in table else f"insert into okcm.{table} values ({values})"
        administrator.execute(change)
    assert due(worker) == [ACME]
    examined(worker, ACME)
    assert due(worker) == []


def test_assessment_is_due_for_locked_tenants_but_not_for_offboarding_ones(worker, field) -> None:
    aged(field, ACME, 2 * DAY)
    aged(field, BETA, 2 * DAY)
    with worker.tenant_tx(ACME) as tx:
        tx.tenants.hold(LockReason.MANUAL)
    with field.administrator() as administrator:
        administrator.execute("update okcm.tenant set state = 'offboarding' where tenant_id = 'beta'")
    assert due(worker) == [ACME]


def test_breach_is_due_until_the_lock_and_reported_until_the_unlock(worker, field) -> None:
    aged(field, ACME, 2 * DAY)
    dashboard = field.open("dashboard")
    examined(worker, ACME, outcome="breached")
    assert due(worker) == [ACME]
    with worker.tenant_tx(ACME) as tx:
        tx.tenants.hold(LockReason.BREACH)
    assert due(worker) == []
    for database in (worker, dashboard):
        assert [(one.tenant_id, one.why) for one in PlatformQueries(database).troubled_examinations(LATE, 10)] == [
            (ACME, "breached")
        ]
    examined(worker, ACME, outcome="held")
    assert [one.why for one in PlatformQueries(dashboard).troubled_examinations(LATE, 10)] == ["breached"]
    with worker.tenant_tx(ACME) as tx:
        tx.tenants.release(LockReason.BREACH)
    assert PlatformQueries(dashboard).troubled_examinations(LATE, 10) == []


def test_tenant_of_an_earlier_version_without_a_row_is_due_until_it_is_assessed(worker, field) -> None:
    examined(worker, ACME)
    with field.administrator() as administrator:
        administrator.execute("delete from okcm.isolation_assessment where tenant_id = 'acme'")
    assert due(worker) == [ACME]
    examined(worker, ACME)
    assert due(worker) == []


def test_missing_assessment_is_late(worker, field) -> None:
    aged(field, ACME, DAY + LATE + timedelta(seconds=1))
    [late] = PlatformQueries(worker).troubled_examinations(LATE, 10)
    assert (late.tenant_id, late.why) == (ACME, "late")
    assert now() - late.since > LATE


def test_assessment_is_recorded_once_and_read_unchanged(worker) -> None:
    results = (a_result("read"), a_result("write", clause="U2", outcome="not-checked", evidence="locked"))
    with worker.tenant_tx(ACME) as tx:
        lines = an_examination(tx, *results, at=now())
        row = tx.boundaries.examination("examination-1")
        assert (row.lines, tx.boundaries.results_of("examination-1")) == (lines, list(results))
        assert (row.held, row.breached, row.not_checked, row.passed) == (1, 0, 1, True)
        assert tx.boundaries.examination("examination-2") is None
    with pytest.raises(DatabaseRefused), worker.tenant_tx(ACME) as tx:
        an_examination(tx, *results, at=now())


def test_results_are_kept_for_14_days_lines_for_400_and_breaches_completely(worker) -> None:
    ages = {"new": 1, "old": 15, "older": 399, "gone": 401}
    with worker.tenant_tx(ACME) as tx:
        tx.boundaries.record("provision-1", [a_result("gate")])
        for name, days in ages.items():
            an_examination(tx, a_result(name), run=name, at=now() - days * DAY)
        for name, days in (("breached", 100), ("long-breached", 402)):
            an_examination(tx, a_result(name, outcome="breached"), run=name, at=now() - days * DAY)
    with worker.tenant_tx(BETA) as tx:
        an_examination(tx, run="gone", at=now() - 500 * DAY)
    queries = RetentionQueries(worker)
    for _ in range(2):
        for table in ("boundary_result", "boundary_clause"):
            queries.delete_expired_rows(ACME, table, DELETED[table].days, 1000)
    with worker.tenant_tx(ACME) as tx:
        kept = {name for name in (*ages, "breached", "long-breached") if tx.boundaries.results_of(name)}
        lines = {name for name in (*ages, "breached", "long-breached") if tx.boundaries.examination(name)}
        assert tx.boundaries.results_of("provision-1")
    assert kept == {"new", "breached"}
    assert lines == {"new", "old", "older", "breached"}
    with worker.tenant_tx(BETA) as tx:
        assert tx.boundaries.results_of("gone")
