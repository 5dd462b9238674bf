"""A worker that shuts down does not wait for an operation that needs a worker."""

import asyncio
import gc
from functools import partial

import pytest
from temporalio.testing import ActivityEnvironment

from tests.workflows.entities import a_tenant_id
from worker.probe_services import ProbeServiceConnections, WorkerStopping


@pytest.mark.parametrize("what", ["connect", "disconnect"])
async def test_wait_for_a_workflow_ends_when_the_worker_shuts_down(temporal, what, caplog):
    environment, service = ActivityEnvironment(), (a_tenant_id(), "no-worker-1", "boundary-probe")
    connections = ProbeServiceConnections(temporal.address, 600.0)
    operation = partial(connections.connect, *service, "request-1") if what == "connect" else None
    operation = operation or partial(connections.disconnect, *service)
    running = asyncio.create_task(asyncio.to_thread(environment.run, operation))
    await asyncio.sleep(0.5)
    assert not running.done()
    environment.worker_shutdown()
    with pytest.raises(WorkerStopping) as stopped:
        await asyncio.wait_for(running, 60)
    assert stopped.value.retryable
    del running, stopped
    gc.collect()
    assert [record.message for record in caplog.records if record.name == "asyncio"] == []
