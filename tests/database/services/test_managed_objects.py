import psycopg
import pytest

from core.errors.platform import DatabaseRefused
from core.names import l2_key
from database.connection.database import Database
from database.schema.migrate import migrate, read_migrations
from tests.database.builders import a_connected_service, a_new_version, an_object
from tests.database.fixtures import Field
from tests.database.templates import filled_template, two_tenants

template = filled_template(two_tenants())


@pytest.fixture
def crypto(field: Field) -> Database:
    a_connected_service(field, "acme", "users", "3c4d")
    return field.open("crypto")


def test_object_is_read_as_stored(crypto: Database) -> None:
    row = an_object("acme", names=("first", "second, third", '{"quoted"}'), attributes=b"\0\xff", state=0)
    with crypto.tenant_tx("acme") as tx:
        tx.objects.add([row, an_object("acme", "object-2", material=None)])
        assert tx.objects.get("orders", "object-1") == row
        assert tx.objects.get("orders", "object-2") == an_object("acme", "object-2", material=None)


def test_object_of_another_service_or_tenant_is_not_found(crypto: Database) -> None:
    with crypto.tenant_tx("acme") as tx:
        tx.objects.add([an_object("acme", "mine", names=("one",))])
    for tenant, service in (("acme", "users"), ("beta", "orders")):
        with crypto.tenant_tx(tenant) as tx:
            mine = an_object("acme", "mine", service=service)
            assert tx.objects.get(service, "mine") is None
            assert tx.objects.named(service, "one") == []
            assert not tx.objects.change(mine)
            assert not tx.objects.remove(service, "mine")
            assert "mine" not in {row.object_id for row in tx.objects.of_service(service)}
    with crypto.tenant_tx("acme") as tx:
        assert tx.objects.get("orders", "mine") == an_object("acme", "mine", names=("one",))


def test_objects_are_found_by_name_and_listed_oldest_first(crypto: Database) -> None:
    with crypto.tenant_tx("acme") as tx:
        tx.objects.add([an_object("acme", "z", names=("one", "two")), an_object("acme", "a", names=("two",))])
        tx.objects.add([an_object("acme", "m", names=())])
        assert [row.object_id for row in tx.objects.named("orders", "two")] == ["z", "a"]
        assert [row.object_id for row in tx.objects.named("orders", "one")] == ["z"]
        for nothing in ("tw%", "", "users/one", "/one"):
            assert tx.objects.named("orders", nothing) == []
        assert [row.object_id for row in tx.objects.of_service("orders")] == ["object-orders", "z", "a", "m"]
        assert {row.material for row in tx.objects.of_service("orders")} == {b""}
        assert tx.objects.count("orders") == 4


def test_objects_are_counted_by_service_and_state(crypto: Database, field: Field) -> None:
    with crypto.tenant_tx("acme") as tx:
        tx.objects.add([an_object("acme", f"counted-{number}", state=1 + number % 2) for number in range(5)])
        tx.objects.add([an_object("acme", "gone", state=5, material=None)])
    with field.open("dashboard").tenant_tx("acme") as tx:
        counted = {(row.service, row.state): row.count for row in tx.objects.counts()}
    assert counted == {("orders", 1): 4, ("orders", 2): 2, ("orders", 5): 1, ("users", 1): 1}


def test_renamed_object_is_found_by_its_new_name_only(crypto: Database) -> None:
    with crypto.tenant_tx("acme") as tx:
        tx.objects.add([an_object("acme", names=("one", "two"))])
        assert tx.objects.change(an_object("acme", names=("three", "two")))
        assert [len(tx.objects.named("orders", name)) for name in ("one", "two", "three")] == [0, 1, 1]


def test_change_requires_the_current_revision(crypto: Database) -> None:
    with crypto.tenant_tx("acme") as tx:
        tx.objects.add([an_object("acme")])
        changed = an_object("acme", state=2, names=("renamed",), attributes=b"more", material=b"encrypted again")
        assert tx.objects.change(changed)
        assert not tx.objects.change(changed._replace(state=3))
        assert tx.objects.get("orders", "object-1") == changed._replace(revision=2)
        assert tx.objects.change(changed._replace(revision=2, material=None))


