"""The offboarding of a tenant as rows: restore or destruction, and what is erased, kept and rejected."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from core.errors.platform import DatabaseRefused
from core.errors.tenants import DestructionStarted, GracePeriodActive, InvalidTransition, TenantUnknown
from core.tenants.lifecycle import State, Transition
from core.tenants.locks import LockReason
from core.tenants.offboarding import KEPT
from database.connection.database import Database
from database.connection.transaction import TenantTransaction
from database.offboarding import OffboardingRow
from tests.concurrency import at_once
from tests.database.builders import (
    NOW,
    a_key_to_destroy,
    a_leaving,
    a_provisioned_tenant,
    some_uses,
)
from tests.database.fixtures import Field
from tests.database.templates import filled_template, two_tenants

ACME, BETA = "acme", "beta"
GRACE = timedelta(days=30)
ERASED = {
    *("managed_object", "service_key", "service_certificate", "service_request", "service"),
    *("root_key_change", "root_key_request", "root_key", "tenant_policy", "rotation"),
    *(
        "usage_minute",
        "usage_hour",
        "usage_day",
        "usage_month",
        "usage_batch",
        "dashboard_session",
        "outbox",
        "operation_step",
        "route",
        "key",
    ),
    *("approval", "certificate_revocation_list", "agent", "protection_use", "backfill", "report"),
    *("join_token", "enrolment", "discovery"),
    *("protection", "protected_field", "key_probe", "notification_target"),
}
WITH_ANOTHER = {"approval_vote"}
"""Tables whose rows are erased with their parent row and are not counted."""


template = filled_template(two_tenants(active=True, root_keys=True))


def leaving(tx: TenantTransaction) -> OffboardingRow:
    row = tx.leaving.get()
    assert row is not None
    return row


def destroying(worker: Database, tenant: str = ACME) -> None:
    """Begin the irreversible destruction of a tenant."""
    with worker.tenant_tx(tenant) as tx:
        tx.leaving.begin(timedelta())
    with worker.tenant_tx(tenant) as tx:
        assert tx.leaving.begin_destruction(datetime.now(UTC) + timedelta(seconds=1))


def erase(worker: Database, at_most: int = 1000) -> int:
    """Erase all rows and return the number of calls."""
    calls = 1
    while True:
        with worker.tenant_tx(ACME) as tx:
            if tx.leaving.erase(at_most):
                return calls
        calls += 1


def test_tenant_that_was_never_active_cannot_be_restored_as_active(worker: Database, field: Field) -> None:
    with field.administrator() as administrator:
        administrator.execute("update okcm.tenant set state = 'failed', ready_at = null where tenant_id = %s", [ACME])
    with worker.tenant_tx(ACME) as tx:
        tx.leaving.begin(GRACE)
    for state in ("active", "suspended", "locked"):
        with pytest.raises(DatabaseRefused, match="tenant_returns_ready_check"), worker.raw_tx(ACME) as connection:
            connection.execute("update okcm.tenant set returns_to = %s", [state])
    with worker.tenant_tx(ACME) as tx:
        assert tx.leaving.restore() is State.FAILED


def counts(field: Field, tenant: str) -> dict[str, int]:
    with field.administrator() as administrator:
        tables = administrator.execute(
            "select relname from pg_class c where relnamespace = 'okcm'::regnamespace and relkind in ('r', 'p')"
            " and not relispartition and exists (select from pg_attribute where attrelid = c.oid"
            " and attname = 'tenant_id')"
        ).fetchall()
        return {
            table: administrator.execute(
                f"select count(*) from okcm.{table} where tenant_id = %s", [tenant]
            ).fetchone()[0]
            for (table,) in tables
        }


@pytest.mark.parametrize("state", [State.ACTIVE, State.SUSPENDED, State.LOCKED])
def test_restore_returns_a_tenant_to_its_state_and_locks(worker: Database, state: State) -> None:
    with worker.tenant_tx(ACME) as tx:
        if state is not State.ACTIVE:
            tx.tenants.move(Transition.SUSPEND)
        if state is State.LOCKED:
            tx.tenants.hold(LockReason.MANUAL)
            tx.tenants.hold(LockReason.ROOT_KEY)
        before = tx.tenants.get()
    with worker.tenant_tx(ACME) as tx:
        row = tx.leaving.begin(GRACE)
        assert (row.state, row.returns_to) == (State.LEAVING, state)
        assert row.since is not None
        assert row.until == row.since + GRACE
    for _ in range(2):
        with worker.tenant_tx(ACME) as tx:
            assert tx.leaving.restore() is state
            assert tx.tenants.get() == before
            assert leaving(tx) == OffboardingRow(state, None, None, None, None, None, {})


def test_repeated_offboarding_keeps_the_first_grace_period(worker: Database) -> None:
    with worker.tenant_tx(ACME) as tx:
        first = tx.leaving.begin(GRACE)
    with worker.tenant_tx(ACME) as tx:
        assert tx.leaving.begin(timedelta()) == first


def test_unready_and_unknown_tenants_cannot_be_offboarded(field: Field) -> None:
    worker = field.open("worker")
    a_provisioned_tenant(worker, "gamma")
    for act in (lambda tx: tx.leaving.begin(GRACE), lambda tx: tx.leaving.restore()):
        with pytest.raises(InvalidTransition), worker.tenant_tx("gamma") as tx:
            act(tx)
        with pytest.raises(TenantUnknown), worker.tenant_tx("unknown") as tx:
            act(tx)


def test_destruction_is_rejected_during_the_grace_period(worker: Database) -> None:
    with worker.tenant_tx(ACME) as tx:
        tx.leaving.begin(GRACE)
    with pytest.raises(GracePeriodActive), worker.tenant_tx(ACME) as tx:
        tx.leaving.begin_destruction(datetime.now(UTC) + GRACE - timedelta(minutes=1))
    with worker.tenant_tx(ACME) as tx:
        assert tx.leaving.begin_destruction(datetime.now(UTC) + GRACE + timedelta(minutes=1))


def test_old_timer_does_not_destroy_a_restored_tenant(worker: Database) -> None:
    with worker.tenant_tx(ACME) as tx:
        tx.leaving.begin(timedelta())
    with worker.tenant_tx(ACME) as tx:
        tx.leaving.restore()
        assert not tx.leaving.begin_destruction(datetime.now(UTC) + GRACE)
    with worker.tenant_tx(ACME) as tx:
        tx.leaving.begin(GRACE)
    with pytest.raises(GracePeriodActive), worker.tenant_tx(ACME) as tx:
        tx.leaving.begin_destruction(datetime.now(UTC))


def test_restore_is_rejected_after_destruction_has_begun(worker: Database) -> None:
    destroying(worker)
    with pytest.raises(DestructionStarted), worker.tenant_tx(ACME) as tx:
        tx.leaving.restore()
    with worker.tenant_tx(ACME) as tx:
        assert tx.leaving.begin_destruction(datetime.now(UTC))


def test_table_constraint_prevents_the_restore_of_a_tenant_under_destruction(worker: Database) -> None:
    destroying(worker)
    for state in ("active", "suspended", "locked", "failed"):
        with pytest.raises(DatabaseRefused, match="tenant_destroying_check"), worker.raw_tx(ACME) as connection:
            connection.execute("update okcm.tenant set state = %s", [state])


def test_one_of_concurrent_restore_and_destruction_succeeds(worker: Database) -> None:
    def restore() -> bool:
        try:
            with worker.tenant_tx(ACME) as tx:
                tx.leaving.restore()
        except DestructionStarted:
            return False
        return True

    def destroy() -> bool:
        with worker.tenant_tx(ACME) as tx:
            return tx.leaving.begin_destruction(datetime.now(UTC) + timedelta(seconds=1))

    for _ in range(10):
        with worker.tenant_tx(ACME) as tx:
            tx.leaving.begin(timedelta())
        restored, destroyed = at_once(restore, destroy)
        assert restored is not destroyed
        if destroyed:
            return


# ── destroying ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_recorded_keys_to_destroy_are_unchanged_by_a_repeated_call(worker: Database) -> None:
    with worker.tenant_tx(ACME) as tx:
        tx.leaving.gather([a_key_to_destroy(ACME)])
        tx.leaving.gather([a_key_to_destroy(ACME, fingerprint="cd" * 32, versions="9")])
        assert tx.leaving.keys_to_destroy() == [a_key_to_destroy(ACME)]
        tx.leaving.destroyed("L2 tenant key")
        (first,) = tx.leaving.keys_to_destroy()
        assert first.destroyed_at is not None
    with worker.tenant_tx(ACME) as tx:
        tx.leaving.destroyed("L2 tenant key")
        assert tx.leaving.keys_to_destroy() == [first]


def test_destroyed_service_keys_have_no_wrap_and_other_tenants_keep_theirs(worker: Database, field: Field) -> None:
    services = ["orders"]
    with worker.tenant_tx(ACME) as tx:
        (wrap,) = tx.leaving.unwrapped(services)
        assert (wrap.kind, wrap.name, len(wrap.fingerprint)) == ("service key", "orders 1", 64)
        assert tx.leaving.destroy_service_keys(services) == 1
        assert tx.leaving.destroy_service_keys(services) == 0
        assert tx.leaving.unwrapped(services) == []
    with field.administrator() as administrator:
        rows = administrator.execute(
            "select tenant_id, state, wrapped is null and staged_wrapped is null from okcm.service_key order by 1"
        ).fetchall()
    assert rows == [(ACME, "destroyed", True), (BETA, "active", False)]


def test_first_erasure_certificate_is_kept(worker: Database, field: Field) -> None:
    a_leaving(field, ACME)
    with worker.tenant_tx(ACME) as tx:
        kept = tx.leaving.certificate()
        assert kept is not None
        assert tx.leaving.certify(type(kept)("another", "x", "audit:2", NOW)) == kept


# ── erasing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_tenant_table_is_erased_or_kept_for_a_reason(worker: Database, field: Field) -> None:
    """Fails for a new table until its treatment at the offboarding of a tenant is decided."""
    del worker
    assert set(counts(field, ACME)) == ERASED | WITH_ANOTHER | KEPT.keys()


def test_erasure_keeps_listed_tables_removes_the_name_and_spares_other_tenants(worker: Database, field: Field) -> None:
    before, others = counts(field, ACME), counts(field, BETA)
    destroying(worker)
    assert erase(worker) == 1
    after = counts(field, ACME)
    assert {table: number for table, number in after.items() if table in ERASED | WITH_ANOTHER and number} == {}
    assert {table: after[table] for table in KEPT} == {table: before[table] for table in KEPT}
    assert counts(field, BETA) == others
    with worker.tenant_tx(ACME) as tx:
        assert leaving(tx).erased == {table: before[table] for table in ERASED}
    with field.administrator() as administrator:
        everything = "".join(
            str(administrator.execute(f"select * from okcm.{table} where tenant_id = %s", [ACME]).fetchall())
            for table in after
        )
        events = administrator.execute(
            "select organization, started_at is not null from okcm.marketplace_event where tenant_id = %s", [ACME]
        ).fetchall()
    assert "acme Corporation" not in everything
    assert events == [("(erased)", True)]


def test_partial_erasure_continues_and_counts_each_row_once(worker: Database, field: Field) -> None:
    with field.open("crypto", max_size=1).tenant_tx(ACME) as tx:
        tx.usage.add([some_uses(minute=NOW + timedelta(minutes=minute)) for minute in range(60)], "minutes")
    before = counts(field, ACME)
    destroying(worker)
    assert erase(worker, at_most=10) > 3
    with worker.tenant_tx(ACME) as tx:
        assert leaving(tx).erased == {table: before[table] for table in ERASED}
        assert tx.leaving.erase(10)
        assert leaving(tx).erased == {table: before[table] for table in ERASED}


@pytest.mark.parametrize("state", ["active", "offboarding", "restored", "offboarded"])
def test_erasure_is_rejected_unless_destruction_has_begun(worker: Database, field: Field, state: str) -> None:
    with worker.tenant_tx(ACME) as tx:
        if state in {"offboarding", "restored"}:
            tx.leaving.begin(timedelta())
        if state == "restored":
            tx.leaving.restore()
    if state == "offboarded":
        destroying(worker)
        with worker.tenant_tx(ACME) as tx:
            tx.leaving.end()
    before = counts(field, ACME)
    with pytest.raises(DatabaseRefused), worker.tenant_tx(ACME) as tx:
        tx.leaving.erase(1000)
    assert counts(field, ACME) == before


def test_erasure_is_rejected_before_all_keys_except_payload_keys_are_destroyed(worker: Database) -> None:
    destroying(worker)
    with worker.tenant_tx(ACME) as tx:
        tx.leaving.gather([a_key_to_destroy(ACME), a_key_to_destroy(ACME, kind="payload key", name="payload-acme")])
    with pytest.raises(DatabaseRefused), worker.tenant_tx(ACME) as tx:
        tx.leaving.erase(1000)
    with worker.tenant_tx(ACME) as tx:
        tx.leaving.destroyed("L2 tenant key")
        assert tx.leaving.erase(1000)


@pytest.fixture
def destroyed(worker: Database) -> Database:
    destroying(worker)
    return worker


def test_owner_function_reaches_no_other_tenant_during_erasure(destroyed: Database, field: Field) -> None:
    """The attack: a function of the owner deletes rows of all tenants, in the context of the erased tenant."""
    others = counts(field, BETA)
    tables = sorted(ERASED - {"rotation", "tenant_policy"})
    deletions = "".join(f"delete from okcm.{table} where tenant_id <> 'acme';" for table in tables)
    with field.administrator() as administrator:
        administrator.execute(
            "create function okcm.careless() returns void language plpgsql security definer"
            " set search_path = pg_catalog, pg_temp"
            f" as $$ begin set constraints all deferred; {deletions} end $$;"
            "alter function okcm.careless() owner to okcm_owner;"
            "grant execute on function okcm.careless() to okcm_worker"
        )
    with destroyed.raw_tx(ACME) as connection:
        connection.execute("select okcm.careless()")
    assert counts(field, BETA) == others


def test_erasure_requires_a_signed_context(destroyed: Database, field: Field) -> None:
    del destroyed
    with field.session("worker") as session:
        session.execute("select set_config('app.tenant_id', 'acme', true)")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute("select okcm.erase_tenant(10)")
