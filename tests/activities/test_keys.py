"""Step 2: one key of each kind however often it is asked for, disabled and never destroyed by a roll-back."""

import pytest

from tenancy import ids
from tenancy.binding import Context, Purpose
from tenancy.errors import ConflictingResource, KeyUnavailable
from tenancy.isolation_errors import TenantKeyReplaced, TenantKeyShared
from tenancy.provisioning import Step
from tests.activities.conftest import Provisioning
from tests.vault.sharing import a_shared_key
from vault.tokens import TenantTokens
from vault.transit import TransitTenantKeys


@pytest.fixture
def as_tenant(parts, key_server) -> TransitTenantKeys:
    return TransitTenantKeys(parts.vault, TenantTokens(parts.vault, key_server.identity_pem))


def a_context(tenant: Provisioning) -> Context:
    return Context(tenant.tenant_id, ids.l2_key(tenant.tenant_id), "orders", Purpose.SERVICE_KEY, "1")


def keys_of(tenant: Provisioning) -> dict[str, tuple[str, int]]:
    with tenant.database.tenant_tx(tenant.tenant_id) as tx:
        return {key.name: (key.kind, key.version) for key in tx.keys.all()}


def both_keys(tenant: Provisioning) -> dict[str, tuple[str, int]]:
    return {ids.l2_key(tenant.tenant_id): ("L2", 1), ids.payload_key(tenant.tenant_id): ("payload", 1)}


def test_creating_the_keys_twice_makes_one_of_each_kind_and_one_version(tenant):
    tenant.run(Step.OPEN_RECORDS)
    tenant.run(Step.CREATE_KEYS)
    tenant.run(Step.CREATE_KEYS)
    assert keys_of(tenant) == both_keys(tenant)
    for name in both_keys(tenant):
        made = tenant.parts.vault.read(f"transit/keys/{name}")
        assert made is not None
        assert (made["latest_version"], made["derived"], made["exportable"]) == (1, name.startswith("L2-"), False)
    assert tenant.is_done(Step.CREATE_KEYS)
    tenant.assert_audited_once()


def test_a_key_that_was_made_but_not_recorded_is_found_again(tenant, as_tenant):
    tenant.run(Step.OPEN_RECORDS)
    as_tenant.ensure(tenant.tenant_id)
    tenant.run(Step.CREATE_KEYS)
    assert keys_of(tenant) == both_keys(tenant)


def test_something_else_under_the_tenant_keys_name_is_refused_and_not_recorded(tenant, vault_admin):
    tenant.run(Step.OPEN_RECORDS)
    vault_admin.write(f"transit/keys/{ids.l2_key(tenant.tenant_id)}", {"type": "aes256-gcm96", "exportable": True})
    before = tenant.audited()
    with pytest.raises(ConflictingResource):
        tenant.run(Step.CREATE_KEYS)
    assert keys_of(tenant) == {}
    assert tenant.audited() == before
    assert not tenant.is_done(Step.CREATE_KEYS)


def test_the_worker_writes_the_tenants_payloads_under_the_first_key_it_made(tenant):
    tenant.run(Step.OPEN_RECORDS)
    tenant.run(Step.CREATE_KEYS)
    first = tenant.parts.keyring.current(tenant.tenant_id)
    tenant.run(Step.CREATE_KEYS)
    assert first.key_name == ids.payload_key(tenant.tenant_id)
    assert tenant.parts.keyring.current(tenant.tenant_id) == first


def test_a_roll_back_disables_the_tenant_key_and_a_retry_enables_it_with_what_it_wrapped(tenant, as_tenant):
    tenant.run(Step.OPEN_RECORDS)
    tenant.run(Step.CREATE_KEYS)
    wrapped = as_tenant.encrypt(a_context(tenant), b"a service key")

    tenant.run("disable-tenant-key")
    tenant.run("disable-tenant-key")
    with pytest.raises(KeyUnavailable):
        as_tenant.decrypt(a_context(tenant), wrapped)
    tenant.run("record-failure", code="boundary_breached", reason="check-boundaries")

    tenant.attempt += 1
    tenant.run(Step.OPEN_RECORDS)
    tenant.run(Step.CREATE_KEYS)
    assert as_tenant.decrypt(a_context(tenant), wrapped) == b"a service key"
    assert keys_of(tenant) == both_keys(tenant)
    tenant.assert_audited_once()


def test_rolling_back_a_key_that_was_never_made_changes_nothing(tenant):
    tenant.run(Step.OPEN_RECORDS)
    tenant.run("disable-tenant-key")
    assert tenant.parts.vault.read(f"transit/keys/{ids.l2_key(tenant.tenant_id)}") is None


def test_a_roll_back_leaves_what_somebody_else_made_under_the_keys_name_alone(tenant, vault_admin):
    tenant.run(Step.OPEN_RECORDS)
    name = ids.l2_key(tenant.tenant_id)
    vault_admin.write(f"transit/keys/{name}", {"type": "aes256-gcm96", "exportable": True})
    with pytest.raises(ConflictingResource):
        tenant.run(Step.CREATE_KEYS)
    tenant.run("disable-tenant-key")
    assert (vault_admin.read(f"transit/keys/{name}") or {})["soft_deleted"] is False
    assert "tenant.provision_rolled_back" not in [record["name"] for record in tenant.audited()]


# ── a key that is not the tenant's alone ─────────────────────────────────────────────────────────────────────────────


def refused_keys(tenant):
    return [record["details"]["code"] for record in tenant.audited() if record["name"] == "key.tenant_key_refused"]


def a_disabled_l2(tenant):
    return (tenant.parts.vault.read(f"transit/keys/{ids.l2_key(tenant.tenant_id)}") or {})["soft_deleted"]


def test_a_key_that_another_tenant_has_too_stops_provisioning_and_is_on_record_as_nobodys(
    tenant, request_tenant, vault_admin
):
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
    # A roll-back leaves it alone: whose it is is not known, and the first one's goes on.
    other.run("disable-tenant-key")
    assert not a_disabled_l2(other)
    assert refused_keys(tenant) == []


def test_a_key_that_was_replaced_under_its_name_is_refused(tenant, vault_admin):
    tenant.run_until(Step.CREATE_KEYS)
    name = f"transit/keys/{ids.l2_key(tenant.tenant_id)}"
    vault_admin.write(f"{name}/config", {"deletion_allowed": True})
    vault_admin.delete(name)
    with pytest.raises(TenantKeyReplaced):
        tenant.run(Step.CREATE_KEYS)
    assert refused_keys(tenant) == ["tenant_key_replaced"]


def test_a_key_that_was_made_and_recorded_before_the_process_died_is_not_taken_for_anothers(tenant):
    tenant.run(Step.OPEN_RECORDS)
    for _ in range(3):
        tenant.run(Step.CREATE_KEYS)
    assert refused_keys(tenant) == []
