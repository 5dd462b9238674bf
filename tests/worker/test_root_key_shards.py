"""Root key monitoring in several workers: another number of shards, and the death of a worker.

The root keys are at a customer's OpenBao, whose audit log states when each was checked.
"""

import asyncio
import json
import os
import signal
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from itertools import count, pairwise
from pathlib import Path

import pytest
from temporalio.api.enums.v1 import PendingActivityState
from temporalio.client import Client, Schedule, ScheduleActionStartWorkflow, ScheduleSpec, ScheduleState
from temporalio.contrib.pydantic import pydantic_data_converter

from config.settings import Settings
from core.names import PLATFORM_QUEUE, shards_of_worker, watch_workflow
from core.tenants.locks import HEALTHY
from devstack.servers.base import http_answer
from devstack.servers.temporal import TemporalServer
from tests.activities.conftest import bao
from tests.activities.provisioning import REGION
from tests.benchmarks.root_keys.monitor_data import make_keys, write_rows
from tests.concurrency import wait_until_async
from tests.database.fixtures import Field
from tests.kms.customer_openbao import CustomerOpenBao
from tests.ports import free_port, free_ports
from tests.worker.test_process import Process, callback, process_settings, start
from worker import __main__ as process
from worker import bootstrap, wiring
from worker.task_queues import run_workers

# Fixtures that pytest finds here by their names.
__all__ = ["bao", "callback", "process_settings", "start"]

pytestmark = [
    pytest.mark.full,
    # The SDK warns when a cancellation arrives after the end of its activity. As an error it would end the worker.
    pytest.mark.filterwarnings("ignore:Cannot find activity to cancel"),
]

_NOTICED_SECONDS = 5.0
_UNCHECKED_SECONDS = 5.0
"""The longest time between two checks of a key during a change of the number; the interval is one second."""
_RESTORE_SECONDS, _GONE_SECONDS, _POLL_SECONDS = 1.0, 6.0, 2.0
"""In place of 60, 120 and 60 seconds: the former monitoring ends after about the sum."""
_MOVED_SECONDS = 15.0
"""Four seconds without a heartbeat, then the next attempt; the machine also runs the other tests."""
_TENANTS = 8

_STARTED = PendingActivityState.PENDING_ACTIVITY_STATE_STARTED

_numbers = count(1)


class Customer:
    """Tenants with root keys at one OpenBao, and when these were checked."""

    def __init__(self, bao: CustomerOpenBao, field: Field, settings: Settings) -> None:
        self.tenants = [f"sharded-{next(_numbers):03}" for _ in range(_TENANTS)]
        self._bao, self._field = bao, field
        self._log = bao.server.folder / "logs" / "audit.log"
        self._began = datetime.now(UTC)
        keys = make_keys(settings, bao, self.tenants)
        with field.administrator() as administrator:
            write_rows(administrator, REGION, keys)

    def checks(self) -> dict[str, list[datetime]]:
        """Return the times of the checks of each tenant's key."""
        found: defaultdict[str, list[datetime]] = defaultdict(list)
        for line in self._log.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):  # the last line may be incomplete
                entry = json.loads(line)
                tenant = entry["request"]["path"].removeprefix("transit/decrypt/root-")
                at = datetime.fromisoformat(entry["time"])
                if entry["type"] == "request" and tenant in self.tenants and at > self._began:
                    found[tenant].append(at)
        return found

    def are_all_checked(self) -> bool:
        return self.checks().keys() == set(self.tenants)

    def longest_pause(self, tenants: Sequence[str], since: datetime) -> float:
        """Return the longest time without a check of one of the tenants' keys, in seconds."""
        checks, now = self.checks(), datetime.now(UTC)
        times = [[since, *(at for at in checks[tenant] if at > since), now] for tenant in tenants]
        return max((later - former).total_seconds() for one in times for former, later in pairwise(one))

    async def withdraw(self, tenant: str) -> float:
        """Disable a root key, and return the seconds until this is recorded."""
        began = time.monotonic()
        await asyncio.to_thread(self._bao.soft_delete, f"root-{tenant}")
        await wait_until_async(lambda: self._health(tenant) != HEALTHY)
        return time.monotonic() - began

    def _health(self, tenant: str) -> str:
        with self._field.administrator() as administrator:
            row = administrator.execute("select health from okcm.root_key where tenant_id = %s", [tenant]).fetchone()
        assert row is not None
        return str(row[0])