def test_change_cannot_move_an_object_to_another_service_or_key(crypto: Database) -> None:
    with crypto.tenant_tx("acme") as tx:
        tx.objects.add([an_object("acme")])
        for elsewhere in ({"service": "users"}, {"l2_key": l2_key("beta")}, {"object_type": 3}, {"object_id": "x"}):
            assert not tx.objects.change(an_object("acme", **elsewhere))
        assert tx.objects.get("orders", "object-1") == an_object("acme")


def test_object_can_be_deleted_only_after_its_destruction(crypto: Database) -> None:
    with crypto.tenant_tx("acme") as tx:
        tx.objects.add([an_object("acme")])
        assert not tx.objects.remove("orders", "object-1")
        assert tx.objects.change(an_object("acme", state=5, material=None))
        assert tx.objects.remove("orders", "object-1")
        assert not tx.objects.remove("orders", "object-1")
        assert tx.objects.get("orders", "object-1") is None


@pytest.mark.parametrize(
    "changed", [{"l2_key": l2_key("beta")}, {"l2_key": "L2-never-made"}, {"service": "unknown"}, {"key_version": 2}]
)
def test_object_without_a_service_key_of_its_tenant_is_rejected(crypto: Database, changed: dict[str, object]) -> None:
    with pytest.raises(DatabaseRefused, match="23503"), crypto.tenant_tx("acme") as tx:
        tx.objects.add([an_object("acme", **changed)])
    with crypto.tenant_tx("acme") as tx:
        assert tx.objects.get("orders", "object-1") is None


def test_object_is_reencrypted_only_with_a_recorded_key_version(crypto: Database, worker: Database) -> None:
    with crypto.tenant_tx("acme") as tx:
        tx.objects.add([an_object("acme")])
    reencrypted = an_object("acme", key_version=2, material=b"encrypted by the second")
    with pytest.raises(DatabaseRefused, match="23503"), crypto.tenant_tx("acme") as tx:
        tx.objects.change(reencrypted)
    a_new_version(worker, "acme")
    with crypto.tenant_tx("acme") as tx:
        assert tx.objects.change(reencrypted)


def test_object_with_invalid_values_is_rejected(crypto: Database) -> None:
    for changed in (
        {"material": b"x" * 65537},
        {"material": b""},
        {"attributes": b"x" * 65537},
        {"state": 7},
        {"object_type": 0},
        {"names": ("n",) * 65},
        {"names": ("n" * 16385,)},
        {"object_id": ""},
        {"revision": 0},
    ):
        with pytest.raises(DatabaseRefused, match="23514"), crypto.tenant_tx("acme") as tx:
            tx.objects.add([an_object("acme", **changed)])


def test_batch_with_one_invalid_object_is_rejected(crypto: Database) -> None:
    with pytest.raises(DatabaseRefused), crypto.tenant_tx("acme") as tx:
        tx.objects.add([an_object("acme", "good"), an_object("acme", "bad", state=9)])
    with crypto.tenant_tx("acme") as tx:
        assert tx.objects.get("orders", "good") is None


def test_migration_marks_objects_without_a_state_that_were_destroyed_before(crypto: Database, field: Field) -> None:
    for tenant in ("acme", "beta"):
        with crypto.tenant_tx(tenant) as tx:
            tx.objects.add(
                [
                    an_object(tenant, "destroyed", object_type=8, state=0, material=None),
                    an_object(tenant, "kept", object_type=8, state=0),
                    an_object(tenant, "compromised", state=6, material=None),
                ]
            )
    with field.administrator() as admin:
        admin.execute("delete from okcm.schema_migration where version >= 36")
    with psycopg.connect(field.server.session(field.name, "migrator"), autocommit=True) as migrator:
        assert "0036_destroyed_states.sql" in migrate(migrator, read_migrations())
    for tenant in ("acme", "beta"):
        with crypto.tenant_tx(tenant) as tx:
            assert tx.objects.get("orders", "destroyed").state == 5
            assert tx.objects.get("orders", "kept").state == 0
            assert tx.objects.get("orders", "compromised").state == 6
            assert [use.objects for use in tx.objects.versions() if use.service == "orders"] == [2]
