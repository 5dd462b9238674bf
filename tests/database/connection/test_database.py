import threading
from functools import partial

import psycopg
import pytest
from psycopg.rows import TupleRow

from core.correlation import correlation_id
from core.errors.platform import DatabaseRefused, DatabaseUnavailable
from core.notifications import Channel
from database.audit import AuditStream
from database.connection.database import Database
from database.platform.scheduled import PlatformQueries
from openkcm.contract.audit_events import AuditEvent, AuditName
from openkcm.errors import IllegalTenantId
from tests.concurrency import at_once
from tests.database.builders import a_provisioned_tenant, an_authority, an_event
from tests.database.fixtures import Field
from tests.database.templates import filled_template, two_tenants

template = filled_template(two_tenants(services=False))


def test_transaction_is_atomic(worker: Database) -> None:
    with pytest.raises(ZeroDivisionError), worker.tenant_tx("new") as tx:  # noqa: PT012 - the whole block raises
        tx.tenants.request(an_event("new"))
        raise ZeroDivisionError
    with worker.tenant_tx("new") as tx:
        assert tx.tenants.get() is None


def test_nested_transaction_is_rejected_and_the_outer_one_commits(worker: Database) -> None:
    with worker.tenant_tx("new") as tx:
        tx.tenants.request(an_event("new"))
        with pytest.raises(RuntimeError, match="do not nest"), worker.tenant_tx("beta"):
            pass
    with worker.tenant_tx("new") as tx:
        assert tx.tenants.get() is not None


def test_invalid_tenant_id_is_rejected_before_the_database(worker: Database) -> None:
    for tenant_id in ("", "a", "a" * 41, "acme'; drop table x; --", "ACME", "acme\n", "acme|9|x"):
        with pytest.raises(IllegalTenantId), worker.tenant_tx(tenant_id):
            pass


@pytest.mark.parametrize(
    ("correlation", "name"),
    [
        ("tenant/acme/rotate/7", "tenant/acme/rotate/7"),
        ("", "openkcm-worker"),
        ("'); drop table okcm.tenant; --", "____drop_table_okcm.tenant__--"),
        (f"tenant/{'a' * 40}/service/{'b' * 40}", f"tenant/{'a' * 24}~{'b' * 31}"),
    ],
)
def test_session_name_is_the_correlation_id_during_its_transaction_only(
    field: Field, correlation: str, name: str
) -> None:
    worker = field.open("worker", max_size=1)
    token = correlation_id.set(correlation)
    try:
        with worker.raw_tx("acme") as connection:
            assert _name_of(field, connection) == name
    finally:
        correlation_id.reset(token)
    with worker.raw_tx("acme") as connection:
        assert _name_of(field, connection) == "openkcm-worker"


def test_audit_append_sets_the_session_name_to_its_correlation_id(field: Field) -> None:
    worker = field.open("worker", max_size=1)
    event = AuditEvent(
        event_id="dashboard/1",
        name=AuditName.EXPORTED,
        actor_kind="human",
        actor="pat",
        subject="usage",
        outcome="success",
        correlation_id="dashboard/1",
    )
    with worker.raw_tx("acme") as connection:
        AuditStream(connection, "acme").append(event)
        assert _name_of(field, connection) == "dashboard/1"
    with worker.raw_tx("acme") as connection:
        assert _name_of(field, connection) == "openkcm-worker"


def _name_of(field: Field, connection: psycopg.Connection[TupleRow]) -> str:
    """Return the name of a session in PostgreSQL's own view, from another session."""
    with field.administrator() as administrator:
        [name] = administrator.execute(
            "select application_name from pg_stat_activity where pid = %s", [connection.info.backend_pid]
        ).fetchone() or ("",)
        return str(name)


