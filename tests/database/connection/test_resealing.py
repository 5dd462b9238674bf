"""Re-encryption of managed objects: the queries and updates of the crypto service."""

from collections.abc import Iterator

import pytest

from core.errors.platform import DatabaseRefused
from core.keys.rotation import KeyState
from core.tenants.lifecycle import Transition
from core.tenants.locks import LockReason
from database.connection.database import Database
from database.platform.scheduled import PlatformQueries
from database.postgres.change_feed import object_hash, tenant_hash
from database.services.managed_objects import ObjectRow
from tests.database.builders import a_connected_service, a_provisioned_tenant, a_route, a_service_key, an_object
from tests.database.fixtures import Field
from tests.database.postgres.test_change_feed import LOST, RecordingFeed
from tests.database.templates import filled_template


def fill(field: Field) -> None:
    """Tenants with a second, active version of the key of their service; acme's service users has one version."""
    worker = field.open("worker")
    for tenant in ("acme", "beta", "gamma"):
        a_provisioned_tenant(worker, tenant)
        a_connected_service(field, tenant)
        with worker.tenant_tx(tenant) as tx:
            tx.tenants.move(Transition.ACTIVATE)
        rotate(worker, tenant)
    a_connected_service(field, "acme", "users", "3c4d")


template = filled_template(fill)


@pytest.fixture
def crypto(field: Field) -> Database:
    return field.open("crypto")


def rotate(worker: Database, tenant: str, version: int = 2) -> None:
    with worker.tenant_tx(tenant) as tx:
        tx.services.record_key(a_service_key(tenant, version=version)._replace(state=KeyState.PREPARED))
    with worker.raw_tx(tenant) as connection:
        connection.execute(
            "update okcm.service_key set state = 'deactivated', deactivated_at = clock_timestamp()"
            " where state = 'active' and service = 'orders'"
        )
        connection.execute(
            "update okcm.service_key set state = 'active', activated_at = clock_timestamp() where version = %s",
            [version],
        )


def reencrypted(row: ObjectRow, version: int = 2) -> ObjectRow:
    return row._replace(key_version=version, material=b"encrypted again")


def stored(crypto: Database, tenant: str = "acme", object_id: str = "object-orders") -> ObjectRow:
    with crypto.tenant_tx(tenant) as tx:
        row = tx.objects.get("orders", object_id)
    assert row is not None
    return row


def test_stale_services_are_returned_in_pages(crypto: Database) -> None:
    everything = [("acme", "orders"), ("beta", "orders"), ("gamma", "orders")]
    assert PlatformQueries(crypto).stale_services(("", ""), 10) == everything
    pages = [PlatformQueries(crypto).stale_services(after, 1) for after in (("", ""), *everything)]
    assert pages == [[one] for one in everything] + [[]]


@pytest.mark.parametrize("state", ["prepared", "active", "destroyed"])
def test_prepared_active_and_destroyed_versions_are_not_stale(crypto: Database, field: Field, state: str) -> None:
    with field.administrator() as administrator:
        administrator.execute("drop index okcm.service_key_active")
        administrator.execute(
            "update okcm.service_key set state = %s, wrapped = case when %s then null else wrapped end"
            " where tenant_id = 'acme' and version = 1",
            [state, state == "destroyed"],
        )
    assert PlatformQueries(crypto).stale_services(("", ""), 10) == [("beta", "orders"), ("gamma", "orders")]
    with crypto.tenant_tx("acme") as tx:
        assert tx.services.unemptied("orders") == []


def test_locked_and_offboarding_tenants_are_not_stale(crypto: Database, worker: Database) -> None:
    with worker.tenant_tx("acme") as tx:
        tx.tenants.hold(LockReason.MANUAL)
    with worker.tenant_tx("beta") as tx:
        tx.tenants.move(Transition.LEAVE)
    with worker.tenant_tx("gamma") as tx:
        tx.tenants.move(Transition.SUSPEND)
    assert PlatformQueries(crypto).stale_services(("", ""), 10) == [("gamma", "orders")]


def test_compromised_versions_come_first(crypto: Database, worker: Database) -> None:
    rotate(worker, "acme", 3)
    with worker.raw_tx("acme") as connection:
        connection.execute("update okcm.service_key set state = 'compromised' where service = 'orders' and version = 2")
    with crypto.tenant_tx("acme") as tx:
        assert tx.services.unemptied("orders") == [2, 1]


def test_reencryption_changes_only_the_ciphertext_and_needs_the_current_revision(crypto: Database) -> None:
    before = stored(crypto)
    with crypto.tenant_tx("acme") as tx:
        assert tx.objects.reseal([reencrypted(before)._replace(names=("x",), state=3, attributes=b"x")]) == 1
        assert tx.objects.reseal([reencrypted(before)]) == 0
        assert not tx.objects.change(before._replace(state=3))  # would restore the former ciphertext
    assert stored(crypto) == reencrypted(before)._replace(revision=before.revision + 1)


