"""The numbers of records of each hour, which the append maintains: equal to those of the stream's own records."""

import json
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.audit import AuditFilter, operation_of, service_of
from database.connection.database import Database
from openkcm.contract.audit_events import AuditEvent, AuditName
from tests.concurrency import wait_until
from tests.database.builders import an_audit_event
from tests.database.fixtures import Field


def an_event(n: int, service: str, operation: str, outcome: str = "success") -> AuditEvent:
    name = AuditName.CRYPTO_USED if outcome == "success" else AuditName.CRYPTO_REFUSED
    return an_audit_event(
        f"{service} {n}",
        name=name,
        actor_kind="service",
        actor=service,
        subject=f"customer/{n}",
        outcome=outcome,
        details={"operation": operation},
    )


@pytest.fixture
def dashboard(field: Field) -> Database:
    return field.open("dashboard", max_size=1)


@pytest.fixture
def stream(worker: Database) -> Database:
    """Ten records of acme in one hour, and one of beta."""
    with worker.tenant_tx("acme") as tx:
        tx.audit.append_all([an_event(n, "orders", "encrypt") for n in range(4)])
        tx.audit.append_all([an_event(n, "users", "decrypt") for n in range(3)])
        tx.audit.append_all([an_event(0, "orders", "encrypt"), an_event(9, "orders", "encrypt", "refused")])
        tx.audit.append(an_audit_event("made", name=AuditName.SERVICE_CONNECTED, subject="orders"))
        tx.audit.append(an_audit_event("gone", name=AuditName.SERVICE_KEY_DESTROYED, subject="orders version 2"))
    with worker.tenant_tx("beta") as tx:
        tx.audit.append(an_event(1, "orders", "encrypt"))
    return worker


def totals(database: Database, chosen: AuditFilter, tenant: str = "acme") -> dict[str, int]:
    with database.tenant_tx(tenant) as tx:
        found: Counter[str] = Counter()
        for one in tx.audit.hours(chosen):
            found[one.outcome] += one.records
        return dict(found)


def parts(database: Database, chosen: AuditFilter, among: range = range(1, 100)) -> Sequence[range]:
    with database.tenant_tx("acme") as tx:
        return tx.audit.parts(chosen, among)


@pytest.mark.usefixtures("stream")
def test_a_repeated_event_is_counted_once_and_only_for_its_tenant(dashboard: Database) -> None:
    assert totals(dashboard, AuditFilter()) == {"success": 9, "refused": 1}
    assert totals(dashboard, AuditFilter(), "beta") == {"success": 1}
    assert totals(dashboard, AuditFilter(services=frozenset({"orders"}))) == {"success": 6, "refused": 1}
    assert totals(dashboard, AuditFilter(operations=frozenset({"decrypt"}))) == {"success": 3}
    assert totals(dashboard, AuditFilter(names=frozenset({"crypto."}), outcomes=frozenset({"refused"}))) == {
        "refused": 1
    }
    some = AuditFilter(names=frozenset({"crypto.", AuditName.SERVICE_CONNECTED}))
    assert totals(dashboard, some) == {"success": 8, "refused": 1}
    assert totals(dashboard, AuditFilter(names=frozenset({AuditName.SERVICE_CONNECTED}))) == {"success": 1}
    with dashboard.tenant_tx("acme") as tx:
        assert tx.audit.services_and_operations() == (["orders", "users"], ["decrypt", "encrypt"])


@pytest.mark.usefixtures("stream")
def test_a_search_reads_only_the_part_of_the_stream_with_a_match(dashboard: Database) -> None:
    assert parts(dashboard, AuditFilter()) == [range(1, 100)]
    assert parts(dashboard, AuditFilter(services=frozenset({"users"}))) == [range(5, 8)]
    assert parts(dashboard, AuditFilter(services=frozenset({"users"})), range(6, 100)) == [range(6, 8)]
    assert parts(dashboard, AuditFilter(services=frozenset({"nowhere"}))) == []
    assert parts(dashboard, AuditFilter(outcomes=frozenset({"refused"}))) == [range(8, 9)]
    late = datetime.fromisoformat("2999-01-01T00:00:00Z")
    assert parts(dashboard, AuditFilter(outcomes=frozenset({"refused"}), since=late)) == []