def test_session_state_is_reset_between_transactions(field: Field) -> None:
    worker = field.open("worker", max_size=1)
    with worker.raw_tx("acme") as connection:
        connection.execute("select set_config('app.tenant_id', 'acme', false), set_config('app.stash', 'row', false)")
        connection.execute("select pg_advisory_lock(7)")
        connection.execute("prepare _pg3_0 as select 'poison'")
        connection.execute("declare c cursor with hold for select * from okcm.key")
        connection.execute("listen hole")
        connection.execute("set search_path = pg_temp; set statement_timeout = 0")
        first = connection.info.backend_pid
    with worker.raw_tx("beta") as connection:
        assert connection.info.backend_pid == first
        [left] = connection.execute(
            "select current_setting('app.stash', true) || current_setting('app.tenant_id')"
            " || (select count(*) from pg_prepared_statements) || (select count(*) from pg_cursors)"
            " || (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid())"
            " || current_setting('statement_timeout') || current_setting('search_path')"
        ).fetchone() or ("",)
        assert left == "beta0007spg_catalog"
    with worker.raw_tx("beta") as connection:  # UNLISTEN takes effect at the commit
        assert connection.execute("select count(*) from pg_listening_channels()").fetchone() == (0,)


def test_session_state_is_reset_after_an_exception(field: Field) -> None:
    worker = field.open("worker", max_size=1)
    with pytest.raises(DatabaseRefused), worker.raw_tx("acme") as connection:  # noqa: PT012 - the whole block raises
        connection.execute("set statement_timeout = 0")
        connection.execute("select * from okcm.context_key")
    with worker.raw_tx("new") as connection:
        assert connection.execute("select count(*) from okcm.tenant").fetchone() == (0,)


def test_switched_tenant_after_a_released_savepoint_reads_no_rows(worker: Database) -> None:
    with worker.raw_tx("acme") as connection:
        connection.execute("savepoint s")
        connection.execute("select set_config('app.tenant_id', 'beta', true)")
        connection.execute("release savepoint s")
        assert connection.execute("select count(*) from okcm.tenant").fetchone() == (0,)


def test_context_ends_with_a_commit(worker: Database) -> None:
    with worker.raw_tx("acme") as connection:
        connection.commit()
        assert connection.execute("select count(*) from okcm.tenant").fetchone() == (0,)


def test_row_level_security_cannot_be_switched_off(worker: Database) -> None:
    with pytest.raises(DatabaseRefused, match="42501"), worker.raw_tx("acme") as connection:  # noqa: PT012 - the whole block raises
        connection.execute("set row_security = off")
        connection.execute("select * from okcm.tenant")


def test_copy_to_returns_only_rows_of_the_tenant(worker: Database) -> None:
    with (
        worker.raw_tx("acme") as connection,
        connection.cursor().copy("copy okcm.tenant (tenant_id) to stdout") as copy,
    ):
        assert b"".join(bytes(row) for row in copy) == b"acme\n"


def test_on_conflict_does_not_reveal_rows_of_another_tenant(worker: Database) -> None:
    for victim in ("acme", "unknown"):
        with pytest.raises(DatabaseRefused, match="42501"), worker.raw_tx("beta") as connection:
            connection.execute(
                "insert into okcm.tenant (tenant_id, organization, region) values (%s, 'x', 'x')"
                " on conflict do nothing",
                [victim],
            )


def test_wrong_context_key_gives_access_to_no_rows(field: Field) -> None:
    wrong = Database(field.url, "worker", field.server.passwords["worker"], field.key("marketplace"))
    with wrong.tenant_tx("acme") as tx:
        assert tx.tenants.get() is None
    with pytest.raises(DatabaseRefused):
        PlatformQueries(wrong).unsigned_streams(10)
    wrong.close()


def test_error_names_the_constraint_and_not_the_row(worker: Database) -> None:
    with (
        pytest.raises(DatabaseRefused, match="23503 at key_tenant_id_fkey") as refused,
        worker.tenant_tx("new") as tx,
    ):
        tx.keys.record("secret-name", "L2", 1)
    assert refused.value.__cause__ is None
    assert "secret-name" not in str(refused.value)


def test_role_that_bypasses_row_level_security_is_rejected_at_first_use(field: Field) -> None:
    with field.administrator() as administrator:
        administrator.execute("create role okcm_strong login bypassrls password 'x'")
        administrator.execute(f"grant connect on database {field.name} to okcm_strong")
    strong = Database(field.url, "strong", "x", field.key("worker"))
    try:
        with pytest.raises(DatabaseRefused, match="does not bind the role okcm_strong"), strong.tenant_tx("acme"):
            pass
    finally:
        strong.close()
        with field.administrator() as administrator:
            administrator.execute(f"revoke all on database {field.name} from okcm_strong; drop role okcm_strong")


