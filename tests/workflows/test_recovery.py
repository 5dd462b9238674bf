"""The tenant workflow outlives failures of steps and children, long histories, and the loss of its history."""

import asyncio
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowUpdateFailedError

from core import names as ids
from core.errors.tenants import TenantUnknown
from core.keys.rotation import RotationScope
from core.messages.keys import DueRotation, RotateRequest
from core.messages.recovery import RecoveryPage
from core.messages.tenants import (
    MarketplaceSignal,
    PendingApproval,
    StatusChange,
    StatusChangeResult,
    StoredTenant,
    TenantInput,
    TenantWorkflowState,
)
from core.tenants.approvals import Action
from core.tenants.lifecycle import State
from core.tenants.provisioning import EventKind, Step
from tests.concurrency import wait_until_async
from tests.workflows.entities import Entity, a_rotation, ends, refused
from workflows.certificates import AUTHORITY_DUE, RotateCertificateAuthority
from workflows.offboarding import OffboardTenant
from workflows.provisioning import ProvisionTenant
from workflows.root_keys import ChangeRootKey
from workflows.rotation import RotateKeys
from workflows.runtime.signals import BOUNDARIES_REPORTED, ROOT_KEY_REPORTED, ROTATION_DUE
from workflows.services import CERTIFICATES_REVOKED
from workflows.tenants import Tenant

WORKFLOWS = [Tenant, ProvisionTenant, RotateCertificateAuthority, RotateKeys, ChangeRootKey, OffboardTenant]
DUE = DueRotation(request=RotateRequest(request_id="due-1", services=RotationScope.DUE, tenant_key=False))


async def still_locks(entity: Entity) -> None:
    """Assert that the workflow runs and that an administrator can lock the tenant."""
    await entity.move(StatusChange.LOCK)
    await entity.reaches(State.LOCKED)
    assert (await entity.handle.describe()).status is WorkflowExecutionStatus.RUNNING


async def start_again(entity: Entity) -> None:
    await entity.client.start_workflow(
        Tenant.run,
        TenantInput(tenant_id=entity.tenant_id, region=entity.region, provisioning_slo_seconds=60),
        id=entity.handle.id,
        task_queue=ids.tenant_queue(entity.region),
    )


async def terminate_child(entity: Entity, workflow_id: str) -> None:
    child = entity.client.get_workflow_handle(workflow_id)

    async def runs() -> bool:
        events = [event async for event in entity.client.list_workflows(f"WorkflowId = '{workflow_id}'")]
        return any(event.status is WorkflowExecutionStatus.RUNNING for event in events)

    await wait_until_async(runs)
    await child.terminate()
    await ends(child, WorkflowExecutionStatus.TERMINATED)


def after_loss(script, state: State, **memory: object) -> None:
    """Let the database return this state to a workflow without a history."""
    script.answers["load-tenant"] = StoredTenant(memory=TenantWorkflowState.model_validate({"state": state} | memory))


@pytest.mark.parametrize("state", [State.ACTIVE, State.SUSPENDED, State.LOCKED])
async def test_enabling_a_live_tenant_without_a_history_provisions_and_undoes_nothing(client, region, script, state):
    after_loss(script, state)
    entity = await Entity.enable(client, region)
    await entity.reaches(state)
    await still_locks(entity)
    assert set(script.calls) <= {"load-tenant", "load-payload-key", "change-status", "send-notification locked"}


async def test_lock_of_a_recovered_tenant_does_not_wait_for_the_key_server(client, region, script):
    after_loss(script, State.ACTIVE)
    script.down.add("load-payload-key")
    entity = await Entity.enable(client, region)
    await still_locks(entity)
    assert "load-payload-key" not in script.calls
    script.down.clear()
    await wait_until_async(lambda: "send-notification locked" in script.calls)


@pytest.mark.parametrize("state", [State.REQUESTED, State.PROVISIONING])
async def test_provisioning_without_a_history_starts_again(client, region, script, state):
    after_loss(script, state, provision=True)
    entity = await Entity.enable(client, region)
    await entity.reaches(State.ACTIVE)
    assert script.calls.count(Step.ACTIVATE) == 1


async def test_new_workflow_uses_no_operation_number_twice_and_keeps_approvals_and_events(client, region, script):
    number = 3_000_000
    waits = PendingApproval(approval_id="a" * 32, action=Action.LOCK, expires_at=datetime.now(UTC) + timedelta(hours=1))
    counters = dict.fromkeys(("provisions", "changes", "rotations", "rolls", "operations"), number)
    after_loss(script, State.ACTIVE, waiting=[waits], **counters)
    entity = await Entity.enable(client, region)
    await entity.rotate()
    await entity.roll_authority()
    await entity.move(StatusChange.SUSPEND)
    assert script.inputs["plan-rotation"][0].operation_id == f"rotate-{number + 1}"
    assert script.inputs["plan-ca"][0].operation_id == f"authority-roll-{number + 1}"
    assert script.inputs["change-status"][0].operation_id == f"suspend-{number + 1}"
    await entity.decide("a" * 32)
    assert script.calls.count("close-approval") == 1


