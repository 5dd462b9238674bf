"""A worker that is being stopped does not wait for what only a worker could do."""

import asyncio

import pytest
from temporalio.client import Client
from temporalio.testing import ActivityEnvironment

from worker import bootstrap
from worker.probing import GatewayConnections, WorkerStopping

SOON = 20.0


@pytest.fixture
async def address(temporal_client: Client) -> str:
    await bootstrap.declare_search_attributes(temporal_client)
    return temporal_client.service_client.config.target_host


def ask(connections: GatewayConnections, what: str) -> None:
    """Ask for what nobody is there to do."""
    if what == "connect":
        connections.connect("openkcm-canary", "region-1", "boundary-probe", "request-1")
    else:
        connections.disconnect("openkcm-canary", "region-1", "boundary-probe")


@pytest.mark.parametrize("what", ["connect", "disconnect"])
async def test_what_waits_for_a_workflow_ends_when_the_worker_is_stopped(address: str, what: str):
    environment = ActivityEnvironment()
    asking = asyncio.create_task(asyncio.to_thread(environment.run, ask, GatewayConnections(address, 600.0), what))
    await asyncio.sleep(1.5)
    assert not asking.done()
    environment.worker_shutdown()
    with pytest.raises(WorkerStopping) as stopped:
        await asyncio.wait_for(asking, SOON)
    assert stopped.value.retryable