def test_database_is_unavailable_during_an_outage_only(field: Field, worker: Database) -> None:
    with field.server.offline(field.name), pytest.raises(DatabaseUnavailable), worker.tenant_tx("acme"):
        pass
    with worker.tenant_tx("acme") as tx:
        assert tx.tenants.get() is not None


def test_dead_connections_in_the_pool_are_replaced(field: Field) -> None:
    worker = field.open("worker", min_size=4, max_size=4)
    with field.administrator() as administrator:
        administrator.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'okcm_worker'")
    for _ in range(8):
        with worker.tenant_tx("acme") as tx:
            assert tx.tenants.get() is not None


def test_process_can_start_while_its_database_is_unavailable(field: Field) -> None:
    with field.server.offline(field.name):
        early = field.open("worker")
        with pytest.raises(DatabaseUnavailable), early.tenant_tx("new"):
            pass
    with early.tenant_tx("new") as tx:
        assert tx.tenants.get() is None


def test_lost_connection_raises_unavailable_and_rolls_back(field: Field, worker: Database) -> None:
    with pytest.raises(DatabaseUnavailable), worker.tenant_tx("new") as tx:  # noqa: PT012 - the whole block raises
        tx.tenants.request(an_event("new"))
        with field.administrator() as administrator:
            administrator.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'okcm_worker'"
            )
        tx.tenants.get()
    with worker.tenant_tx("new") as tx:
        assert tx.tenants.get() is None


def test_deadlock_raises_database_unavailable_for_one_transaction(worker: Database) -> None:
    meeting = threading.Barrier(2)

    def cross(first: int, second: int) -> str:
        try:
            with worker.raw_tx("acme") as connection:
                connection.execute("select pg_advisory_xact_lock(%s)", [first])
                meeting.wait(60)
                connection.execute("select pg_advisory_xact_lock(%s)", [second])
                return "done"
        except DatabaseUnavailable:
            return "unavailable"

    assert sorted(at_once(partial(cross, 1, 2), partial(cross, 2, 1))) == ["done", "unavailable"]


def test_platform_queries_return_rows_of_all_tenants(field: Field, worker: Database) -> None:
    a_provisioned_tenant(worker, "gamma")
    marketplace, operator = field.open("marketplace"), field.open("operator")
    assert PlatformQueries(marketplace).unstarted_events(2) == [
        ("acme", "event-1", "eu-west-1", "service_enabled"),
        ("beta", "event-1", "eu-west-1", "service_enabled"),
    ]
    with marketplace.tenant_tx("acme") as tx:
        tx.inbox.mark_started("event-1")
    assert [event[0] for event in PlatformQueries(marketplace).unstarted_events(9)] == ["beta", "gamma"]
    assert PlatformQueries(worker).unknown_serials(["ff", an_authority(b"acme".hex()).serial]) == ["ff"]
    assert [row.tenant_id for row in PlatformQueries(operator).list_tenants("acme", 9)] == ["beta", "gamma"]
    assert [row.tenant_id for row in PlatformQueries(operator).list_tenants("", 1)] == ["acme"]
    assert PlatformQueries(worker).due_notifications(Channel.EMAIL, 9) == []
    with field.administrator() as administrator:
        administrator.execute("update okcm.outbox set added_at = now() - interval '1 minute'")
        administrator.execute("update okcm.outbox set next_try = now() + interval '1 minute' where tenant_id = 'acme'")
    assert sorted(PlatformQueries(worker).due_notifications(Channel.CALLBACK, 9)) == ["beta", "gamma"]


def test_client_creates_no_prepared_statements(worker: Database) -> None:
    with worker.raw_tx("acme") as connection:
        for _ in range(20):
            connection.execute("select %s::int", [1])
        assert connection.execute("select count(*) from pg_prepared_statements").fetchone() == (0,)


def test_pool_serves_more_threads_than_connections(field: Field) -> None:
    worker = field.open("worker", max_size=2)

    def visit(tenant: str) -> None:
        for _ in range(5):
            with worker.tenant_tx(tenant) as tx:
                tx.tenants.request(an_event(tenant))
                row = tx.tenants.get()
                assert row.tenant_id == tenant

    at_once(*(partial(visit, f"tenant-{number}") for number in range(8)))
