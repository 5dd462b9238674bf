"""Versions of root keys: the version of each wrap, the number of older ones, and the remaining work of a rotation."""

import pytest

from core.errors.keys import RootKeyUnreachable
from core.errors.platform import Superseded
from core.keys.root_keys import RootKeyMode
from core.keys.rotation import RotationPhase, RotationScope
from core.tenants.lifecycle import Transition
from core.tenants.locks import LockReason
from database.connection.database import Database
from database.platform.scheduled import PlatformQueries
from database.root_keys import RootKeyVersionsRow, VersionedRootKey
from database.rotation import RewrappedRow
from kms.self_test import transit_version
from tests.database.builders import (
    a_root_key,
    a_service_key,
    a_wanted_rotation,
)
from tests.database.fixtures import Field
from tests.database.templates import filled_template, two_services

WRAPS = {
    b"vault:v1:abc": 1,
    b"vault:v12:abc": 12,
    b"vault:v999999999:abc": 999_999_999,
    b"vault:v1000000000:abc": None,
    b"vault:v:abc": None,
    b"vault:vx:abc": None,
    b"xvault:v1:abc": None,
    b"vault:v1": None,
    b"vault:v-1:abc": None,
    b"vault:v1\\:": None,
    b"\x01\x00\xffvault:v1:": None,
    b"\x00": None,
}

template = filled_template(two_services)


def wrap(worker: Database, service: str, wrapped: bytes, tenant: str = "acme") -> None:
    with worker.raw_tx(tenant) as connection:
        connection.execute("update okcm.service_key set wrapped = %s where service = %s", [wrapped, service])


def versions(worker: Database, tenant: str = "acme") -> RootKeyVersionsRow | None:
    with worker.tenant_tx(tenant) as tx:
        return tx.root_keys.versions()


def notice(worker: Database, newest: int, root_key_id: str | None = None, tenant: str = "acme") -> bool:
    with worker.tenant_tx(tenant) as tx:
        tx.tenants.lock()
        return tx.root_keys.notice(root_key_id, newest)


def test_recorded_version_equals_the_version_in_the_wrap(tenants: Database) -> None:
    """The SQL function and the Python function for this format must always agree."""
    for wrapped, version in WRAPS.items():
        wrap(tenants, "orders", wrapped)
        with tenants.raw_tx("acme") as connection:
            [(found,)] = connection.execute("select root_key_version from okcm.service_key where service = 'orders'")
        assert (wrapped, found) == (wrapped, transit_version(wrapped)) == (wrapped, version)


@pytest.mark.usefixtures("tenants")
def test_canary_ciphertext_has_a_version_only_for_openbao(field: Field) -> None:
    key = a_root_key(field, "acme")
    with field.administrator() as administrator:
        for mode, expected in (("openbao", 7), ("aws-kms", None), ("pkcs11", None)):
            administrator.execute(
                "update okcm.root_key set mode = %s, probe = 'vault:v7:probe' where root_key_id = %s", [mode, key]
            )
            administrator.execute(
                "update okcm.service_key set root_key_mode = %s, wrapped = 'vault:v7:x' where root_key_id = %s",
                [mode, key],
            )
            probes = administrator.execute("select probe_version from okcm.root_key").fetchall()
            wraps = administrator.execute(
                "select distinct root_key_version from okcm.service_key where tenant_id = 'acme'"
            )
            assert (probes, wraps.fetchall()) == ([(expected,)], [(expected,)])


def test_several_roles_can_read_the_number_of_older_wraps(tenants: Database, field: Field) -> None:
    assert versions(tenants) is None
    wrap(tenants, "orders", b"vault:v1:x")
    wrap(tenants, "users", b"vault:v2:x")
    for role in ("operator", "dashboard", "worker"):
        assert versions(field.open(role)) == RootKeyVersionsRow(newest=2, older=1, wraps=2)
    assert notice(tenants, 3)
    assert not notice(tenants, 3)
    assert versions(tenants) == RootKeyVersionsRow(newest=3, older=2, wraps=2)
    assert versions(tenants, "beta") is None


def test_newest_version_is_reset_with_the_root_key_and_recorded_only_for_the_current_one(
    tenants: Database, field: Field
) -> None:
    assert notice(tenants, 5)
    key = a_root_key(field, "acme")
    assert versions(tenants) is None
    assert not notice(tenants, 5)
    assert notice(tenants, 4, key)
    with tenants.tenant_tx("acme") as tx:
        tx.root_keys.begin(2, RootKeyMode.PLATFORM, "root-eu-west-1", None)
        tx.root_keys.stage(2, [(row, b"vault:v1:again") for row in tx.root_keys.unstaged(2, 10)])
        assert tx.root_keys.switch(2)
    assert versions(tenants) == RootKeyVersionsRow(newest=1, older=0, wraps=2)


