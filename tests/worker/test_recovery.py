"""The running worker starts lost workflows from the rows and keeps those whose state it does not know."""

from contextlib import suppress

import httpx2
import pytest
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError

from core import names as ids
from core.keys.encryption_context import EncryptionContext, Purpose
from core.messages.tenants import StatusChange
from core.names import CANARY_TENANT_ID
from core.tenants.lifecycle import State
from openkcm.errors import OpenKcmError
from tests.activities.provisioning import Provisioning
from tests.concurrency import wait_until_async
from tests.worker.test_process import callback, enable, is_active, process_settings, start
from workflows.client.workflow_client import WorkflowClient
from workflows.runtime import options as visibility

# Fixtures that pytest finds here by their names.
__all__ = ["callback", "enable", "process_settings", "start"]

REGION = "eu-west-1"


async def start_with_an_unknown_state(client: Client, tenant_id: str) -> None:
    """Start a tenant workflow as a newer worker would continue it."""
    await client.start_workflow(
        "Tenant",
        {
            "tenant_id": tenant_id,
            "region": REGION,
            "provisioning_slo_seconds": 180,
            "memory": {"state": "hibernating"},
        },
        id=ids.tenant_workflow(tenant_id),
        task_queue=ids.tenant_queue(REGION),
    )


async def recovered(port: int) -> bool:
    """Return whether the worker has counted two recovered tenant workflows."""
    async with httpx2.AsyncClient() as http:
        answer = await http.get(f"http://127.0.0.1:{port}/metrics")
    counts = [line for line in answer.text.splitlines() if line.startswith("openkcm_workflows_recovered_total{")]
    return any('kind="tenant"' in line and float(line.rsplit(" ", 1)[1]) >= 2 for line in counts)


async def has_failed_task(client: Client, tenant_id: str) -> bool:
    history = await client.get_workflow_handle(ids.tenant_workflow(tenant_id)).fetch_history()
    return any(event.HasField("workflow_task_failed_event_attributes") for event in history.events)


@pytest.mark.full  # a running worker notices the loss within a minute
async def test_running_worker_recovers_when_temporal_loses_its_storage(  # noqa: PLR0917 - one for each fixture
    bare_temporal, start, process_settings, parts, enable, temporal_client
) -> None:
    worker = start(process_settings)
    worker.wait_until(lambda: is_active(parts.database, CANARY_TENANT_ID))
    tenant_id = await enable()
    worker.wait_until(lambda: is_active(parts.database, tenant_id))
    bare_temporal.stop()
    for file in bare_temporal.folder.glob("temporal.db*"):
        file.unlink()
    bare_temporal.start()
    bare_temporal.wait_ready(90)
    gateway = WorkflowClient(temporal_client, provisioning_slo_seconds=180)

    async def locked() -> bool:
        with suppress(OpenKcmError):
            await gateway.change_standing(tenant_id, StatusChange.LOCK)
        return Provisioning(parts, tenant_id).tenant_row.state is State.LOCKED

    async def monitored() -> bool:
        with suppress(RPCError):
            monitoring = await temporal_client.get_workflow_handle(ids.watch_workflow(REGION)).describe()
            return monitoring.status is WorkflowExecutionStatus.RUNNING
        return False

    await wait_until_async(locked, seconds=180)
    await wait_until_async(monitored)


async def test_worker_recovers_lost_workflows_and_keeps_those_of_a_newer_worker(
    start, process_settings, parts, enable, temporal_client
) -> None:
    worker = start(process_settings)
    worker.wait_until(lambda: is_active(parts.database, CANARY_TENANT_ID))
    tenant_id = await enable()
    worker.wait_until(lambda: is_active(parts.database, tenant_id))
    await start_with_an_unknown_state(temporal_client, "future-corp")
    gateway = WorkflowClient(temporal_client, provisioning_slo_seconds=180)
    tenant = Provisioning(parts, tenant_id)
    entity = temporal_client.get_workflow_handle(ids.tenant_workflow(tenant_id))

    async def shows(state: State) -> bool:
        described = await entity.describe()
        shown = described.typed_search_attributes.get(visibility.LIFECYCLE_STATE)
        return described.status is WorkflowExecutionStatus.RUNNING and shown == state

    # The marketplace enables a live tenant again.
    await entity.terminate()
    await gateway.enable(tenant_id, REGION, "event-2")
    await wait_until_async(lambda: shows(State.ACTIVE))
    context = EncryptionContext(tenant_id, ids.l2_key(tenant_id), "", Purpose.VERIFY, "check")
    assert tenant.tenant_keys.decrypt(context, tenant.tenant_keys.encrypt(context, b"text")) == b"text"
    assert tenant.read(lambda tx: tx.routes.get()) is not None

    # An administrator locks a tenant without a workflow.
    await entity.terminate()
    await gateway.change_standing(tenant_id, StatusChange.LOCK)
    assert tenant.tenant_row.state is State.LOCKED

    # Neither happens: the schedule finds it.
    await entity.terminate()
    await temporal_client.get_schedule_handle("workflow-recovery").trigger()
    await wait_until_async(lambda: shows(State.LOCKED))
    await wait_until_async(lambda: recovered(process_settings.worker_metrics_port))
    tenant.assert_audited_once()

    await wait_until_async(lambda: has_failed_task(temporal_client, "future-corp"))
    future = await temporal_client.get_workflow_handle(ids.tenant_workflow("future-corp")).describe()
    assert future.status is WorkflowExecutionStatus.RUNNING
