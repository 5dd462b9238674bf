"""Requests without a worker or without Temporal are queued: reported so in time, and started as soon as possible."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from temporalio.client import Client, WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.service import RetryConfig, RPCError, RPCStatusCode

from core.errors.platform import TemporalUnavailable
from core.messages.tenants import StatusChange
from core.tenants.lifecycle import State
from tests.concurrency import wait_until_async
from tests.workflows.entities import Entity
from workflows.client.updates import OperationQueued, OperationTimeout, Submit, Updates
from workflows.client.workflow_client import WorkflowClient
from workflows.tenants import Tenant

WORKFLOWS = [Tenant]
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


class Doorway:
    """A TCP relay to Temporal on an address that refuses connections while it is shut."""

    def __init__(self, target: str, port: int) -> None:
        self._target, self._port = target.rsplit(":", 1), port
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", self._port)

    async def shut(self) -> None:
        if self._server is not None:
            self._server.close()
        for one in self._open:
            one.transport.abort()
        self._open.clear()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        self._open |= {writer, far_writer}
        await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


@pytest.fixture
async def doorway(temporal, free_port) -> AsyncIterator[Doorway]:
    way = Doorway(temporal.address, free_port)
    yield way
    await way.shut()


@pytest.mark.parametrize("connected", [False, True], ids=["never connected", "connected before"])
async def test_a_request_without_temporal_is_queued_and_starts_when_temporal_comes(entity, doorway, connected):
    """Both clients give the same answer, and the request is one operation, whenever the outage began."""
    retries = RetryConfig(max_retries=1)  # the core's own attempts take ten seconds
    to_doorway = await Client.connect(
        doorway.address, lazy=True, retry_config=retries, data_converter=pydantic_data_converter
    )
    gateway = WorkflowClient(to_doorway, 180, accept_seconds=1.5)
    if connected:
        await doorway.open()
        await gateway.has_workers()
        await doorway.shut()
    with pytest.raises(OperationQueued) as queued:
        await gateway.change_standing(entity.tenant_id, StatusChange.SUSPEND)
    assert queued.value.hint == TemporalUnavailable.hint
    await doorway.open()
    await entity.reaches(State.SUSPENDED)


async def test_a_command_without_temporal_fails_at_once(free_port):
    """Its process ends, so nothing can be queued."""
    gateway = await WorkflowClient.connect(f"127.0.0.1:{free_port}", 180.0)
    async with asyncio.timeout(30):
        with pytest.raises(TemporalUnavailable):
            await gateway.change_standing("acme-corp-1", StatusChange.LOCK)


class LostUpdate:
    """An accepted update of a run that Temporal no longer has, for example after its own restore."""

    async def result(self) -> None:
        raise RPCError("workflow not found", RPCStatusCode.NOT_FOUND, b"")


class CompletedUpdate:
    async def result(self) -> None: ...


async def test_an_accepted_request_is_submitted_again_when_its_run_is_lost():
    updates, submitted = [LostUpdate(), CompletedUpdate()], list[object]()

    async def submit() -> Any:
        submitted.append(updates.pop(0))
        return submitted[-1]

    await Updates(patience_seconds=60, accept_seconds=None).complete("tenant/acme", submit)
    assert [type(one) for one in submitted] == [LostUpdate, CompletedUpdate]


async def test_queued_requests_of_one_workflow_are_submitted_in_their_order():
    """The second request reaches Temporal again before the first one repeats its attempt."""
    updates, submitted, reachable = Updates(patience_seconds=60, accept_seconds=0.1), list[str](), asyncio.Event()

    def submit(name: str) -> Submit:
        async def attempt() -> Any:
            if not reachable.is_set():
                reachable.set()
                raise RPCError("connection refused", RPCStatusCode.UNAVAILABLE, b"")
            submitted.append(name)
            return CompletedUpdate()

        return attempt

    with pytest.raises(OperationQueued):
        await updates.complete("tenant/acme", submit("lock"))
    await updates.complete("tenant/other", submit("suspend"))
    with pytest.raises(OperationQueued):
        await updates.complete("tenant/acme", submit("unlock"))
    await wait_until_async(lambda: len(submitted) == 3)
    assert submitted == ["suspend", "lock", "unlock"]
    assert not updates._newest


async def test_a_request_that_was_cancelled_while_it_waited_changes_no_order():
    updates, submitted, accepts = Updates(patience_seconds=60, accept_seconds=60), list[str](), asyncio.Event()

    def submit(name: str) -> Submit:
        async def attempt() -> Any:
            await accepts.wait()
            submitted.append(name)
            return CompletedUpdate()

        return attempt

    first, second, third = (
        asyncio.ensure_future(updates.complete("tenant/acme", submit(name))) for name in ("lock", "unlock", "rotate")
    )
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait({second})
    fourth = asyncio.ensure_future(updates.complete("tenant/acme", submit("suspend")))
    accepts.set()
    await asyncio.gather(first, third, fourth)
    assert submitted == ["lock", "rotate", "suspend"]
    assert not updates._newest


@pytest.mark.parametrize("status", [RPCStatusCode.CANCELLED, RPCStatusCode.DEADLINE_EXCEEDED])
async def test_a_connection_that_ends_during_the_submission_is_no_accepted_request(status):
    """Temporal's client raises the same error when it loses the connection to an update that a worker has accepted."""
    attempts = 0

    async def submit() -> Any:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise WorkflowUpdateRPCTimeoutOrCancelledError from RPCError("operation was canceled", status, b"")
        return CompletedUpdate()

    with pytest.raises(RPCError):
        await Updates(patience_seconds=60, accept_seconds=None).complete("tenant/acme", submit)
    attempts = 0
    await Updates(patience_seconds=60, accept_seconds=60).complete("tenant/acme", submit)
    assert attempts == 2


async def test_a_cancelled_request_is_not_submitted_again():
    """Temporal's client replaces the cancellation of a task by its own error."""
    updates, attempts = Updates(patience_seconds=60, accept_seconds=60), 0

    async def submit() -> Any:
        nonlocal attempts
        attempts += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as cancelled:
            raise WorkflowUpdateRPCTimeoutOrCancelledError from cancelled

    first = asyncio.create_task(updates.complete("tenant/acme", submit))
    await wait_until_async(lambda: attempts == 1)
    second = asyncio.create_task(updates.complete("tenant/acme", submit))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait({second})
    assert list(updates._newest), "the first request is still before later ones"
    first.cancel()
    await asyncio.wait({first})
    await wait_until_async(lambda: not updates._newest)
    assert (first.cancelled(), second.cancelled(), attempts) == (True, True, 1)
