"""Slow activities delay no urgent work, the number of concurrent rotations is limited, and workers drain together."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from threading import Barrier, Event

import pytest
from temporalio import activity, workflow
from temporalio.bridge.proto.activity_task import Cancel
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from config.settings import Settings
from core.errors.platform import DatabaseUnavailable
from core.keys.rotation import RotationPhase
from core.messages.tenants import StatusChange
from core.names import TenantId
from core.tenants.lifecycle import State
from devstack.servers.temporal import TemporalServer
from tests.activities.provisioning import MADE, REGION, Provisioning, run_steps
from tests.concurrency import at_once, wait_until_async
from tests.e2e.receivers import CallbackReceiver
from tests.kms.estate import make_service_keys
from tests.workflows.entities import Entity
from worker import wiring
from worker.task_queues import database_connections, run_workers

ROTATIONS = 2
LONG = 2
_SLOW = 0.01
"""Service keys per second: one key holds its slot for 100 seconds."""


@pytest.fixture
def callback() -> Iterator[CallbackReceiver]:
    receiver = CallbackReceiver()
    yield receiver
    receiver.close()


@pytest.fixture
def settings(settings: Settings, callback: CallbackReceiver) -> Settings:
    return settings.model_copy(
        update={
            "regions": (f"eu-{uuid.uuid4().hex}-1",),
            "worker_threads": 2 * LONG,
            "worker_rotations": ROTATIONS,
            "rewrap_per_second": _SLOW,
            "shutdown_grace_seconds": 5.0,
            "callback_url": callback.url,
            "smtp_host": None,
            "email_to": None,
        }
    )


@pytest.fixture
async def client(temporal: TemporalServer, parts: wiring.WorkerDependencies) -> AsyncIterator[Client]:
    """Run the product's workers of the region."""
    client = await Client.connect(temporal.address, data_converter=parts.converter)
    async with run_workers(wiring.workers(client, parts), parts.stopping):
        yield client


@pytest.fixture
def start(
    client: Client, settings: Settings, parts: wiring.WorkerDependencies, request_tenant: Callable[..., Provisioning]
) -> Callable[[], "asyncio.Future[Entity]"]:
    """Return a function that starts the workflow of a new active tenant with one service key."""

    async def start() -> Entity:
        tenant = request_tenant()
        await asyncio.to_thread(run_steps, tenant, MADE)
        await asyncio.to_thread(make_service_keys, parts, tenant.tenant_id, REGION, ["orders"])
        return await Entity.start(client, settings.regions[0], tenant_id=tenant.tenant_id)

    return start


def state_of(parts: wiring.WorkerDependencies, tenant_id: TenantId) -> State:
    with parts.database.tenant_tx(tenant_id) as tx:
        return tx.tenants.lock().state


def preparing(parts: wiring.WorkerDependencies, entities: list[Entity]) -> list[str]:
    """Return the tenants whose rotation has its slot: its only key is prepared, and the rate limit holds it."""
    found = []
    for entity in entities:
        with parts.database.tenant_tx(entity.tenant_id) as tx:
            rotation = tx.rotations.get(1)
        if rotation is not None and rotation.stage is RotationPhase.PREPARE and rotation.done:
            found.append(entity.tenant_id)
    return found


async def test_status_changes_complete_while_every_slot_of_slow_activities_is_busy(start, parts, callback):
    target, *notified = [await start() for _ in range(1 + LONG)]
    rotating = [await start() for _ in range(ROTATIONS + 2)]
    with callback.holding():
        for entity in notified:
            await entity.move(StatusChange.LOCK)  # its notification waits for the receiver
        await wait_until_async(lambda: len({taken.event["subject"] for taken in callback.taken}) == LONG)
        rotations = [asyncio.create_task(entity.rotate(tenant_key=False)) for entity in rotating]
        await wait_until_async(lambda: len(preparing(parts, rotating)) >= ROTATIONS)

        for move, state in (
            (StatusChange.SUSPEND, State.SUSPENDED),
            (StatusChange.LOCK, State.LOCKED),
            (StatusChange.UNLOCK, State.SUSPENDED),
        ):
            async with asyncio.timeout(10):
                await target.move(move)
            assert state_of(parts, target.tenant_id) is state
        # A rotation does not protect its tenant from a lock either.
        async with asyncio.timeout(10):
            await rotating[0].move(StatusChange.LOCK)

        assert len(preparing(parts, rotating)) == ROTATIONS, "more rotations than slots"
        assert not any(rotation.done() for rotation in rotations)
    for rotation in rotations:
        rotation.cancel()
    for entity in (target, *notified, *rotating):
        await entity.handle.terminate()


def test_the_documented_number_of_database_connections_is_that_of_the_defaults():
    page = (Path(__file__).parents[2] / "docs" / "own-servers.md").read_text()
    assert f": {database_connections(Settings())} with the defaults." in page


def test_each_thread_of_an_activity_can_hold_a_database_connection(parts, tenant):
    connections = database_connections(parts.settings)
    every_one_is_open = Barrier(connections)

    def transaction() -> int:
        while True:
            with suppress(DatabaseUnavailable), parts.database.tenant_tx(tenant.tenant_id):  # while the pool grows
                return every_one_is_open.wait(50)

    assert sorted(at_once(*[transaction] * connections)) == list(range(connections))


async def test_workers_of_all_queues_drain_at_the_same_time(temporal):
    """Each activity ends only when both workers drain, which one after the other never do."""
    client = await Client.connect(temporal.address, data_converter=pydantic_data_converter)
    both_drain, ended = asyncio.Barrier(2), []

    @activity.defn(name="wait-for-both")
    async def wait_for_both() -> None:
        running.release()
        await activity.wait_for_worker_shutdown()
        await both_drain.wait()
        ended.append(activity.info().task_queue)

    running = asyncio.Semaphore(0)
    queues = [uuid.uuid4().hex for _ in range(2)]
    grace = timedelta(seconds=30)
    workers = [
        Worker(
            client,
            task_queue=queue,
            workflows=[_Waiting],
            activities=[wait_for_both],
            workflow_runner=UnsandboxedWorkflowRunner(),
            graceful_shutdown_timeout=grace,
        )
        for queue in queues
    ]
    async with run_workers(workers, Event()):
        for queue in queues:
            await client.start_workflow(_Waiting.run, id=queue, task_queue=queue)
        for _ in queues:
            await running.acquire()
    assert sorted(ended) == sorted(queues)


@workflow.defn(name="Waiting")
class _Waiting:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity("wait-for-both", start_to_close_timeout=timedelta(minutes=1))


async def test_warning_of_an_activity_cancelled_while_it_completes_does_not_end_a_worker(temporal):
    """Warnings are errors in tests, but temporalio gives this one in the loop that polls for activities."""

    @activity.defn
    async def short() -> None: ...

    client = await Client.connect(temporal.address, data_converter=pydantic_data_converter)
    worker = Worker(client, task_queue=uuid.uuid4().hex, activities=[short])
    worker._activity_worker._handle_cancel_activity_task(b"token of an activity that has completed", Cancel())
