"""With a real Temporal server: events that were accepted during its outage start their workflow once."""

import asyncio
from pathlib import Path

from temporalio.client import Client

from devstack.servers.temporal import TemporalServer
from tests.concurrency import wait_until_async
from tests.marketplace.conftest import an_event, running
from tests.ports import free_port
from workflows.client.workflow_client import WorkflowClient


async def test_event_accepted_during_an_outage_starts_its_workflow_once(field, tmp_path: Path):
    temporal = TemporalServer(tmp_path, free_port(), free_port(), free_port())
    async with running(field, await WorkflowClient.connect(temporal.address, 180.0)) as endpoint:
        answer = await endpoint.post(an_event(), event_id="msg_1")
        assert answer.status_code == 202
        assert endpoint.waiting() == 1
        temporal.prepare()
        temporal.start()
        try:
            await asyncio.to_thread(temporal.wait_ready)
            await wait_until_async(lambda: endpoint.waiting() == 0)
            for _ in range(3):
                assert (await endpoint.post(an_event(), event_id="msg_1")).json()["duplicate"]
            client = await Client.connect(temporal.address)
            described = await client.get_workflow_handle("tenant/acme-corp-12345").describe()
            history = await client.get_workflow_handle("tenant/acme-corp-12345").fetch_history()
        finally:
            temporal.stop()

    assert described.task_queue == "tenants.eu-west-1"
    signals = [event for event in history.events if event.HasField("workflow_execution_signaled_event_attributes")]
    assert len(signals) == 1
    assert "ACME Corporation" not in str(history.events)
