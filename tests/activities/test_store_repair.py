"""A worker that dies anywhere within a repair: the next attempt completes it, and each effect is recorded once."""

import pytest

from compliance.stores import StoreReader
from core import names as ids
from core.messages.recovery import RepairTenantInput
from core.tenants.lifecycle import State
from core.tenants.locks import LockReason, LockRecord
from core.tenants.store_comparison import SkewKind, compare
from tests.activities.dying import crashes_after
from tests.activities.offboarding.leaving import Leaving
from tests.activities.provisioning import Provisioning
from tests.activities.services.connecting import Connection
from vault.auth.client import TokenSession
from vault.tenant_locks import TenantLocks

_EFFECTS = 30
"""More than a repair has."""


def repair(tenant: Provisioning, request_id: str = "request-1") -> None:
    request = RepairTenantInput(tenant_id=tenant.tenant_id, request_id=request_id, replace_workflows=False)
    tenant.run_with("repair-stores", request)


def kinds(tenant: Provisioning) -> list[SkewKind]:
    reader = StoreReader(tenant.database, tenant.parts.vault)
    return [skew.kind for skew in compare(reader.of(tenant.tenant_id))]


def crash_after_each_effect(tenant: Provisioning) -> int:
    """Repair with a crash after the first effect, then after the second and so on; return the number of crashes."""
    effects = 1
    while crashes_after(tenant, effects, lambda: repair(tenant)):
        effects += 1
        assert effects < _EFFECTS
    return effects - 1


@pytest.fixture
def tenant_with_key(connection: Connection) -> Provisioning:
    connection.connect()
    assert kinds(connection.tenant) == []
    return connection.tenant


def outcomes(tenant: Provisioning, name: str) -> list[str]:
    return [one["outcome"] for one in tenant.records(name) if one["event_id"].startswith("repair-")]


def test_lost_lock(tenant_with_key: Provisioning) -> None:
    tenant = tenant_with_key
    locks = TenantLocks(tenant.parts.vault)
    locks.record(tenant.tenant_id, LockRecord(State.LOCKED, frozenset({LockReason.ROOT_KEY}), 10_000, "ff"))
    assert kinds(tenant) == [SkewKind.LOCK_LOST]
    assert crash_after_each_effect(tenant) >= 3
    assert kinds(tenant) == []
    assert (tenant.tenant_row.state, tenant.tenant_row.locks) == (State.LOCKED, (LockReason.ROOT_KEY,))
    assert outcomes(tenant, "tenant.locked") == ["success"]


def test_lost_offboarding(tenant_with_key: Provisioning) -> None:
    tenant = tenant_with_key
    TenantLocks(tenant.parts.vault).record(tenant.tenant_id, LockRecord(State.LEAVING, seq=10_000, chain_hash="ff"))
    assert kinds(tenant) == [SkewKind.OFFBOARDING_LOST]
    assert crash_after_each_effect(tenant) >= 3
    assert kinds(tenant) == []
    assert tenant.tenant_row.state is State.LEAVING
    assert outcomes(tenant, "tenant.offboarding_started") == ["success"]


def test_retired_versions(tenant_with_key: Provisioning, vault_admin: TokenSession) -> None:
    tenant, key = tenant_with_key, f"transit/keys/{ids.l2_key(tenant_with_key.tenant_id)}"
    vault_admin.write(f"{key}/rotate")
    vault_admin.write(f"{key}/config", {"min_decryption_version": 2, "min_encryption_version": 2})
    assert kinds(tenant) == [SkewKind.VERSIONS_RETIRED]
    assert crash_after_each_effect(tenant) >= 5
    assert kinds(tenant) == [SkewKind.KEY_NEWER]


def test_destroyed_keys_that_a_restored_key_server_has_again(leaving: Leaving, vault_admin: TokenSession) -> None:
    tenant = leaving.tenant
    leaving.leave(now=True)
    leaving.through()
    assert SkewKind.DESTROYED_KEY_FOUND not in kinds(tenant)
    for name in (ids.l2_key(tenant.tenant_id), ids.payload_key(tenant.tenant_id)):
        vault_admin.write(f"transit/keys/{name}", {"type": "aes256-gcm96"})
    assert SkewKind.DESTROYED_KEY_FOUND in kinds(tenant)
    assert crash_after_each_effect(tenant) >= 8
    assert kinds(tenant) == []
    assert tenant.tenant_row.state is State.OFFBOARDED
