"""Provisioning by a worker whose key server is slow, or fails between two calls of a step."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
from temporalio.client import Client, WorkflowHandle

from config.settings import Settings
from core import names as ids
from core.messages.tenants import ProvisionInput
from core.tenants.lifecycle import State
from core.tenants.provisioning import Step
from database.connection.database import Database
from devstack.servers.temporal import TemporalServer
from tests.activities.provisioning import MADE, REGION, Provisioning, run_steps
from tests.activities.services.connecting import SERVICE, Connection
from tests.concurrency import wait_until_async
from tests.kms.fault_proxy import FaultProxy, answering
from worker import wiring
from worker.task_queues import run_workers
from workflows.client.workflow_client import WorkflowClient
from workflows.provisioning import ProvisionTenant

CALL_SECONDS = 1.5
STEPS = (Step.CREATE_KEYS, Step.CREATE_AUTHORITY, Step.CHECK_BOUNDARIES)


@pytest.fixture
def proxy(settings: Settings) -> Iterator[FaultProxy]:
    with FaultProxy.running(settings.vault_url) as proxy:
        yield proxy


class SlowProvisioning:
    """A requested tenant, a canary, and a worker that reaches the key server through the proxy."""

    def __init__(self, settings: Settings, proxy: FaultProxy, temporal: TemporalServer, tenant_id: str) -> None:
        without_notifications = {"callback_url": None, "smtp_host": None}
        self._parts = wiring.build(settings.model_copy(update={"vault_address": proxy.url, **without_notifications}))
        self._parts.keyring.open_platform_key()
        self._temporal = temporal
        self.tenant_id = tenant_id

    async def run(self, seconds: float) -> dict[str, int]:
        """Provision the tenant and return the number of attempts of each step."""
        async with self._working(seconds) as client:
            handle = await client.start_workflow(
                ProvisionTenant.run,
                ProvisionInput(tenant_id=self.tenant_id, region=REGION, attempt=1, provisioning_slo_seconds=600),
                id=ids.provision_workflow(self.tenant_id),
                task_queue=ids.operation_queue(REGION),
            )
            assert (await handle.result()).state is State.ACTIVE
        return await attempts(handle)

    async def connect(self, seconds: float) -> dict[str, int]:
        """Connect the requested service of the active tenant and return the number of attempts of each step."""
        async with self._working(seconds) as client:
            await WorkflowClient(client, 600, seconds).connect_service(self.tenant_id, REGION, SERVICE, "request-1")
        return await attempts(client.get_workflow_handle(ids.service_workflow(self.tenant_id, SERVICE)))

    @asynccontextmanager
    async def _working(self, seconds: float) -> AsyncIterator[Client]:
        client = await Client.connect(self._temporal.address, data_converter=self._parts.converter)
        async with run_workers(wiring.workers(client, self._parts), self._parts.stopping), asyncio.timeout(seconds):
            yield client

    def close(self) -> None:
        self._parts.database.close()


async def attempts(handle: WorkflowHandle) -> dict[str, int]:
    """Return the number of attempts of each activity of a workflow."""
    events = (await handle.fetch_history()).events
    names = {event.event_id: event.activity_task_scheduled_event_attributes.activity_type.name for event in events}
    started = [event.activity_task_started_event_attributes for event in events]
    return {names[one.scheduled_event_id]: one.attempt for one in started if one.scheduled_event_id}


@pytest.fixture
def slow(
    settings: Settings, proxy: FaultProxy, temporal: TemporalServer, request_tenant: Callable[..., Provisioning]
) -> Iterator[SlowProvisioning]:
    canary = request_tenant(ids.CANARY_TENANT_ID, "OpenKCM canary")
    run_steps(canary, [step for step in Step if step not in (Step.CHECK_BOUNDARIES, Step.ANNOUNCE)])
    slow = SlowProvisioning(settings, proxy, temporal, request_tenant().tenant_id)
    yield slow
    slow.close()


@pytest.mark.full  # a minute and a half of waiting
async def test_each_step_ends_in_its_first_attempt_although_every_call_takes_seconds(slow, proxy) -> None:
    proxy.delay_seconds = CALL_SECONDS
    attempts = await slow.run(seconds=240)
    assert {step: attempts[step] for step in STEPS} == dict.fromkeys(STEPS, 1)
    assert not any("pki/certs" in seen.line for seen in proxy.seen), "no search for a certificate of an earlier attempt"


@pytest.mark.full  # half a minute of waiting
async def test_service_key_is_created_in_the_first_attempt_although_every_call_takes_seconds(
    settings: Settings, proxy: FaultProxy, temporal: TemporalServer, tenant: Provisioning, operator: Database
) -> None:
    run_steps(tenant, MADE)
    Connection(tenant, operator).ask()
    slow = SlowProvisioning(settings, proxy, temporal, tenant.tenant_id)
    proxy.delay_seconds = 2.5  # three calls exceed the six seconds of an ordinary attempt
    try:
        found = await slow.connect(seconds=120)
    finally:
        slow.close()
    assert (found["create-service-key"], found["issue-certificate"]) == (1, 1)


async def test_step_continues_with_the_call_that_failed_in_its_former_attempt(slow, proxy) -> None:
    tenant_key, payload_key = ids.l2_key(slow.tenant_id), ids.payload_key(slow.tenant_id)

    def sent(path: str) -> int:
        return sum(f"/v1/transit/{path} " in seen.line for seen in proxy.seen)

    failing = f"datakey/plaintext/{payload_key}"
    with proxy.spoiling(answering(503), failing):
        provisioning = asyncio.create_task(slow.run(seconds=60))
        await wait_until_async(lambda: sent(failing) == 2)
    assert (await provisioning)[Step.CREATE_KEYS] > 2
    calls = (f"keys/{tenant_key}", f"hmac/{tenant_key}", "hmac/fingerprints", f"keys/{payload_key}")
    assert {path: sent(path) for path in calls} == dict.fromkeys(calls, 1)