async def test_approved_request_that_a_lost_workflow_had_not_begun_is_executed_once(client, region, script):
    after_loss(script, State.ACTIVE, approved=["a" * 32])
    entity = await Entity.enable(client, region)
    await entity.reaches(State.LOCKED)
    await entity.decide("a" * 32)
    await wait_until_async(lambda: "close-approval" in script.calls)
    assert [step.approval_id for step in script.inputs["change-status"]] == ["a" * 32]
    assert [(step.approval_id, step.code) for step in script.inputs["close-approval"]] == [("a" * 32, "")]


@pytest.mark.parametrize("step", ["decide-approval", "change-status", "close-approval"])
async def test_approved_request_that_cannot_be_executed_does_not_end_the_recovered_workflow(
    client, region, script, step
):
    after_loss(script, State.ACTIVE, approved=["a" * 32])
    script.refused[step] = "approval_required"
    entity = await Entity.enable(client, region)
    await wait_until_async(lambda: script.attempts[step])
    script.refused.clear()
    await still_locks(entity)


async def test_pending_marketplace_event_survives_the_loss_of_the_history(client, region, script):
    after_loss(script, State.ACTIVE, pending_events=[EventKind.SERVICE_DISABLED])
    entity = Entity(client, region)
    await start_again(entity)
    await entity.reaches(State.LEAVING)


async def test_signals_and_updates_wait_until_the_state_is_read(client, region, script):
    script.down.add("load-tenant")
    after_loss(script, State.ACTIVE)
    script.answers |= {"look-for-due-rotation": DUE, "apply-isolation-result": StatusChangeResult(state=State.ACTIVE)}
    entity = await Entity.enable(client, region)
    for signal in (ROTATION_DUE, AUTHORITY_DUE, BOUNDARIES_REPORTED, ROOT_KEY_REPORTED, CERTIFICATES_REVOKED):
        await entity.handle.signal(signal)
    with pytest.raises(WorkflowUpdateFailedError) as early:
        await entity.handle.execute_update(Tenant.rotate_keys, a_rotation())
    assert early.value.cause.type == "workflow_starting"
    lock = asyncio.create_task(entity.move(StatusChange.LOCK))
    assert not script.calls
    script.down.clear()
    await lock
    signalled = {"apply-isolation-result", "apply-root-key-health", "publish-revocation-list"}
    await wait_until_async(lambda: signalled <= set(script.calls))


@pytest.mark.parametrize("stored", [StoredTenant(), TenantUnknown()])
async def test_tenant_without_a_row_or_in_destruction_gets_no_workflow(client, region, script, stored):
    if isinstance(stored, StoredTenant):
        script.answers["load-tenant"] = stored
    else:
        script.refused["load-tenant"] = stored
    entity = await Entity.enable(client, region)
    await ends(entity.handle)
    assert not {Step.OPEN_RECORDS, "disable-tenant-key"} & set(script.calls)


@pytest.mark.parametrize(
    ("signal", "step", "child"),
    [
        (ROTATION_DUE, "plan-rotation", lambda tenant: ids.rotation_workflow(tenant, 1)),
        (AUTHORITY_DUE, "prepare-ca", lambda tenant: ids.authority_workflow(tenant, 1)),
    ],
)
async def test_terminated_child_of_a_signal_does_not_end_the_tenant_workflow(entity, script, signal, step, child):
    script.answers["look-for-due-rotation"] = DUE
    script.down.add(step)
    await entity.handle.signal(signal)
    await terminate_child(entity, child(entity.tenant_id))
    await still_locks(entity)
    script.down.clear()
    await entity.move(StatusChange.UNLOCK)
    await entity.roll_authority()  # no operation is left running


@pytest.mark.parametrize(
    ("ask", "step", "child"),
    [
        (Entity.rotate, "plan-rotation", lambda tenant: ids.rotation_workflow(tenant, 1)),
        (Entity.roll_authority, "prepare-ca", lambda tenant: ids.authority_workflow(tenant, 1)),
        (Entity.change_root_key, "record-root-key-request", lambda tenant: ids.root_key_workflow(tenant, 1)),
    ],
)
async def test_terminated_child_of_a_request_is_reported_and_ends_only_the_request(entity, script, ask, step, child):
    script.down |= {step, "preflight-root-key", "wrap-service-keys"}
    request = asyncio.create_task(ask(entity))
    await terminate_child(entity, child(entity.tenant_id))
    await refused("internal", request)
    await still_locks(entity)