def shard_ids(shards: int) -> set[str]:
    return {watch_workflow(REGION, shard, shards) for shard in range(shards)}


async def monitored(client: Client) -> set[str]:
    """Return the running workflows of the monitoring."""
    query = "WorkflowType = 'MonitorRootKeys' and ExecutionStatus = 'Running'"
    return {found.id async for found in client.list_workflows(query)}


async def workers_of(client: Client, shards: int) -> list[str]:
    """Return the identity of the worker that runs each shard; empty where none does."""
    found = []
    for workflow_id in sorted(shard_ids(shards)):
        described = await client.get_workflow_handle(workflow_id).describe()
        pending = described.raw_description.pending_activities
        found.append(pending[0].last_worker_identity if pending and pending[0].state == _STARTED else "")
    return found


class _ShortPolls(TemporalServer):
    def command(self) -> Sequence[str]:
        poll = f'matching.longPollExpirationInterval="{_POLL_SECONDS:g}s"'
        return [*super().command(), "--dynamic-config-value", poll]


@pytest.fixture
def short_polls(tmp_path: Path) -> Iterator[TemporalServer]:
    server = _ShortPolls(tmp_path / "temporal", *free_ports(3))
    server.niceness = 0
    server.prepare()
    server.start()
    try:
        server.wait_ready(90)
        yield server
    finally:
        server.stop()


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"root_key_idle_poll_seconds": 1.0, "shutdown_grace_seconds": 5.0})


@pytest.fixture
def customer(bao: CustomerOpenBao, field: Field, settings: Settings, parts: wiring.WorkerDependencies) -> Customer:
    assert parts.settings is settings
    return Customer(bao, field, settings)


@asynccontextmanager
async def running_worker(address: str, settings: Settings, shards: int) -> AsyncIterator[Client]:
    """Run a worker of the product with this number of shards, as its process does."""
    parts = wiring.build(settings.model_copy(update={"root_key_shards": shards}))
    await asyncio.to_thread(parts.keyring.open_platform_key)
    client = await Client.connect(address, data_converter=parts.converter)
    await bootstrap.ensure_watches(client, settings.regions, shards)
    try:
        async with run_workers(wiring.workers(client, parts), parts.stopping):
            restoring = asyncio.create_task(process._keep_platform_workflows(client, settings.regions, shards))
            yield client
            restoring.cancel()
    finally:
        parts.database.close()


@pytest.fixture
async def client(short_polls: TemporalServer, monkeypatch: pytest.MonkeyPatch) -> Client:
    """A client of a Temporal server in which workers restore the monitoring each second, and nothing else."""
    monkeypatch.setattr(process, "_RESTORE_SECONDS", _RESTORE_SECONDS)
    monkeypatch.setattr(bootstrap, "_GONE_SECONDS", _GONE_SECONDS)
    client = await Client.connect(short_polls.address, data_converter=pydantic_data_converter)
    # With this schedule, which is paused, workers start no other workflow of the platform.
    action = ScheduleActionStartWorkflow("Paused", id="platform/paused", task_queue=PLATFORM_QUEUE)
    await client.create_schedule(
        "workflow-recovery", Schedule(action=action, spec=ScheduleSpec(), state=ScheduleState(paused=True))
    )
    return client


