"""The tenant workflow: one operation at a time, each event once, invalid transitions rejected before the history."""

import asyncio

import pytest
from temporalio.client import WorkflowHandle, WorkflowUpdateFailedError

from core import names as ids
from core.messages.tenants import MarketplaceSignal, StatusChange
from core.tenants.lifecycle import State
from core.tenants.provisioning import Step
from tests.concurrency import wait_until_async
from tests.workflows.entities import Entity, reaches
from workflows.provisioning import ProvisionTenant
from workflows.runtime import options as priorities
from workflows.tenants import Tenant

WORKFLOWS = [Tenant, ProvisionTenant]
ROLL_BACK = ["disable-tenant-key", "disable-ca", "record-failure", "send-notification failed"]


@pytest.fixture
async def tenant(client, region, script):
    """Return a function that enables a tenant and returns its workflow."""

    async def enable(state: State, **refused: str) -> WorkflowHandle:
        script.refused |= {step.replace("_", "-"): code for step, code in refused.items()}
        entity = await Entity.enable(client, region)
        await entity.reaches(state)
        return entity.handle

    return enable


async def refused_retry(handle):
    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await handle.execute_update(Tenant.retry)
    return refused.value.cause.type


async def test_event_runs_every_step_in_order(client, tenant, script):
    handle = await tenant(State.ACTIVE)
    assert script.calls[:2] == ["load-tenant", Step.OPEN_RECORDS]
    assert set(script.calls[2:4]) == {Step.CREATE_KEYS, Step.CREATE_AUTHORITY}
    assert script.calls[4:] == [Step.CHECK_BOUNDARIES, Step.ACTIVATE, "send-notification ready"]
    tenant_id = handle.id.removeprefix("tenant/")
    provision = await client.get_workflow_handle(ids.provision_workflow(tenant_id)).fetch_history()
    begun = provision.events[0].workflow_execution_started_event_attributes.priority
    # A started tenant has a higher priority than a new one.
    assert 0 < begun.priority_key < priorities.enable(tenant_id).priority_key
    assert begun.fairness_key == tenant_id


async def test_repeated_events_repeat_no_step(tenant, script):
    script.down.add(Step.CREATE_KEYS)
    handle = await tenant(State.PROVISIONING)
    signals = [MarketplaceSignal(event_id=f"event-{n % 5}", kind="service_enabled") for n in range(50)]
    await asyncio.gather(*(handle.signal(Tenant.marketplace_event, signal) for signal in signals))
    script.down.clear()
    await reaches(handle, State.ACTIVE)
    await handle.signal(Tenant.marketplace_event, MarketplaceSignal(event_id="event-6", kind="service_enabled"))
    script.row = State.ACTIVE
    assert await refused_retry(handle) == "invalid_transition"  # the signal was handled before this update
    steps = [*list(Step)[:-1], "send-notification ready"]
    assert sorted(script.calls) == sorted(["load-tenant", *steps, "read-tenant-state"])


async def test_active_tenant_is_locked_while_its_notification_waits_for_the_receiver(client, region, script):
    script.down.add("send-notification ready")
    entity = await Entity.enable(client, region)
    await wait_until_async(lambda: script.attempts["send-notification ready"])
    await entity.move(StatusChange.LOCK)
    await entity.reaches(State.LOCKED)
    script.down.clear()
    await client.get_workflow_handle(ids.provision_workflow(entity.tenant_id)).result()
    await entity.move(StatusChange.LOCK)
    assert (await entity.state())[0] == State.LOCKED
    await entity.move(StatusChange.UNLOCK)
    await entity.reaches(State.ACTIVE)


async def test_retry_is_rejected_during_provisioning_and_after_activation(tenant, script):
    script.down.add(Step.CHECK_BOUNDARIES)
    handle = await tenant(State.PROVISIONING)
    assert await refused_retry(handle) == "operation_running"
    script.down.clear()
    await reaches(handle, State.ACTIVE)
    script.row = State.ACTIVE
    assert await refused_retry(handle) == "invalid_transition"
    assert script.calls.count("load-tenant") == script.calls.count(Step.ACTIVATE) == 1


# The last one runs inside the workflow task.
@pytest.mark.parametrize("step", [Step.CREATE_AUTHORITY, Step.CHECK_BOUNDARIES, Step.ACTIVATE])
async def test_failed_step_ends_in_failed_and_the_tenant_can_be_retried(tenant, script, step):
    handle = await tenant(State.FAILED, **{step: "conflicting_resource"})
    assert script.calls[-4:] == ROLL_BACK
    assert not {step, Step.ACTIVATE} & set(script.calls)
    script.refused.clear()
    await handle.execute_update(Tenant.retry)
    await reaches(handle, State.ACTIVE)


async def test_refused_first_step_undoes_nothing_and_the_tenant_can_be_retried(tenant, script):
    handle = await tenant(State.FAILED, **{Step.OPEN_RECORDS: "conflicting_resource"})
    assert not set(ROLL_BACK) & set(script.calls)
    script.refused.clear()
    await handle.execute_update(Tenant.retry)
    await reaches(handle, State.ACTIVE)


async def test_enabling_a_failed_tenant_again_retries_it(tenant, script):
    handle = await tenant(State.FAILED, create_keys="conflicting_resource")
    assert Step.ACTIVATE not in script.calls
    script.refused.clear()
    await handle.signal(Tenant.marketplace_event, MarketplaceSignal(event_id="event-2", kind="service_enabled"))
    await reaches(handle, State.ACTIVE)
