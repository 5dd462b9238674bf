"""Step 2: one key of each kind for any number of runs; a rollback disables and never destroys it."""

import pytest

from core import names as ids
from core.errors.compliance import TenantKeyReplaced, TenantKeyShared
from core.errors.keys import KeyUnavailable
from core.errors.platform import ConflictingResource
from core.keys.encryption_context import EncryptionContext, Purpose
from core.tenants.provisioning import Step
from tests.activities.provisioning import Provisioning
from tests.vault.sharing import a_shared_key


def a_context(tenant: Provisioning) -> EncryptionContext:
    return EncryptionContext(tenant.tenant_id, ids.l2_key(tenant.tenant_id), "orders", Purpose.SERVICE_KEY, "1")


def keys_of(tenant: Provisioning) -> dict[str, tuple[str, int]]:
    return {key.name: (key.kind, key.version) for key in tenant.read(lambda tx: tx.keys.all())}


def both_keys(tenant: Provisioning) -> dict[str, tuple[str, int]]:
    return {ids.l2_key(tenant.tenant_id): ("L2", 1), ids.payload_key(tenant.tenant_id): ("payload", 1)}


def refused_keys(tenant: Provisioning) -> list[str]:
    return [record["details"]["code"] for record in tenant.records("key.tenant_key_refused")]


def is_disabled(tenant: Provisioning) -> bool:
    return (tenant.parts.vault.read(f"transit/keys/{ids.l2_key(tenant.tenant_id)}") or {})["soft_deleted"]


def test_creating_the_keys_twice_creates_one_of_each_kind_with_one_version(tenant):
    tenant.run(Step.OPEN_RECORDS)
    tenant.run(Step.CREATE_KEYS)
    current = tenant.parts.keyring.current(tenant.tenant_id)
    assert current.key_name == ids.payload_key(tenant.tenant_id)
    tenant.run(Step.CREATE_KEYS)
    assert keys_of(tenant) == both_keys(tenant)
    for name in both_keys(tenant):
        made = tenant.parts.vault.read(f"transit/keys/{name}")
        assert made is not None
        assert (made["latest_version"], made["derived"], made["exportable"]) == (1, name.startswith("L2-"), False)
    assert tenant.is_done(Step.CREATE_KEYS)
    assert tenant.parts.keyring.current(tenant.tenant_id) == current
    assert refused_keys(tenant) == []
    tenant.assert_audited_once()


def test_created_but_unrecorded_key_is_adopted(tenant):
    tenant.run(Step.OPEN_RECORDS)
    tenant.tenant_keys.ensure(tenant.tenant_id)
    tenant.run(Step.CREATE_KEYS)
    assert keys_of(tenant) == both_keys(tenant)


def test_foreign_key_under_the_tenant_keys_name_is_rejected_and_not_changed(tenant, vault_admin):
    tenant.run(Step.OPEN_RECORDS)
    name = ids.l2_key(tenant.tenant_id)
    vault_admin.write(f"transit/keys/{name}", {"type": "aes256-gcm96", "exportable": True})
    before = tenant.records()
    with pytest.raises(ConflictingResource):
        tenant.run(Step.CREATE_KEYS)
    assert keys_of(tenant) == {}
    assert tenant.records() == before
    assert not tenant.is_done(Step.CREATE_KEYS)
    tenant.run("disable-tenant-key")
    assert not is_disabled(tenant)
    assert tenant.records("tenant.provision_rolled_back", "success") == []


def test_rollback_disables_the_tenant_key_and_a_retry_enables_it(tenant):
    tenant.run(Step.OPEN_RECORDS)
    tenant.run(Step.CREATE_KEYS)
    wrapped = tenant.tenant_keys.encrypt(a_context(tenant), b"a service key")

    tenant.run("disable-tenant-key")
    tenant.run("disable-tenant-key")
    with pytest.raises(KeyUnavailable):
        tenant.tenant_keys.decrypt(a_context(tenant), wrapped)
    tenant.run("record-failure", code="isolation_breached", reason="check-isolation")

    tenant.attempt += 1
    tenant.run(Step.OPEN_RECORDS)
    tenant.run(Step.CREATE_KEYS)
    assert tenant.tenant_keys.decrypt(a_context(tenant), wrapped) == b"a service key"
    assert keys_of(tenant) == both_keys(tenant)
    tenant.assert_audited_once()


def test_rollback_without_a_key_changes_nothing(tenant):
    tenant.run(Step.OPEN_RECORDS)
    tenant.run("disable-tenant-key")
    assert tenant.parts.vault.read(f"transit/keys/{ids.l2_key(tenant.tenant_id)}") is None


# ── shared and replaced keys ─────────────────────────────────────────────────────────────────────────────────────────


def test_key_shared_with_another_tenant_stops_provisioning_and_is_recorded(tenant, request_tenant, vault_admin):
    other = request_tenant()
    a_shared_key(vault_admin, ids.l2_key(tenant.tenant_id), ids.l2_key(other.tenant_id))
    tenant.run_until(Step.CREATE_KEYS)
    other.run(Step.OPEN_RECORDS)
    for _ in range(2):
        with pytest.raises(TenantKeyShared):
            other.run(Step.CREATE_KEYS)
    assert keys_of(other) == {}
    assert not other.is_done(Step.CREATE_KEYS)
    assert refused_keys(other) == ["tenant_key_shared"]
    other.assert_audited_once()
    # A rollback does not change it, because its owner is unknown; the first tenant keeps working.
    other.run("disable-tenant-key")
    assert not is_disabled(other)
    assert refused_keys(tenant) == []


def test_replaced_tenant_key_is_rejected(tenant, vault_admin):
    tenant.run_until(Step.CREATE_KEYS)
    name = f"transit/keys/{ids.l2_key(tenant.tenant_id)}"
    vault_admin.write(f"{name}/config", {"deletion_allowed": True})
    vault_admin.delete(name)
    with pytest.raises(TenantKeyReplaced):
        tenant.run(Step.CREATE_KEYS)
    assert refused_keys(tenant) == ["tenant_key_replaced"]
