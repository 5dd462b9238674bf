"""The state with which a tenant workflow starts, and rollbacks of a provisioning that does not own the tenant."""

import threading
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from core import names as ids
from core.errors.tenants import InvalidTransition, OperationLost, OperationRepeated, TenantUnknown
from core.keys.encryption_context import EncryptionContext, Purpose
from core.keys.root_keys import RootKeyMode
from core.messages.base import StepInput
from core.messages.tenants import StatusChange, StatusChangeInput, StoredTenant
from core.tenants.lifecycle import State
from core.tenants.provisioning import EventKind, Step
from database.platform.scheduled import PlatformQueries
from tests.activities.provisioning import MADE, Provisioning, run_steps
from tests.database.builders import a_wanted_rotation, an_event
from worker.payload_codec import PLATFORM_KEY


def load(tenant: Provisioning) -> StoredTenant:
    return tenant.run_with("load-tenant", StepInput(tenant_id=tenant.tenant_id, operation_id="load"))


def assert_usable(tenant: Provisioning) -> None:
    """Assert that the tenant is active with the same route, and that its keys work."""
    assert tenant.tenant_row.state is State.ACTIVE
    assert tenant.read(lambda tx: tx.routes.get()) is not None
    context = EncryptionContext(tenant.tenant_id, ids.l2_key(tenant.tenant_id), "", Purpose.VERIFY, "check")
    keys = tenant.tenant_keys
    assert keys.decrypt(context, keys.encrypt(context, b"text")) == b"text"


def issues_certificates(tenant: Provisioning) -> bool:
    """Return whether the key of the tenant's CA signs."""
    tenant.run_with("publish-revocation-list", StepInput(tenant_id=tenant.tenant_id, operation_id="revocation-list"))
    return tenant.read(lambda tx: bool(tx.certificates.revocation_lists()))


def test_enabling_an_active_tenant_again_changes_neither_keys_nor_route(active):
    active.attempt = 2
    before = len(active.records())
    with pytest.raises(InvalidTransition):
        active.run(Step.OPEN_RECORDS)
    for step in ("disable-tenant-key", "disable-ca"):
        with pytest.raises(InvalidTransition):
            active.run(step)
    with pytest.raises(InvalidTransition):
        active.run("record-failure", code="invalid_transition", reason="plan-provisioning")
    assert_usable(active)
    assert len(active.records()) == before


def test_late_rollback_of_an_earlier_provisioning_does_not_disable_what_the_next_one_enabled(tenant):
    run_steps(tenant, [Step.OPEN_RECORDS, Step.CREATE_KEYS, Step.CREATE_AUTHORITY])
    tenant.run("record-failure", code="conflicting_resource", reason="create-ca")
    tenant.attempt = 2
    run_steps(tenant, [Step.OPEN_RECORDS, Step.CREATE_KEYS, Step.CREATE_AUTHORITY])
    tenant.attempt = 1
    for step in ("disable-tenant-key", "disable-ca"):
        with pytest.raises(InvalidTransition):
            tenant.run(step)
    tenant.attempt = 2
    tenant.run(Step.ACTIVATE)
    assert_usable(tenant)


def test_late_activation_does_not_follow_a_rollback_that_has_disabled_the_keys(tenant):
    run_steps(tenant, [Step.OPEN_RECORDS, Step.CREATE_KEYS, Step.CREATE_AUTHORITY, "disable-tenant-key"])
    with pytest.raises(InvalidTransition):
        tenant.run(Step.ACTIVATE)
    tenant.run("disable-ca")
    tenant.run("record-failure", code="conflicting_resource", reason="activate")
    assert tenant.tenant_row.state is State.FAILED
    assert tenant.read(lambda tx: tx.routes.get()) is None
    with pytest.raises(OperationRepeated):  # a late first step
        tenant.run(Step.OPEN_RECORDS)
    tenant.attempt = 2
    run_steps(tenant, MADE)
    assert_usable(tenant)
    tenant.assert_audited_once()


def test_late_activation_of_an_earlier_provisioning_does_not_activate_the_next_one(tenant):
    run_steps(tenant, [Step.OPEN_RECORDS, Step.CREATE_KEYS, Step.CREATE_AUTHORITY])
    tenant.run("record-failure", code="internal", reason="ProvisionTenant")
    tenant.attempt = 2
    run_steps(tenant, [Step.OPEN_RECORDS])
    tenant.attempt = 1
    with pytest.raises(InvalidTransition):
        tenant.run(Step.ACTIVATE)
    assert tenant.tenant_row.state is State.PROVISIONING