def test_destroyed_object_is_not_reencrypted(crypto: Database) -> None:
    before = stored(crypto)
    with crypto.tenant_tx("acme") as tx:
        assert tx.objects.change(before._replace(material=None, state=5))
        assert tx.objects.reseal([reencrypted(before)._replace(revision=before.revision + 1)]) == 0
    assert stored(crypto).material is None


def test_object_of_another_service_or_tenant_is_not_reencrypted(crypto: Database) -> None:
    mine = stored(crypto)
    with crypto.tenant_tx("beta") as tx:
        assert tx.objects.reseal([reencrypted(mine)]) == 0
    with crypto.tenant_tx("acme") as tx:
        assert tx.objects.reseal([reencrypted(mine)._replace(service="users")]) == 0
    assert stored(crypto) == mine


def test_objects_of_a_key_version_are_returned_in_order(crypto: Database) -> None:
    with crypto.tenant_tx("acme") as tx:
        tx.objects.add([an_object("acme", object_id, names=()) for object_id in ("c", "a", "b")])
        tx.objects.add([an_object("acme", "gone", names=(), material=None)])
        tx.objects.add([an_object("acme", "newer", names=(), key_version=2)])
        assert [row.object_id for row in tx.objects.sealed("orders", 1, "", 10)] == ["a", "b", "c", "object-orders"]
        assert [row.object_id for row in tx.objects.sealed("orders", 1, "a", 2)] == ["b", "c"]
        assert tx.objects.sealed("users", 1, "object-users", 10) == []


def test_version_is_emptied_after_its_last_object_and_a_delay(crypto: Database, field: Field) -> None:
    with crypto.tenant_tx("acme") as tx:
        assert tx.objects.reseal([reencrypted(row) for row in tx.objects.sealed("orders", 1, "", 10)]) == 1
    with crypto.tenant_tx("acme") as tx:
        assert tx.services.note_emptied("orders") == []  # a process with an outdated cache may still store an object
    with field.administrator() as administrator:
        administrator.execute("update okcm.service_key set deactivated_at = now() - interval '121 seconds'")
    for tenant, emptied in (("acme", [1]), ("beta", [])):
        with crypto.tenant_tx(tenant) as tx:
            assert tx.services.note_emptied("orders") == emptied
    assert PlatformQueries(crypto).stale_services(("", ""), 10) == [("beta", "orders"), ("gamma", "orders")]
    with pytest.raises(DatabaseRefused, match="23514"), crypto.tenant_tx("acme") as tx:
        tx.objects.add([an_object("acme", "late", names=())])
    with crypto.tenant_tx("beta") as tx:
        tx.objects.add([an_object("beta", "late", names=())])


@pytest.fixture
def listener(crypto: Database, field: Field) -> Iterator[RecordingFeed]:  # noqa: ARG001 - `crypto` must be set up first
    running = RecordingFeed(field)
    assert running.next() == LOST
    yield running
    running.end()


def test_object_changes_except_reencryption_are_notified(
    crypto: Database, worker: Database, listener: RecordingFeed
) -> None:
    before = stored(crypto)
    with crypto.tenant_tx("acme") as tx:
        assert tx.objects.reseal([reencrypted(before)]) == 1
    changes = [{"names": ("x",)}, {"state": 2}, {"attributes": b"x"}, {"material": b"x"}, {"material": None}]
    for revision, changed in enumerate(changes, before.revision + 1):
        row = reencrypted(before)._replace(revision=revision, **changed)
        with crypto.tenant_tx("acme") as tx:
            assert tx.objects.change(row)
        assert listener.next() == object_hash("acme"), changed
    with worker.tenant_tx("beta") as tx:
        tx.routes.publish(a_route("beta")._replace(region="us-east-1"))
    assert listener.next() == tenant_hash("beta")


def test_state_of_a_key_version_is_notified_but_not_its_wrap_use_or_emptying(
    crypto: Database, worker: Database, listener: RecordingFeed
) -> None:
    with worker.raw_tx("acme") as connection:
        connection.execute("update okcm.service_key set wrapped = 'again', l2_version = 2")
    with crypto.tenant_tx("acme") as tx:
        tx.services.opened("orders", 2)
    with crypto.raw_tx("acme") as connection:
        connection.execute("update okcm.service_key set emptied_at = now() where version = 1")
    with worker.raw_tx("beta") as connection:
        connection.execute("update okcm.service_key set state = 'compromised' where version = 1")
    assert listener.next() == tenant_hash("beta")
