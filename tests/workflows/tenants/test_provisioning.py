"""Provisioning: a breach of the SLO alerts and stops nothing; the canary tenant; the summaries in the history."""

from core import names as ids
from core.messages.tenants import ActivateResult, ProvisionInput
from core.names import CANARY_TENANT_ID
from core.tenants.lifecycle import State
from core.tenants.provisioning import Step
from tests.workflows.entities import a_tenant_id, summaries
from workflows.provisioning import ProvisionTenant
from workflows.runtime import options as visibility

WORKFLOWS = [ProvisionTenant]


async def provision(client, queue, tenant_id=None, provisioning_slo_seconds=60):
    """Provision a tenant and return its workflow."""
    tenant_id = tenant_id or a_tenant_id()
    handle = await client.start_workflow(
        ProvisionTenant.run,
        ProvisionInput(
            tenant_id=tenant_id, region="eu-west-1", attempt=1, provisioning_slo_seconds=provisioning_slo_seconds
        ),
        id=f"{queue}/{ids.provision_workflow(tenant_id)}",
        task_queue=queue,
    )
    assert (await handle.result()).state is State.ACTIVE
    return handle


async def test_step_that_fails_beyond_the_slo_alerts_and_completes_later(client, queue, script):
    script.down.add(Step.CREATE_KEYS)
    script.on("record-slo-breach", script.down.clear)
    handle = await provision(client, queue, provisioning_slo_seconds=0.5)
    assert script.attempts[Step.CREATE_KEYS] > 1
    assert script.calls.count("record-slo-breach") == 1
    assert script.calls.index("record-slo-breach") < script.calls.index(Step.ACTIVATE)
    assert (await handle.describe()).typed_search_attributes.get(visibility.PROMISE_BROKEN) is True


async def test_provisioning_within_the_slo_does_not_alert_and_each_step_has_a_summary(client, queue, script):
    handle = await provision(client, queue)
    assert "record-slo-breach" not in script.calls
    assert sum("run the isolation checks" in summary for summary in await summaries(handle)) == 1


async def test_no_notification_is_sent_without_a_recipient(client, queue, script):
    script.answers["activate"] = ActivateResult(messages=0)
    await provision(client, queue)
    assert script.calls[-1] == Step.ACTIVATE


async def test_canary_is_provisioned_without_attacking_itself(client, queue, script):
    await provision(client, queue, CANARY_TENANT_ID)
    assert Step.CHECK_BOUNDARIES not in script.calls
    assert Step.ACTIVATE in script.calls