def test_repeated_activation_of_a_tenant_that_was_locked_meanwhile_is_no_failure(active):
    step = StatusChangeInput(tenant_id=active.tenant_id, operation_id="lock-1", move=StatusChange.LOCK)
    active.run_with("change-status", step)
    active.run(Step.ACTIVATE)
    assert active.tenant_row.state is State.LOCKED


CREATIONS = {Step.CREATE_KEYS: "_tenant_keys", Step.CREATE_AUTHORITY: "_authorities"}
"""The steps that create, and the adapter of each."""


@pytest.mark.parametrize("step", CREATIONS)
def test_late_attempt_creates_nothing_after_a_rollback(tenant, step):
    run_steps(tenant, [Step.OPEN_RECORDS, "disable-tenant-key", "disable-ca"])
    with pytest.raises(OperationRepeated):
        tenant.run(step)
    for name in (ids.l2_key(tenant.tenant_id), ids.ca_key(tenant.tenant_id), ids.payload_key(tenant.tenant_id)):
        assert tenant.parts.vault.read(f"transit/keys/{name}") is None


@pytest.mark.parametrize("step", CREATIONS)
def test_attempt_that_creates_during_a_rollback_disables_what_it_created(tenant, monkeypatch, step):
    """The rollback finds no record of the key, because the slow attempt has not recorded it yet."""
    tenant.run(Step.OPEN_RECORDS)
    server = getattr(tenant.activity(step).__self__, CREATIONS[step])
    created, may_return, ensure = threading.Event(), threading.Event(), server.ensure

    def ensure_slowly(*arguments: Any, **options: Any) -> Any:
        result = ensure(*arguments, **options)
        created.set()
        may_return.wait(10)
        return result

    with ThreadPoolExecutor() as pool:
        with monkeypatch.context() as slow:
            slow.setattr(server, "ensure", ensure_slowly)
            late = pool.submit(Provisioning(tenant.parts, tenant.tenant_id).run, step)
            assert created.wait(10)
        run_steps(tenant, ["disable-tenant-key", "disable-ca"])
        tenant.run("record-failure", code="operation_cancelled", reason="cancelled")
        may_return.set()
        with pytest.raises(OperationRepeated):
            late.result(10)
    name = ids.l2_key(tenant.tenant_id) if step is Step.CREATE_KEYS else ids.ca_key(tenant.tenant_id)
    assert tenant.parts.vault.read(f"transit/keys/{name}")["soft_deleted"]
    assert name in {key.name for key in tenant.read(lambda tx: tx.keys.all())}
    tenant.attempt = 2
    run_steps(tenant, MADE)
    assert_usable(tenant)
    assert issues_certificates(tenant)
    tenant.assert_audited_once()


@pytest.mark.parametrize(("step", "adapter"), [("disable-tenant-key", "_tenant_keys"), ("disable-ca", "_authorities")])
def test_retry_enables_the_keys_only_after_a_slow_rollback(tenant, monkeypatch, step, adapter):
    """Another attempt of the rollback has recorded the failure, so the tenant can be provisioned again."""
    run_steps(tenant, [Step.OPEN_RECORDS, Step.CREATE_KEYS, Step.CREATE_AUTHORITY])
    server = getattr(tenant.activity(step).__self__, adapter)
    disabling, may_disable, disable = threading.Event(), threading.Event(), server.disable

    def disable_late(tenant_id: str) -> None:
        disabling.set()
        may_disable.wait(10)
        disable(tenant_id)

    with ThreadPoolExecutor() as pool:
        with monkeypatch.context() as slow:
            slow.setattr(server, "disable", disable_late)
            late = pool.submit(tenant.run, step)
            assert disabling.wait(5)
        retry = Provisioning(tenant.parts, tenant.tenant_id)
        retry.attempt = 2
        retried = pool.submit(run_steps, retry, MADE)
        wait({retried}, timeout=1.5)
        may_disable.set()
        late.result(10)
        retried.result(10)
    assert_usable(retry)
    assert issues_certificates(retry)


def test_new_workflow_gets_state_and_unused_operation_numbers(tenant):
    first = load(tenant).memory
    assert (first.state, first.provision, first.operations, first.pending_events) == (State.REQUESTED, True, 0, ())
    run_steps(tenant, [Step.OPEN_RECORDS])
    second = load(tenant).memory
    assert (second.state, second.provision) == (State.PROVISIONING, True)
    numbers = {second.provisions, second.changes, second.rotations, second.rolls, second.operations}
    assert numbers == {1_000_000}
    run_steps(tenant, [Step.CREATE_KEYS, Step.CREATE_AUTHORITY, Step.ACTIVATE])
    third = load(tenant).memory
    assert (third.state, third.provision, third.operations) == (State.ACTIVE, False, 2_000_000)


