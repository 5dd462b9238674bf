"""Key versions and rotations as rows: activation of new versions, and changes that nothing can undo."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import psycopg
import pytest

from core.errors.keys import KeyVersionInUse, KeyVersionUnknown
from core.errors.platform import DatabaseRefused, Superseded
from core.keys.root_keys import RootKeyMode
from core.keys.rotation import KeyState, RotationPhase, RotationScope
from core.tenants.policy import TenantPolicy
from database.connection.database import Database
from database.keys import EncryptedRootKeyRow
from database.rotation import RewrappedRow, RotationRow
from tests.concurrency import wait_until
from tests.database.builders import (
    a_new_version,
    a_place,
    a_root_key,
    a_service_key,
    a_wanted_rotation,
    an_object,
)
from tests.database.fixtures import Field
from tests.database.templates import filled_template, two_services

template = filled_template(two_services)


def begin(worker: Database, number: int = 2, **wanted: object) -> RotationRow:
    with worker.tenant_tx("acme") as tx:
        return tx.rotations.begin(number, a_wanted_rotation(**wanted), 1)


def prepare(worker: Database, number: int = 2) -> None:
    """Prepare the next version of every service in the rotation."""
    with worker.tenant_tx("acme") as tx:
        for service, version in tx.rotations.unprepared(number, TenantPolicy()):
            tx.rotations.prepare(number, a_service_key("acme", service, version))


def states(worker: Database, tenant: str = "acme") -> dict[tuple[str, int], KeyState]:
    with worker.tenant_tx(tenant) as tx:
        rows = tx.services.keys()
    return {(row.service, row.version): row.state for row in rows}


def test_rotation_begins_once_and_ends_an_unfinished_one(tenants: Database) -> None:
    first = begin(tenants, services=RotationScope.ONE, service="orders", compromised=True)
    assert begin(tenants, tenant_key=True) == first
    prepare(tenants)
    begin(tenants, 3)
    with tenants.tenant_tx("acme") as tx:
        [third, second, _] = tx.rotations.all()
    assert (third.number, third.state, third.stage, third.from_version) == (3, "running", RotationPhase.PLAN, 1)
    assert (second.state, second.problem) == ("failed", Superseded.code)
    assert states(tenants)["orders", 2] is KeyState.DESTROYED


def test_progress_is_kept_on_retry_and_reset_by_the_next_stage(tenants: Database) -> None:
    begin(tenants)
    with tenants.tenant_tx("acme") as tx:
        tx.rotations.enter(2, RotationPhase.PREPARE)
        tx.rotations.came(2, 32, 68)
        again = tx.rotations.enter(2, RotationPhase.PREPARE)
        assert (again.done, again.total) == (32, 100)
        further = tx.rotations.came(2, 32, 40)  # services were disconnected, removed or added meanwhile
        assert (further.done, further.total) == (64, 104)
        assert tx.rotations.enter(2, RotationPhase.ACTIVATE).total == 0


def test_prepared_versions_are_activated_together_and_former_ones_only_decrypt(tenants: Database) -> None:
    begin(tenants)
    prepare(tenants)
    assert states(tenants)["orders", 2] is KeyState.PREPARED
    with tenants.tenant_tx("acme") as tx:
        assert tx.rotations.unprepared(2, TenantPolicy()) == []
        assert tx.rotations.activate(2) == [("orders", 2), ("users", 2)]
        assert tx.rotations.activate(2) == []
        assert tx.rotations.unprepared(2, TenantPolicy()) == []
    assert states(tenants) == {
        ("orders", 1): KeyState.DEACTIVATED,
        ("orders", 2): KeyState.ACTIVE,
        ("users", 1): KeyState.DEACTIVATED,
        ("users", 2): KeyState.ACTIVE,
    }
    assert set(states(tenants, "beta").values()) == {KeyState.ACTIVE}


def test_compromise_covers_all_earlier_versions_of_the_service_only(tenants: Database) -> None:
    a_new_version(tenants, "acme", "orders")
    begin(tenants, 3, services=RotationScope.ONE, service="orders", compromised=True)
    prepare(tenants, 3)
    with tenants.tenant_tx("acme") as tx:
        assert tx.rotations.activate(3) == [("orders", 3)]
    assert states(tenants) == {
        ("orders", 1): KeyState.COMPROMISED,
        ("orders", 2): KeyState.COMPROMISED,
        ("orders", 3): KeyState.ACTIVE,
        ("users", 1): KeyState.ACTIVE,
    }


def test_database_rejects_a_second_active_version(tenants: Database) -> None:
    a_new_version(tenants, "acme")
    with pytest.raises(DatabaseRefused, match="23505"), tenants.raw_tx("acme") as connection:
        connection.execute("update okcm.service_key set state = 'active' where service = 'orders'")


def rewrapped(tx, version: int = 2) -> list[RewrappedRow]:
    return [RewrappedRow(row, row.wrapped + b" again", version) for row in tx.rotations.outdated(100)]


def test_tenant_key_version_is_retired_only_after_all_wraps_are_replaced(
    tenants: Database,
) -> None:
    begin(tenants, tenant_key=True, services=RotationScope.NONE)
    with tenants.tenant_tx("acme") as tx:
        tx.rotations.rotated(2, 2)
        tx.rotations.rotated(2, 2)
        tx.rotations.enter(2, RotationPhase.REWRAP)
        assert tx.rotations.retire_tenant_key(2) is None
        tx.rotations.count_outdated(2)
        progress = tx.rotations.rewrap(2, rewrapped(tx)[:1])
        assert (progress.done, progress.total) == (1, 2)
        tx.rotations.count_outdated(2)
        assert tx.rotations.get(2) == progress
        assert tx.rotations.retire_tenant_key(2) is None
        progress = tx.rotations.rewrap(2, rewrapped(tx))
        assert (progress.stage, progress.done, progress.total) == (RotationPhase.REWRAP, 2, 2)
        assert tx.rotations.enter(2, RotationPhase.REWRAP) == progress
        assert tx.rotations.retire_tenant_key(2) == 2
        assert tx.rotations.retire_tenant_key(2) == 2
        key = tx.keys.get("L2-acme-primary")
        assert (key.version, key.oldest) == (2, 2)
        [row, _] = [tx.services.key(service) for service in ("orders", "users")]
        assert row.wrapped == b"wrapped twice again"


def test_concurrently_replaced_wrap_is_unchanged(tenants: Database) -> None:
    begin(tenants, tenant_key=True)
    with tenants.tenant_tx("acme") as tx:
        tx.rotations.rotated(2, 2)
        rows = rewrapped(tx)
        assert tx.rotations.rewrap(2, [rows[0]._replace(wrapped=b"first")]).done == 1
        assert tx.rotations.rewrap(2, rows).done == 2
        kept = tx.services.key("orders")
        assert kept.wrapped == b"first"


def test_version_that_encrypts_credentials_is_not_retired(tenants: Database, field: Field) -> None:
    a_root_key(field, "acme")
    begin(tenants, tenant_key=True)
    with tenants.tenant_tx("acme") as tx:
        tx.rotations.rotated(2, 2)
        tx.rotations.rewrap(2, rewrapped(tx))
        assert tx.rotations.retire_tenant_key(2) is None
        [read] = tx.rotations.outdated_credentials()
        tx.rotations.rewrap_credentials(2, replace(read, credentials="not the stored ones"), "never", 2)
        assert tx.rotations.outdated_credentials() == [read]
        tx.rotations.rewrap_credentials(2, read, "again", 2)
        assert tx.rotations.retire_tenant_key(2) == 2
        assert tx.root_keys.sealed(read.root_key_id) == replace(read, credentials="again")


def test_ended_rotation_rejects_further_changes(tenants: Database) -> None:
    begin(tenants, tenant_key=True)
    prepare(tenants)
    with tenants.tenant_tx("acme") as tx:
        tx.rotations.rotated(2, 2)
        rows, key = rewrapped(tx), a_service_key("acme", version=7)
        assert tx.rotations.end(2, "root_key_disabled")
        assert not tx.rotations.end(2)
    sealed = EncryptedRootKeyRow("0" * 32, a_place(), "x")
    for late in (
        lambda tx: tx.rotations.enter(2, RotationPhase.REWRAP),
        lambda tx: tx.rotations.rotated(2, 3),
        lambda tx: tx.rotations.prepare(2, key),
        lambda tx: tx.rotations.came(2, 1, 0),
        lambda tx: tx.rotations.activate(2),
        lambda tx: tx.rotations.count_outdated(2),
        lambda tx: tx.rotations.rewrap(2, rows),
        lambda tx: tx.rotations.rewrap_credentials(2, sealed, "y", 2),
        lambda tx: tx.rotations.retire_tenant_key(2),
    ):
        with pytest.raises(Superseded), tenants.tenant_tx("acme") as tx:
            late(tx)
    with pytest.raises(DatabaseRefused), tenants.tenant_tx("acme") as tx:
        tx.rotations.begin(2, a_wanted_rotation(), 1)
    assert states(tenants)["orders", 2] is KeyState.DESTROYED
    with tenants.tenant_tx("acme") as tx:
        ended = tx.rotations.get(2)
    assert (ended.state, ended.problem, ended.finished_at is None) == ("failed", "root_key_disabled", False)


def test_version_is_destroyed_only_if_inactive_and_without_objects(tenants: Database, field: Field) -> None:
    a_new_version(tenants, "acme", compromised=True)
    with tenants.tenant_tx("acme") as tx:
        [use] = tx.rotations.compromised()
        assert (use.service, use.version, use.objects) == ("orders", 1, 1)
        assert tx.rotations.destroy("orders", 1) == 1
    assert states(tenants)["orders", 1] is KeyState.COMPROMISED
    with field.open("crypto").tenant_tx("acme") as tx:
        assert tx.objects.change(an_object("acme", "object-orders", material=None))
    with tenants.tenant_tx("acme") as tx:
        assert tx.rotations.destroy("orders", 1) == 0
        assert tx.rotations.destroy("orders", 1) == 0
    assert states(tenants)["orders", 1] is KeyState.DESTROYED
    for version, error in ((2, KeyVersionInUse), (3, KeyVersionUnknown)):
        with pytest.raises(error), tenants.tenant_tx("acme") as tx:
            tx.rotations.destroy("orders", version)


def test_destroyed_version_encrypts_no_object(tenants: Database, field: Field) -> None:
    crypto = field.open("crypto")
    with crypto.tenant_tx("acme") as tx:
        assert tx.objects.change(an_object("acme", "object-orders", material=None))
    a_new_version(tenants, "acme")
    with tenants.tenant_tx("acme") as tx:
        tx.rotations.destroy("orders", 1)
    with pytest.raises(DatabaseRefused, match="23514"), crypto.tenant_tx("acme") as tx:
        tx.objects.add([an_object("acme", "late")])
    with crypto.tenant_tx("acme") as tx:
        tx.objects.add([an_object("acme", "late", key_version=2)])
    with pytest.raises(DatabaseRefused, match="23514"), crypto.tenant_tx("acme") as tx:
        tx.objects.change(an_object("acme", "late"))


def test_destruction_waits_for_a_concurrent_encryption(tenants: Database, field: Field) -> None:
    a_new_version(tenants, "acme", "users")
    with field.open("crypto").tenant_tx("acme") as tx:
        assert tx.objects.change(an_object("acme", "object-users", service="users", key_version=2))

    def destroy() -> int:
        with tenants.tenant_tx("acme") as tx:
            return tx.rotations.destroy("users", 1)

    waiting = "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    with ThreadPoolExecutor(1) as pool, field.administrator() as administrator:
        with field.open("crypto").tenant_tx("acme") as tx:
            tx.objects.add([an_object("acme", "just-now", service="users")])
            destroying = pool.submit(destroy)
            wait_until(lambda: administrator.execute(waiting).fetchone() is not None)
            assert not destroying.done()
        assert destroying.result(60) == 1
    assert states(tenants)["users", 1] is KeyState.DEACTIVATED


def test_root_key_change_skips_destroyed_versions(tenants: Database, field: Field) -> None:
    with field.open("crypto").tenant_tx("acme") as tx:
        assert tx.objects.change(an_object("acme", "object-orders", material=None))
    a_new_version(tenants, "acme")
    with tenants.tenant_tx("acme") as tx:
        tx.rotations.destroy("orders", 1)
    root_key_id = a_root_key(field, "acme")
    with tenants.raw_tx("acme") as connection:
        rows = connection.execute(
            "select service, version, root_key_id, wrapped from okcm.service_key order by service, version"
        ).fetchall()
    assert rows == [
        ("orders", 1, None, None),
        ("orders", 2, root_key_id, b"wrapped twice again"),
        ("users", 1, root_key_id, b"wrapped twice again"),
    ]
    with tenants.tenant_tx("acme") as tx:
        change = tx.root_keys.change(1)
    assert (change.wrapped, change.total) == (2, 2)


def test_rotation_discards_a_wrap_staged_for_a_root_key_change(tenants: Database) -> None:
    """Only one operation runs at a time; if two did, neither would lose the changes of the other."""
    begin(tenants, tenant_key=True, services=RotationScope.NONE)
    with tenants.tenant_tx("acme") as tx:
        tx.root_keys.begin(1, RootKeyMode.PLATFORM, "root-eu-west-1", None)
        read = tx.root_keys.unstaged(1, 10)
        tx.root_keys.stage(1, [(row, b"staged from the old wrap") for row in read])
        tx.rotations.rotated(2, 2)
        tx.rotations.rewrap(2, rewrapped(tx)[:1])
        assert not tx.root_keys.switch(1)
        [unstaged] = tx.root_keys.unstaged(1, 10)
        assert (unstaged.service, unstaged.wrapped) == ("orders", b"wrapped twice again")
        tx.root_keys.stage(1, [(read[0], b"from the old wrap, late")])
        assert not tx.root_keys.switch(1)
        tx.root_keys.stage(1, [(unstaged, b"from the new wrap")])
        assert tx.root_keys.switch(1)
        assert [row.wrapped for row in tx.rotations.outdated(10)] == [b"staged from the old wrap"]


def test_operator_and_dashboard_can_read_rotations(tenants: Database, field: Field) -> None:
    begin(tenants, tenant_key=True)
    for role in ("operator", "dashboard"):
        with field.open(role).tenant_tx("acme") as tx:
            assert [row.number for row in tx.rotations.all()] == [2, 1]
            assert tx.rotations.all(1)[0].started_at == tx.rotations.all()[0].started_at


def test_object_count_is_restricted_to_the_tenant(tenants: Database) -> None:
    with tenants.raw_tx("acme") as connection:
        [(counted,)] = connection.execute("select okcm.objects_sealed('orders', 1)").fetchall()
    assert counted == 1
    for tenant in ("*", "beta"):
        with tenants.raw_tx("acme") as connection:
            connection.execute("select set_config('app.tenant_id', %s, true)", [tenant])
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("select okcm.objects_sealed('orders', 1)")