@pytest.mark.usefixtures("stream")
def test_a_rare_name_is_found_by_its_index(dashboard: Database, field: Field) -> None:
    with field.administrator() as administrator:
        administrator.execute(
            "insert into okcm.audit_hour (tenant_id, hour, name, service, operation, outcome, records, first_seq,"
            " last_seq) select 'acme', date_trunc('hour', now(), 'UTC') - n * interval '1 hour', 'crypto.used',"
            " service, 'decrypt', 'success', 1, 1, 1"
            " from generate_series(1, 500) n, unnest(array['a', 'b', 'c', 'd']) service"
        )
        administrator.execute("analyze okcm.audit_hour")
        rare = AuditFilter(names=frozenset({AuditName.SERVICE_CONNECTED, AuditName.TENANT_LOCKED}))
        assert parts(dashboard, rare) == [range(9, 10)]
        dashboard.close()  # the server counts the uses of an index at the latest when a session ends

        def is_used() -> bool:
            return administrator.execute(
                "select idx_scan > 0 from pg_stat_user_indexes where indexrelname = 'audit_hour_named'"
            ).fetchone() == (True,)

        wait_until(is_used, seconds=20)


def test_records_of_a_former_release_are_searched_and_not_counted(
    stream: Database, dashboard: Database, field: Field
) -> None:
    with field.administrator() as administrator:
        administrator.execute("delete from okcm.audit_hour")
    with stream.tenant_tx("acme") as tx:
        tx.audit.append(an_event(50, "users", "decrypt"))
    assert totals(dashboard, AuditFilter()) == {"success": 1}
    assert parts(dashboard, AuditFilter(services=frozenset({"users"}))) == [range(1, 11), range(11, 12)]


@pytest.mark.usefixtures("stream")
def test_no_process_can_change_the_counts(field: Field) -> None:
    for role in ("worker", "crypto", "marketplace", "operator", "dashboard"):
        with (
            field.open(role, max_size=1).tenant_tx("acme") as tx,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            tx.audit.connection.execute("update okcm.audit_hour set records = records + 1")


EVENTS = st.builds(
    dict,
    name=st.sampled_from([str(name) for name in AuditName]) | st.text(max_size=20),
    actor_kind=st.sampled_from(["human", "service", "system"]),
    actor=st.sampled_from(["orders", "ada", ""]),
    subject=st.sampled_from(["orders", "orders version 2", "acme", "", " "]),
    details=st.sampled_from([{}, {"operation": "decrypt"}, {"code": "x"}]),
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(EVENTS)
def test_service_of_a_record_is_the_same_in_the_database_and_on_the_page(
    field: Field, event: dict[str, object]
) -> None:
    if "\0" in str(event["name"]):
        return
    with field.administrator() as administrator:
        row = administrator.execute(
            "select okcm.audit_service(%(event)s::jsonb), coalesce(%(event)s::jsonb -> 'details' ->> 'operation', '')",
            {"event": json.dumps(event)},
        ).fetchone()
    assert row == (service_of(event), operation_of(event))


@pytest.mark.usefixtures("stream")
def test_hours_begin_at_whole_hours(dashboard: Database) -> None:
    with dashboard.tenant_tx("acme") as tx:
        [hour] = {one.hour for one in tx.audit.hours(AuditFilter())}
        assert hour == hour.replace(minute=0, second=0, microsecond=0)
        within = AuditFilter(since=hour + timedelta(minutes=59), until=hour + timedelta(hours=1))
        assert sum(one.records for one in tx.audit.hours(within)) == 10
        assert not tx.audit.hours(AuditFilter(since=hour + timedelta(hours=1)))