def test_versioned_root_keys_are_returned_for_tenants_in_use(tenants: Database) -> None:
    assert PlatformQueries(tenants).numbered_root_keys() == []
    wrap(tenants, "orders", b"vault:v2:x")
    wrap(tenants, "users", b"vault:v3:x")
    of_acme = VersionedRootKey("acme", "eu-west-1", None, 2, None)
    assert PlatformQueries(tenants).numbered_root_keys() == [of_acme]
    assert notice(tenants, 3)
    assert PlatformQueries(tenants).numbered_root_keys() == [of_acme._replace(noticed=3)]
    for move, back, found in ((Transition.SUSPEND, Transition.RESUME, 1), (Transition.LEAVE, None, 0)):
        with tenants.tenant_tx("acme") as tx:
            tx.tenants.move(move)
        assert len(PlatformQueries(tenants).numbered_root_keys()) == found
        if back is not None:
            with tenants.tenant_tx("acme") as tx:
                tx.tenants.move(back)


def test_root_keys_of_locked_tenants_and_unhealthy_root_keys_are_excluded(tenants: Database, field: Field) -> None:
    key = a_root_key(field, "acme")
    with field.administrator() as administrator:
        administrator.execute("update okcm.root_key set probe = 'vault:v1:probe'")
    assert PlatformQueries(tenants).numbered_root_keys() == [VersionedRootKey("acme", "eu-west-1", key, 1, None)]
    with tenants.tenant_tx("acme") as tx:
        tx.tenants.hold(LockReason.MANUAL)
    assert PlatformQueries(tenants).numbered_root_keys() == []
    with tenants.tenant_tx("acme") as tx:
        tx.tenants.release(LockReason.MANUAL)
        tx.root_keys.report(key, RootKeyUnreachable.code)
    assert PlatformQueries(tenants).numbered_root_keys() == []


def test_tenant_with_the_oldest_rotation_comes_first(tenants: Database) -> None:
    for tenant in ("acme", "beta"):
        wrap(tenants, "orders", b"vault:v1:x", tenant)
    with tenants.tenant_tx("acme") as tx:
        tx.rotations.begin(2, a_wanted_rotation(services=RotationScope.NONE), 1)
    assert [key.tenant_id for key in PlatformQueries(tenants).numbered_root_keys()] == ["beta", "acme"]


def test_outdated_wraps_remain_until_all_have_the_wanted_root_key_version(tenants: Database) -> None:
    wrap(tenants, "orders", b"vault:v1:x")
    wrap(tenants, "users", b"vault:v2:x")
    with tenants.tenant_tx("acme") as tx:
        wanted = a_wanted_rotation(services=RotationScope.NONE, root_key_version=2)
        started = tx.rotations.begin(2, wanted, 1)
        assert started.wanted == wanted
        tx.rotations.enter(2, RotationPhase.REWRAP)
        assert tx.rotations.outdated(10) == []
        [row] = tx.rotations.outdated(10, 2)
        assert (row.service, row.wrapped) == ("orders", b"vault:v1:x")
        # Meanwhile another transaction, which read the older version, records one more key.
        tx.services.record_key(a_service_key("acme", "orders", 2)._replace(wrapped=b"vault:v1:y", state="prepared"))
        tx.rotations.count_outdated(2)
        progress = tx.rotations.rewrap(2, [RewrappedRow(row, b"vault:v2:again", 1)])
        assert (progress.done, progress.total) == (1, 2)
        progress = tx.rotations.rewrap(2, [RewrappedRow(row, b"vault:v3:late", 1)])
        assert (progress.done, progress.total) == (1, 2)
        [left] = tx.rotations.outdated(10, 2)
        assert tx.rotations.rewrap(2, [RewrappedRow(left, b"vault:v2:again", 1)]).done == 2
        assert tx.rotations.outdated(10, 2) == []
        # The versions of the tenant key are independent of it.
        assert tx.rotations.retire_tenant_key(2) == 1


def test_canary_ciphertext_is_replaced_only_if_unchanged(tenants: Database, field: Field) -> None:
    key = a_root_key(field, "acme")
    with tenants.tenant_tx("acme") as tx:
        tx.rotations.begin(2, a_wanted_rotation(services=RotationScope.NONE, root_key_version=2), 1)
        tx.rotations.rewrap_probe(2, key, b"another", b"vault:v2:never")
        assert tx.root_keys.probe(key) == (b"probe", bytes(32))
        tx.rotations.rewrap_probe(2, key, b"probe", b"vault:v2:probe")
        assert tx.root_keys.probe(key) == (b"vault:v2:probe", bytes(32))
        tx.rotations.end(2)
    with pytest.raises(Superseded), tenants.tenant_tx("acme") as tx:
        tx.rotations.rewrap_probe(2, key, b"vault:v2:probe", b"vault:v3:probe")