async def test_terminated_provisioning_fails_the_tenant_and_can_be_retried(client, region, script):
    script.down.add(Step.CREATE_KEYS)
    entity = await Entity.enable(client, region)
    script.answers["read-tenant-state"] = StatusChangeResult(state=State.FAILED)
    await terminate_child(entity, ids.provision_workflow(entity.tenant_id))
    await entity.reaches(State.FAILED)
    assert script.inputs["record-failure"][0].operation_id == "provision-1"
    script.down.clear()
    await entity.gateway.retry(entity.tenant_id)
    await entity.reaches(State.ACTIVE)
    await still_locks(entity)


async def test_rollback_that_fails_does_not_end_the_tenant_workflow(client, region, script):
    script.refused |= {Step.CREATE_KEYS: "conflicting_resource", "disable-tenant-key": "invalid_transition"}
    script.answers["read-tenant-state"] = StatusChangeResult(state=State.ACTIVE)
    entity = await Entity.enable(client, region)
    await entity.reaches(State.ACTIVE)
    await still_locks(entity)


@pytest.mark.parametrize(
    ("signal", "step"),
    [
        (ROTATION_DUE, "look-for-due-rotation"),
        (BOUNDARIES_REPORTED, "apply-isolation-result"),
        (ROOT_KEY_REPORTED, "apply-root-key-health"),
        (CERTIFICATES_REVOKED, "publish-revocation-list"),
        (AUTHORITY_DUE, "abandon-ca"),
    ],
)
async def test_refused_step_of_a_signal_does_not_end_the_tenant_workflow(entity, script, signal, step):
    script.refused |= {step: "database_refused", "prepare-ca": "conflicting_resource"}
    await entity.handle.signal(signal)
    await wait_until_async(lambda: script.attempts[step])
    await still_locks(entity)


@pytest.mark.parametrize("kind", ["service_disabled", "service_enabled"])
async def test_refused_marketplace_event_does_not_end_the_tenant_workflow(client, region, script, kind):
    state, step = (
        (State.ACTIVE, "start-offboarding") if kind == "service_disabled" else (State.LEAVING, "restore-tenant")
    )
    script.refused[step] = "database_refused"
    entity = await Entity.start(client, region, state)
    await entity.handle.signal(Tenant.marketplace_event, MarketplaceSignal(event_id="event-9", kind=kind))
    await wait_until_async(lambda: script.attempts[step])
    if state is State.ACTIVE:
        await still_locks(entity)
    else:
        script.row = State.LEAVING
        await refused("database_refused", entity.restore())


async def test_refused_expiry_is_repeated_later_and_does_not_end_the_tenant_workflow(entity, script):
    script.approvals.lasts = timedelta(seconds=1)
    script.refused["expire-approvals"] = "database_refused"
    await entity.propose()
    await wait_until_async(lambda: script.attempts["expire-approvals"])
    await still_locks(entity)
    assert script.attempts["expire-approvals"] == 1


async def test_refused_end_of_an_approved_action_is_reported(entity, script):
    script.refused["close-approval"] = "database_refused"
    await refused("database_refused", entity.decide(await entity.propose()))
    await entity.move(StatusChange.UNLOCK)
    await still_locks(entity)


async def test_result_with_an_unknown_state_waits_for_a_worker_that_knows_it(entity, script):
    known = script.answers["change-status"]
    script.answers["change-status"] = {"state": "hibernating"}
    lock = asyncio.create_task(entity.move(StatusChange.LOCK))
    await wait_until_async(lambda: script.attempts["change-status"] > 1)  # the workflow task is repeated
    assert (await entity.handle.describe()).status is WorkflowExecutionStatus.RUNNING
    script.answers["change-status"] = known
    await lock
    await still_locks(entity)


async def test_lost_tenant_workflow_is_recovered_before_a_request(client, region, script):
    entity = Entity(client, region)
    after_loss(script, State.ACTIVE)

    async def recover(_tenant: object) -> RecoveryPage:
        await start_again(entity)
        return RecoveryPage(started=1)

    script.answers["recover-tenant"] = recover
    await still_locks(entity)


async def test_request_for_an_unknown_tenant_is_rejected(client, region):
    with pytest.raises(TenantUnknown):
        await Entity(client, region, f"t-{uuid.uuid4().hex[:12]}").move(StatusChange.LOCK)
