"""A worker that shuts down does not wait for an operation that needs a worker."""

import asyncio
import gc
import threading
from functools import partial

import pytest

from tests.workflows.entities import a_tenant_id
from worker.probe_services import ProbeServiceConnections, WorkerStopping


@pytest.mark.parametrize("what", ["connect", "disconnect"])
async def test_wait_for_a_workflow_ends_when_the_worker_shuts_down(temporal, what, caplog):
    service, stopping = (a_tenant_id(), "no-worker-1", "boundary-probe"), threading.Event()
    connections = ProbeServiceConnections(temporal.address, 600.0, stopping)
    operation = partial(connections.connect, *service, "request-1") if what == "connect" else None
    operation = operation or partial(connections.disconnect, *service)
    running = asyncio.create_task(asyncio.to_thread(operation))
    await asyncio.sleep(0.5)
    assert not running.done()
    stopping.set()
    with pytest.raises(WorkerStopping) as stopped:
        await asyncio.wait_for(running, 60)
    assert stopped.value.retryable
    del running, stopped
    gc.collect()
    assert [record.message for record in caplog.records if record.name == "asyncio"] == []