def test_rotation_and_root_key_change_work_after_ten_thousand_starts(active, field):
    with field.administrator() as administrator:
        administrator.execute("update okcm.tenant set workflow_starts = 10000 where tenant_id = %s", [active.tenant_id])
    number = load(active).memory.rotations + 1
    assert number == 10_000_000_001
    active.read(lambda tx: tx.rotations.begin(number, a_wanted_rotation(scheduled=True), 1))
    active.read(lambda tx: tx.root_keys.begin(number, RootKeyMode.PLATFORM, "root-eu-west-1", None))
    [stalled] = PlatformQueries(active.database).stuck_rotations(timedelta(), timedelta(days=1), 10)
    assert (stalled.tenant_id, stalled.number) == (active.tenant_id, number)
    assert load(active).memory.rotations == 10_001_000_000
    assert active.read(lambda tx: (tx.rotations.running(2 * number), tx.root_keys.running(2 * number))) == ([], [])
    assert active.read(lambda tx: tx.rotations.get(number)).problem == OperationLost.code


def test_provisioning_without_a_history_finds_what_exists_and_records_each_event(tenant):
    run_steps(tenant, [Step.OPEN_RECORDS, Step.CREATE_KEYS])
    tenant.attempt = load(tenant).memory.provisions + 1
    run_steps(tenant, [Step.OPEN_RECORDS, Step.CREATE_KEYS, Step.CREATE_AUTHORITY, Step.ACTIVATE])
    assert_usable(tenant)
    tenant.assert_audited_once()


@pytest.mark.parametrize("move", [StatusChange.SUSPEND, StatusChange.LOCK])
def test_new_workflow_of_a_suspended_or_locked_tenant_keeps_its_state(active, move):
    step = StatusChangeInput(tenant_id=active.tenant_id, operation_id="status-1", move=move)
    state = active.run_with("change-status", step).state
    stored = load(active).memory
    assert (stored.state, stored.provision) == (state, False)


def test_new_workflow_gets_the_marketplaces_last_event_only_if_the_state_does_not_follow_from_it(active):
    assert load(active).memory.pending_events == ()
    disabled = an_event(active.tenant_id, "event-off", kind=EventKind.SERVICE_DISABLED, timestamp=datetime.now(UTC))
    active.read(lambda tx: tx.inbox.accept(disabled))
    assert load(active).memory.pending_events == (EventKind.SERVICE_DISABLED,)
    active.read(lambda tx: tx.leaving.begin(timedelta(days=30)))
    leaving = load(active).memory
    assert (leaving.state, leaving.pending_events) == (State.LEAVING, ())
    enabled = an_event(active.tenant_id, "event-on", timestamp=datetime.now(UTC))
    active.read(lambda tx: tx.inbox.accept(enabled))
    assert load(active).memory.pending_events == (EventKind.SERVICE_ENABLED,)
    discovered = an_event(active.tenant_id, "event-s", kind=EventKind.SERVICE_DISCOVERED, timestamp=datetime.now(UTC))
    active.read(lambda tx: tx.inbox.accept(discovered))
    assert load(active).memory.pending_events == (EventKind.SERVICE_ENABLED,)
    active.read(lambda tx: tx.leaving.restore())
    assert load(active).memory.pending_events == ()


def test_payloads_of_a_new_workflow_are_encrypted_under_the_tenants_key_again(active):
    keyring, step = active.parts.keyring, StepInput(tenant_id=active.tenant_id, operation_id="load")
    keyring.forget(active.tenant_id)  # as in a worker that has decrypted no payload of the tenant
    assert keyring.current(active.tenant_id).key_name == PLATFORM_KEY
    assert active.run_with("load-payload-key", step).exists
    assert keyring.current(active.tenant_id).key_name == ids.payload_key(active.tenant_id)


def test_tenant_without_keys_has_no_payload_key(tenant):
    step = StepInput(tenant_id=tenant.tenant_id, operation_id="load")
    assert not tenant.run_with("load-payload-key", step).exists


def test_tenant_in_destruction_gets_no_workflow(active):
    active.read(lambda tx: tx.leaving.begin(timedelta()))
    assert active.read(lambda tx: tx.leaving.begin_destruction(datetime.now(UTC)))
    assert load(active) == StoredTenant()


def test_unknown_tenant_gets_no_workflow(parts):
    unknown = Provisioning(parts, "unknown-corp")
    for name in ("load-tenant", "read-tenant-state"):
        with pytest.raises(TenantUnknown):
            unknown.run(name)
