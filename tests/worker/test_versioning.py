"""Workers of two releases with Temporal's Worker Versioning: who takes which workflow, and the way back."""

import asyncio
import json
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client
from temporalio.service import RPCError

from config.settings import Settings
from core import names as ids
from core.messages.tenants import StatusChange
from core.names import CANARY_TENANT_ID
from devstack.servers.temporal import program
from tests.concurrency import wait_until_async
from tests.ports import free_port
from tests.worker.conftest import port_of
from tests.worker.test_process import Process, callback, enable, is_active, process_settings
from worker.versioning import DEPLOYMENT
from workflows.client.workflow_client import WorkflowClient

pytestmark = pytest.mark.full

# Fixtures that pytest finds here by their names.
__all__ = ["callback", "enable", "process_settings"]

OLD, NEW = "0.9.1", "0.10.0"


class Installation:
    """The workers of an installation by release; None is a worker without Worker Versioning."""

    def __init__(self, settings: Settings, client: Client, folder: Path) -> None:
        self.settings, self.client, self.folder = settings, client, folder
        self.running: dict[str | None, Process] = {}
        self.count = 0

    def start(self, build_id: str | None) -> Process:
        self.count += 1
        changes = {"worker_build_id": build_id, "worker_metrics_port": free_port(), "shutdown_grace_seconds": 5.0}
        settings = self.settings.model_copy(update=changes)
        self.running[build_id] = Process(settings, self.folder / f"worker-{self.count}.log")
        return self.running[build_id]

    def stop(self, build_id: str | None, number: signal.Signals = signal.SIGTERM) -> None:
        one = self.running.pop(build_id)
        one.process.send_signal(number)
        one.process.wait(60)

    async def wait_ready(self, build_id: str | None) -> None:
        one = self.running[build_id]
        await asyncio.to_thread(one.wait_until, lambda: "worker ready" in one.log)

    def temporal(self, *arguments: str) -> str:
        """Run Temporal's command as an operator does (docs/upgrading.md#workers)."""
        address = f"127.0.0.1:{port_of(self.client)}"
        command = [str(program()), *arguments, "--address", address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def set_current(self, *arguments: str) -> None:
        self.temporal(
            "worker", "deployment", "set-current-version", "--yes", "--deployment-name", DEPLOYMENT, *arguments
        )

    @property
    def current(self) -> str:
        shown = self.temporal("worker", "deployment", "describe", "--name", DEPLOYMENT, "--output", "json")
        return str(json.loads(shown)["routingConfig"]["currentVersionBuildID"])

    async def count_of(self, query: str) -> int:
        return (await self.client.count_workflows(query)).count


@pytest.fixture
def installation(process_settings: Settings, temporal_client: Client, tmp_path: Path) -> Iterator[Installation]:
    one = Installation(process_settings, temporal_client, tmp_path)
    yield one
    for build_id in list(one.running):
        one.stop(build_id, signal.SIGKILL)


async def interrupt_provisioning(
    installation: Installation, build_id: str, enable: Callable[[], Awaitable[str]]
) -> tuple[str, str]:
    """Kill the worker while it provisions a tenant; return the tenant and the query for that workflow."""
    process = installation.running[build_id].process
    while True:
        tenant_id = await enable()
        workflow_id = ids.provision_workflow(tenant_id)
        # The workflow is pinned by its first task, which schedules activities.
        await wait_until_async(partial(has_activity, installation.client, workflow_id))
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(0.5)  # for what is on its way
        query = f"WorkflowId = '{workflow_id}' and ExecutionStatus = 'Running'"
        if await installation.count_of(query):
            installation.stop(build_id, signal.SIGKILL)
            return tenant_id, query
        process.send_signal(signal.SIGCONT)


async def has_activity(client: Client, workflow_id: str) -> bool:
    try:
        history = await client.get_workflow_handle(workflow_id).fetch_history()
    except RPCError:  # not started yet
        return False
    return any(event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED for event in history.events)


async def test_operations_end_on_their_version_and_entities_move_to_the_current_one(
    installation: Installation, parts, enable: Callable[[], Awaitable[str]]
) -> None:
    def active(tenant_id: str) -> bool:
        return is_active(parts.database, tenant_id)

    client = WorkflowClient(installation.client, provisioning_slo_seconds=180)

    # From workers without Worker Versioning: their workflows continue on the first version.
    installation.start(None)
    await wait_until_async(lambda: active(CANARY_TENANT_ID))
    first = await enable()
    await wait_until_async(lambda: active(first))
    installation.stop(None)
    installation.start(OLD)
    await installation.wait_ready(OLD)
    await wait_until_async(lambda: installation.current == OLD)
    await client.change_standing(first, StatusChange.SUSPEND)

    # The next release: what runs is pinned to a version without workers, and waits for one.
    tenant_id, pinned = await interrupt_provisioning(installation, OLD, enable)
    installation.start(NEW)
    await wait_until_async(lambda: installation.current == NEW)
    other = await enable()
    await wait_until_async(lambda: active(other))
    assert await installation.count_of(pinned) == 1
    await client.change_standing(first, StatusChange.RESUME)  # the entity moved

    # A worker of the former release ends what it began, and does not become current.
    installation.start(OLD)
    await wait_until_async(lambda: active(tenant_id))
    await installation.wait_ready(OLD)
    assert installation.current == NEW
    ended = f"TemporalWorkerDeploymentVersion = '{DEPLOYMENT}:%s' and WorkflowId = '%s'"
    for build_id, provisioned in ((OLD, tenant_id), (NEW, other)):
        workflow_id = ids.provision_workflow(provisioned)
        await wait_until_async(lambda q=ended % (build_id, workflow_id): _is_one(installation, q))

    # Back by command. A restart of the newer release changes nothing.
    installation.set_current("--build-id", OLD)
    installation.stop(NEW)
    installation.start(NEW)
    await installation.wait_ready(NEW)
    back = await enable()
    await wait_until_async(lambda: active(back))
    assert installation.current == OLD
    await wait_until_async(lambda: _is_one(installation, ended % (OLD, ids.provision_workflow(back))))

    # Without a worker of that release, an operator moves what is pinned to it.
    moved, pinned = await interrupt_provisioning(installation, OLD, enable)
    installation.set_current("--build-id", NEW)
    installation.temporal(
        "workflow",
        "update-options",
        "--yes",
        "--query",
        f"TemporalWorkerDeploymentVersion = '{DEPLOYMENT}:{OLD}' and ExecutionStatus = 'Running'",
        "--versioning-override-behavior",
        "auto_upgrade",
        "--reason",
        "the release has no workers",
    )
    await wait_until_async(lambda: active(moved))
    await client.change_standing(moved, StatusChange.SUSPEND)


async def _is_one(installation: Installation, query: str) -> bool:
    return await installation.count_of(query) == 1