async def test_former_number_of_shards_ends_after_its_last_worker_and_no_key_stays_unchecked(
    short_polls: TemporalServer, client: Client, settings: Settings, customer: Customer
) -> None:
    """A change from one shard to four, then to two."""
    healthy = list(customer.tenants)
    async with AsyncExitStack() as workers:
        former = await workers.enter_async_context(AsyncExitStack())
        await former.enter_async_context(running_worker(short_polls.address, settings, 1))
        await wait_until_async(customer.are_all_checked)
        since = datetime.now(UTC)
        for before, shards in ((1, 4), (4, 2)):
            new = await workers.enter_async_context(AsyncExitStack())
            await new.enter_async_context(running_worker(short_polls.address, settings, shards))
            both = shard_ids(before) | shard_ids(shards)
            await wait_until_async(lambda both=both: is_monitored(client, both))
            for _ in range(int(2 * _GONE_SECONDS)):
                assert await monitored(client) == both, "a worker ends the monitoring of another running worker"
                await asyncio.sleep(0.5)

            await former.aclose()
            await wait_until_async(lambda shards=shards: is_monitored(client, shard_ids(shards)))
            assert await customer.withdraw(healthy.pop()) < _NOTICED_SECONDS
            former = new
        assert customer.longest_pause(healthy, since) < _UNCHECKED_SECONDS


async def test_worker_with_fewer_shards_continues_all_shards_of_one_with_more(
    short_polls: TemporalServer, client: Client, settings: Settings, customer: Customer
) -> None:
    healthy = list(customer.tenants)
    async with AsyncExitStack() as larger, AsyncExitStack() as smaller:
        await larger.enter_async_context(running_worker(short_polls.address, settings, 8))
        await bootstrap.ensure_watches(client, settings.regions, 1)
        await wait_until_async(lambda: is_monitored(client, shard_ids(8) | shard_ids(1)))
        await wait_until_async(customer.are_all_checked)
        since = datetime.now(UTC)
        await smaller.enter_async_context(running_worker(short_polls.address, settings, 1))
        await larger.aclose()
        assert await customer.withdraw(healthy.pop()) < _NOTICED_SECONDS
        await wait_until_async(lambda: is_monitored(client, shard_ids(1)))
        assert customer.longest_pause(healthy, since) < _UNCHECKED_SECONDS


async def is_monitored(client: Client, expected: set[str]) -> bool:
    return await monitored(client) == expected


async def test_shards_of_a_killed_worker_continue_in_another_one(
    start: Callable[[Settings], Process], process_settings: Settings, customer: Customer, temporal_client: Client
) -> None:
    shards = 4
    started: dict[int, Process] = {}
    ports = [free_port() for _ in range(2)]
    for port in ports:
        update = {"root_key_shards": shards, "worker_metrics_port": port}
        worker = start(process_settings.model_copy(update=update))
        started[worker.process.pid] = worker
    await wait_until_async(customer.are_all_checked)

    async def run_in(pids: set[int]) -> bool:
        found = await workers_of(temporal_client, shards)
        return all(found) and {pid_of(identity) for identity in found} <= pids

    def metrics(port: int) -> str:
        return (http_answer(port, "/metrics") or (0, ""))[1]

    await wait_until_async(lambda: run_in(set(started)))
    await wait_until_async(lambda: all("temporal_num_pollers{" in metrics(port) for port in ports))
    for port in ports:
        series = metrics(port).count("openkcm_root_key_check_delay_seconds{")
        assert series == shards * len(process_settings.regions)
    before = [pid_of(identity) for identity in await workers_of(temporal_client, shards)]
    killed = before[0]
    (survivor,) = started.keys() - {killed}
    os.kill(killed, signal.SIGKILL)
    began, since = time.monotonic(), datetime.now(UTC)
    await wait_until_async(lambda: run_in({survivor}))
    moved = time.monotonic() - began
    healthy = list(customer.tenants)
    assert await customer.withdraw(healthy.pop()) < _NOTICED_SECONDS
    assert moved < _MOVED_SECONDS
    assert customer.longest_pause(healthy, since) < _MOVED_SECONDS


def pid_of(identity: str) -> int:
    assert shards_of_worker(identity) == 4
    return int(identity.partition("@")[0])
