"""The entity: one operation at a time, each event once, illegal moves refused before they are history."""

import asyncio
import uuid

import pytest
from temporalio.client import Client, WorkflowHandle, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError

from tenancy import ids
from tenancy.lifecycle import State
from tenancy.messages import MarketplaceSignal, TenantInput
from tenancy.provisioning import Step
from workflows import priorities, visibility
from workflows.tenant import Tenant


def a_tenant_id() -> str:
    return f"t-{uuid.uuid4().hex[:12]}"


async def enable(client: Client, queue: str, tenant_id: str, event_id: str = "event-1") -> WorkflowHandle:
    return await client.start_workflow(
        Tenant.run,
        TenantInput(tenant_id=tenant_id, region=queue.removeprefix("lifecycle."), promise_seconds=60),
        id=ids.tenant_workflow(tenant_id),
        task_queue=queue,
        start_signal="marketplace-event",
        start_signal_args=[MarketplaceSignal(event_id=event_id, kind="service_enabled")],
    )


async def assert_reaches(handle: WorkflowHandle, state: State) -> None:
    async with asyncio.timeout(15):
        while True:
            described = await handle.describe()
            if described.typed_search_attributes.get(visibility.LIFECYCLE_STATE) == state:
                return
            await asyncio.sleep(0.05)


async def test_an_event_takes_a_tenant_through_every_step_in_order(client, queue, script):
    handle = await enable(client, queue, a_tenant_id())
    await assert_reaches(handle, State.ACTIVE)
    side_by_side = {Step.CREATE_KEYS, Step.CREATE_AUTHORITY}
    assert script.calls[0] == Step.OPEN_RECORDS
    assert set(script.calls[1:3]) == side_by_side
    assert script.calls[3:] == [Step.CHECK_BOUNDARIES, Step.ACTIVATE, Step.ANNOUNCE]


async def test_whoever_is_begun_goes_before_whoever_is_new(client, queue):
    tenant_id = a_tenant_id()
    await assert_reaches(await enable(client, queue, tenant_id), State.ACTIVE)
    provision = await client.get_workflow_handle(ids.provision_workflow(tenant_id)).fetch_history()
    begun = provision.events[0].workflow_execution_started_event_attributes.priority
    assert 0 < begun.priority_key < priorities.enable(tenant_id).priority_key
    assert begun.fairness_key == tenant_id


async def test_fifty_more_events_make_nothing_twice(client, queue, script):
    tenant_id = a_tenant_id()
    handle = await enable(client, queue, tenant_id)
    signals = [MarketplaceSignal(event_id=f"event-{n % 5}", kind="service_enabled") for n in range(50)]
    await asyncio.gather(*(handle.signal(Tenant.marketplace_event, signal) for signal in signals))
    await assert_reaches(handle, State.ACTIVE)
    assert len(script.calls) == len(Step)
    assert len(script.calls) == len(set(script.calls))


async def test_a_breach_ends_in_failed_and_rolls_back_without_activating(client, queue, script):
    script.refused[Step.CHECK_BOUNDARIES] = "boundary_breached"
    handle = await enable(client, queue, a_tenant_id())
    await assert_reaches(handle, State.FAILED)
    assert Step.ACTIVATE not in script.calls
    assert script.calls[-4:] == ["disable-tenant-key", "disable-authority", "record-failure", Step.ANNOUNCE]


async def test_a_failed_tenant_can_be_retried_and_a_ready_one_cannot(client, queue, script):
    script.refused[Step.CREATE_AUTHORITY] = "conflicting_resource"
    handle = await enable(client, queue, a_tenant_id())
    await assert_reaches(handle, State.FAILED)
    script.refused.clear()
    await handle.execute_update(Tenant.retry)
    await assert_reaches(handle, State.ACTIVE)

    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await handle.execute_update(Tenant.retry)
    assert isinstance(refused.value.cause, ApplicationError)
    assert refused.value.cause.type == "illegal_move"
    history = await handle.fetch_history()
    assert sum(e.HasField("workflow_execution_update_accepted_event_attributes") for e in history.events) == 1


async def test_enabling_a_failed_tenant_again_retries_it(client, queue, script):
    script.refused[Step.CREATE_KEYS] = "conflicting_resource"
    handle = await enable(client, queue, a_tenant_id())
    await assert_reaches(handle, State.FAILED)
    script.refused.clear()
    await handle.signal(Tenant.marketplace_event, MarketplaceSignal(event_id="event-2", kind="service_enabled"))
    await assert_reaches(handle, State.ACTIVE)


async def test_a_retry_while_provisioning_runs_is_refused_by_name(client, queue, script):
    script.down.add(Step.CHECK_BOUNDARIES)
    handle = await enable(client, queue, a_tenant_id())
    await assert_reaches(handle, State.PROVISIONING)
    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await handle.execute_update(Tenant.retry)
    assert isinstance(refused.value.cause, ApplicationError)
    assert refused.value.cause.type == "operation_running"
    script.down.clear()
    await assert_reaches(handle, State.ACTIVE)


@pytest.mark.parametrize("step", [Step.OPEN_RECORDS, Step.ACTIVATE])
async def test_a_step_inside_the_workflow_task_that_is_refused_ends_in_failed_too(client, queue, script, step):
    script.refused[step] = "conflicting_resource"
    handle = await enable(client, queue, a_tenant_id())
    await assert_reaches(handle, State.FAILED)
    assert script.calls[-4:] == ["disable-tenant-key", "disable-authority", "record-failure", Step.ANNOUNCE]
    script.refused.clear()
    await handle.execute_update(Tenant.retry)
    await assert_reaches(handle, State.ACTIVE)
