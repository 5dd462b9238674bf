"""The promise: breaking it raises an alarm and stops nothing; a failing step is tried until it succeeds."""

import uuid

from temporalio.client import Client

from tenancy import ids
from tenancy.ids import CANARY_TENANT_ID
from tenancy.lifecycle import State
from tenancy.messages import ProvisionInput, ProvisionResult
from tenancy.provisioning import Step
from workflows import visibility
from workflows.provision import ProvisionTenant


async def provision(client: Client, queue: str, tenant_id: str, promise_seconds: float = 60) -> ProvisionResult:
    return await client.execute_workflow(
        ProvisionTenant.run,
        ProvisionInput(tenant_id=tenant_id, region="eu-west-1", attempt=1, promise_seconds=promise_seconds),
        id=ids.provision_workflow(tenant_id),
        task_queue=queue,
    )


async def test_a_provider_down_beyond_the_promise_raises_the_alarm_and_completes_later(client, queue, script):
    tenant_id = f"t-{uuid.uuid4().hex[:12]}"
    script.down.add(Step.CREATE_KEYS)
    script.on("break-promise", script.down.clear)
    result = await provision(client, queue, tenant_id, promise_seconds=0.5)
    assert result.state is State.ACTIVE
    assert script.attempts[Step.CREATE_KEYS] > 1
    assert script.calls.count("break-promise") == 1
    assert script.calls.index("break-promise") < script.calls.index(Step.ACTIVATE)
    described = await client.get_workflow_handle(ids.provision_workflow(tenant_id)).describe()
    assert described.typed_search_attributes.get(visibility.PROMISE_BROKEN) is True


async def test_a_kept_promise_leaves_no_alarm(client, queue, script):
    tenant_id = f"t-{uuid.uuid4().hex[:12]}"
    assert (await provision(client, queue, tenant_id)).state is State.ACTIVE
    assert "break-promise" not in script.calls


async def test_where_nobody_is_to_be_told_nothing_is_announced(client, queue, script):
    script.messages = 0
    assert (await provision(client, queue, f"t-{uuid.uuid4().hex[:12]}")).state is State.ACTIVE
    assert Step.ANNOUNCE not in script.calls


async def test_each_step_is_summarised_in_the_history_by_its_number(client, queue):
    tenant_id = f"t-{uuid.uuid4().hex[:12]}"
    await provision(client, queue, tenant_id)
    history = await client.get_workflow_handle(ids.provision_workflow(tenant_id)).fetch_history()
    summaries = [e.user_metadata.summary.data.decode() for e in history.events if e.user_metadata.HasField("summary")]
    assert sum("attack the boundaries" in summary for summary in summaries) == 1


async def test_the_canary_is_provisioned_without_attacking_itself(client, queue, script):
    await client.execute_workflow(
        ProvisionTenant.run,
        ProvisionInput(tenant_id=CANARY_TENANT_ID, region="eu-west-1", attempt=1, promise_seconds=60),
        id=f"canary-{uuid.uuid4()}",
        task_queue=queue,
    )
    assert Step.CHECK_BOUNDARIES not in script.calls
    assert Step.ACTIVATE in script.calls
