"""Requests while no worker runs: they are reported as queued within the given time, and start when a worker comes."""

import asyncio
import time
import uuid

import pytest

from core.errors.platform import TemporalUnavailable
from core.messages.tenants import StatusChange
from core.tenants.lifecycle import State
from tests.concurrency import wait_until_async
from tests.workflows.entities import Entity
from workflows.client.workflow_client import OperationQueued, OperationTimeout, WorkflowClient
from workflows.tenants import Tenant

_EVENTS_OF_FIRST_TASK = 4
"""The start of a workflow, and the scheduled, started and completed first task."""


@pytest.fixture
async def idle(client) -> Entity:
    """A tenant in a region without workers; its requests wait half a second for one."""
    entity = await Entity.start(client, f"eu-{uuid.uuid4().hex}-1")
    entity.gateway = WorkflowClient(client, 180, accept_seconds=0.5)
    return entity


async def test_a_request_without_a_worker_is_queued_and_starts_when_one_comes(client, idle, script):
    began = time.monotonic()
    with pytest.raises(OperationQueued):
        await idle.move(StatusChange.SUSPEND)
    assert time.monotonic() - began < 10
    async with script.worker(client, idle.region, [Tenant]):
        await idle.reaches(State.SUSPENDED)
    assert script.calls.count("change-status") == 1


async def test_a_repetition_of_a_queued_request_is_one_operation(client, idle, script):
    for _ in range(2):
        with pytest.raises(OperationQueued):
            await idle.move(StatusChange.SUSPEND)
    async with script.worker(client, idle.region, [Tenant]):
        await idle.reaches(State.SUSPENDED)
        await idle.move(StatusChange.SUSPEND)
    assert (await idle.state())[0] == State.SUSPENDED


async def test_an_accepted_request_that_takes_long_is_not_reported_as_queued(client, idle, script):
    script.down.add("change-status")
    idle.gateway = WorkflowClient(client, 180, patience_seconds=3, accept_seconds=2.5)

    async def worker_runs() -> bool:
        return (await idle.handle.describe()).history_length >= _EVENTS_OF_FIRST_TASK

    async with script.worker(client, idle.region, [Tenant]):
        await wait_until_async(worker_runs)
        with pytest.raises(OperationTimeout) as failed:
            await idle.move(StatusChange.SUSPEND)
        assert not isinstance(failed.value, OperationQueued)
        script.down.clear()
        await idle.reaches(State.SUSPENDED)


async def test_without_temporal_a_request_is_not_queued(free_port):
    gateway = await WorkflowClient.connect(f"127.0.0.1:{free_port}", 180.0, accept_seconds=30)
    async with asyncio.timeout(60):
        with pytest.raises(TemporalUnavailable):
            await gateway.change_standing("acme-corp-1", StatusChange.LOCK)
