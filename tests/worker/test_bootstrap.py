"""Declarations in Temporal are made once by any number of workers; the canary tenants are ordinary tenants."""

import asyncio
import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleIntervalSpec,
    ScheduleSpec,
    ScheduleState,
    WorkflowExecutionStatus,
    WorkflowHandle,
)
from temporalio.converter import JSONPlainPayloadConverter
from temporalio.service import RPCError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from core.errors.compliance import CanaryMissing, SecondCanaryMissing
from core.names import (
    CANARY_TENANT_ID,
    MIRROR_TENANT_ID,
    PLATFORM_QUEUE,
    root_key,
    tenant_queue,
    tenant_workflow,
    watch_workflow,
)
from core.tenants.lifecycle import State, Transition
from core.tenants.provisioning import Step
from database.platform.scheduled import PlatformQueries
from tests.concurrency import wait_until_async
from worker import __main__ as process
from worker import bootstrap
from workflows.client.workflow_client import WorkflowClient
from workflows.root_keys import MonitorRootKeys
from workflows.runtime import options as priorities
from workflows.runtime import options as visibility


async def declared(client: Client) -> dict[str, IndexedValueType.ValueType]:
    answer = await client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=client.namespace)
    )
    return dict(answer.custom_attributes)


async def scheduled(client: Client) -> set[str]:
    return {schedule.id async for schedule in await client.list_schedules()}


async def test_attributes_and_schedules_are_declared_once_however_many_workers_start(temporal_client):
    assert await declared(temporal_client) == {}
    await bootstrap.declare_search_attributes(temporal_client)
    first = await declared(temporal_client)
    assert set(first) == {key.name for key in visibility.ALL}
    assert first["TenantId"] == IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
    assert first["ProvisioningSloBreached"] == IndexedValueType.INDEXED_VALUE_TYPE_BOOL
    await bootstrap.declare_search_attributes(temporal_client)
    assert await declared(temporal_client) == first

    await asyncio.gather(*(bootstrap.declare_schedules(temporal_client) for _ in range(4)))
    async with asyncio.timeout(60):
        while await scheduled(temporal_client) != set(bootstrap.SCHEDULES):  # noqa: ASYNC110 - a list lags behind
            await asyncio.sleep(0.05)
    before = {name: await updated_at(temporal_client, name) for name in bootstrap.SCHEDULES}
    await bootstrap.declare_schedules(temporal_client)
    assert {name: await updated_at(temporal_client, name) for name in bootstrap.SCHEDULES} == before


def of(workflow_id: str, queue: str = PLATFORM_QUEUE, hours: int = 7, release: int | None = None) -> Schedule:
    memo = None if release is None else {"release": JSONPlainPayloadConverter().to_payload(release)}
    return Schedule(
        action=ScheduleActionStartWorkflow("Retired", id=workflow_id, task_queue=queue, memo=memo),
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=timedelta(hours=hours))]),
        state=ScheduleState(paused=True, note="by an operator"),
    )


async def test_schedules_are_reconciled_with_the_table_and_foreign_ones_stay(temporal_client):
    await temporal_client.create_schedule("rotations", of("platform/rotations"))
    await temporal_client.create_schedule("of-an-older-version", of("platform/of-an-older-version"))
    await temporal_client.create_schedule("of-another-product", of("another", "another"))
    await temporal_client.create_schedule("of-the-operators", of("report"))
    wanted = {*bootstrap.SCHEDULES, "of-another-product", "of-the-operators"}
    async with asyncio.timeout(60):
        while await scheduled(temporal_client) != wanted:
            await asyncio.gather(*(bootstrap.declare_schedules(temporal_client) for _ in range(2)))
    described = await temporal_client.get_schedule_handle("rotations").describe()
    assert described.schedule.action.workflow == "RotateDueKeys"
    assert [interval.every for interval in described.schedule.spec.intervals] == [timedelta(hours=1)]
    assert (described.schedule.state.paused, described.schedule.state.note) == (True, "by an operator")


async def test_older_worker_neither_deletes_nor_changes_schedules_of_a_newer_one(temporal_client):
    newer, older = bootstrap.RELEASE + 1, bootstrap.RELEASE - 1
    await temporal_client.create_schedule("rotations", of("platform/rotations", release=newer))
    await temporal_client.create_schedule("of-a-newer-release", of("platform/of-a-newer-release", release=newer))
    await temporal_client.create_schedule("of-an-older-release", of("platform/of-an-older-release", release=older))
    wanted = {*bootstrap.SCHEDULES, "of-a-newer-release"}
    async with asyncio.timeout(60):
        while await scheduled(temporal_client) != wanted:
            await bootstrap.declare_schedules(temporal_client)
    described = await temporal_client.get_schedule_handle("rotations").describe()
    assert described.schedule.action.workflow == "Retired"
    assert [interval.every for interval in described.schedule.spec.intervals] == [timedelta(hours=7)]


async def test_running_worker_restores_monitoring_and_declarations_that_are_lost(temporal_client, monkeypatch):
    """Temporal's storage is empty; later an operator terminates the monitoring of a region."""
    region = "eu-west-1"
    monkeypatch.setattr(process, "_RESTORE_SECONDS", 0.1)
    monitoring = temporal_client.get_workflow_handle(watch_workflow(region))

    async def runs() -> bool:
        with suppress(RPCError):
            return (await monitoring.describe()).status is WorkflowExecutionStatus.RUNNING
        return False

    running = asyncio.create_task(process._keep_platform_workflows(temporal_client, [region], 1))
    await wait_until_async(runs)
    assert set(await declared(temporal_client)) == {key.name for key in visibility.ALL}
    assert (await temporal_client.get_schedule_handle("workflow-recovery").describe()).info.num_actions == 1
    await temporal_client.get_schedule_handle("rotations").pause(note="by an operator")
    await monitoring.terminate()
    await wait_until_async(runs)
    assert (await temporal_client.get_schedule_handle("rotations").describe()).schedule.state.paused
    running.cancel()


async def updated_at(client: Client, name: str) -> datetime | None:
    return (await client.get_schedule_handle(name).describe()).info.last_updated_at


@pytest.fixture
async def gateway(temporal_client) -> WorkflowClient:
    await bootstrap.declare_search_attributes(temporal_client)
    return WorkflowClient(temporal_client, provisioning_slo_seconds=180)


async def test_both_canary_tenants_are_requested_once_and_wait_for_a_worker(temporal_client, gateway, parts):
    for ensure, missing, tenant_id in (
        (bootstrap.ensure_canary, CanaryMissing, CANARY_TENANT_ID),
        (bootstrap.ensure_mirror, SecondCanaryMissing, MIRROR_TENANT_ID),
    ):
        for _ in range(2):
            with pytest.raises(missing):
                await ensure(parts.database, gateway, "eu-west-1")
        described = await temporal_client.get_workflow_handle(tenant_workflow(tenant_id)).describe()
        assert described.typed_search_attributes.get(visibility.TENANT_ID) == tenant_id
        with parts.database.tenant_tx(tenant_id) as tx:
            assert tx.tenants.get().state is State.REQUESTED
    # The second canary tenant, which is the last, has a lower priority than service requests.
    priority = described.raw_description.workflow_execution_info.priority
    assert priority.priority_key > priorities.service("x").priority_key
    with parts.database.tenant_tx(MIRROR_TENANT_ID) as tx:
        tx.tenants.move(Transition.PROVISION)
        tx.tenants.move(Transition.ACTIVATE)
    await bootstrap.ensure_mirror(parts.database, gateway, "eu-west-1")


async def test_canary_that_fails_again_is_requested_again_once_a_minute(temporal_client, gateway, parts):
    with pytest.raises(CanaryMissing):
        await bootstrap.ensure_canary(parts.database, gateway, "eu-west-1")
    with parts.database.tenant_tx(CANARY_TENANT_ID) as tx:
        tx.tenants.move(Transition.PROVISION)
        tx.tenants.move(Transition.FAIL)
    begin = datetime(2026, 1, 15, 10, 30, tzinfo=UTC)
    for seconds in (0, 30, 60, 90):
        with pytest.raises(CanaryMissing):
            await bootstrap.ensure_canary(
                parts.database, gateway, "eu-west-1", lambda seconds=seconds: begin + timedelta(seconds=seconds)
            )
    history = await temporal_client.get_workflow_handle(tenant_workflow(CANARY_TENANT_ID)).fetch_history()
    signals = [event.workflow_execution_signaled_event_attributes.input.payloads for event in history.events]
    requests = [json.loads(payload.data)["event_id"] for payloads in signals for payload in payloads]
    assert list(dict.fromkeys(requests)) == [
        "bootstrap-requested",
        "bootstrap-failed-2026-01-15T10:30",
        "bootstrap-failed-2026-01-15T10:31",
    ]


async def test_active_canary_is_not_requested_again(temporal_client, gateway, parts, request_tenant):
    canary = request_tenant(CANARY_TENANT_ID, "OpenKCM canary")
    canary.run(Step.OPEN_RECORDS)
    with parts.database.tenant_tx(CANARY_TENANT_ID) as tx:
        tx.tenants.move(Transition.ACTIVATE)
    await bootstrap.ensure_canary(parts.database, gateway, "eu-west-1")
    assert [run async for run in temporal_client.list_workflows()] == []


async def monitored(client: Client) -> dict[str, bool]:
    """Return the workflows of the monitoring, and whether each has a request to end."""
    found = {}
    async for run in client.list_workflows("WorkflowType = 'MonitorRootKeys'"):
        history = await client.get_workflow_handle(run.id).fetch_history()
        requests = (e.HasField("workflow_execution_cancel_requested_event_attributes") for e in history.events)
        found[run.id] = any(requests)
    return found


async def test_each_shard_of_root_keys_is_monitored_and_a_former_number_of_shards_ends(temporal_client):
    async def is_monitored(expected: dict[str, bool]) -> bool:
        return await monitored(temporal_client) == expected

    for _ in range(2):
        await bootstrap.ensure_watches(temporal_client, ["eu-west-1", "us-east-1"], 1)
    former = {"root-keys/eu-west-1": False, "root-keys/us-east-1": False}
    await wait_until_async(lambda: is_monitored(former))
    await bootstrap.ensure_watches(temporal_client, ["eu-west-1"], 2)
    new = {f"root-keys/eu-west-1/{shard}-of-2": False for shard in range(2)}
    await wait_until_async(lambda: is_monitored(former | new))
    await bootstrap.end_former_watches(temporal_client, ["eu-west-1"], 2)
    assert await monitored(temporal_client) == former | new | {"root-keys/eu-west-1": True}


async def test_monitoring_stays_while_a_worker_does_not_state_its_number_of_shards(temporal_client):
    async def is_listed() -> bool:
        return await monitored(temporal_client) == {"root-keys/eu-west-1": False}

    await bootstrap.ensure_watches(temporal_client, ["eu-west-1"], 1)
    await wait_until_async(is_listed)
    async with Worker(
        temporal_client,
        task_queue=tenant_queue("eu-west-1"),
        workflows=[MonitorRootKeys],
        workflow_runner=UnsandboxedWorkflowRunner(),
    ):
        handle = temporal_client.get_workflow_handle("root-keys/eu-west-1")
        await wait_until_async(lambda: is_begun(handle))
        await bootstrap.end_former_watches(temporal_client, ["eu-west-1"], 2)
        assert await is_listed()


async def is_begun(handle: WorkflowHandle) -> bool:
    """Return whether a worker has polled the workflow's first task."""
    events = (await handle.fetch_history()).events
    return any(event.HasField("workflow_task_completed_event_attributes") for event in events)


async def test_root_key_of_each_region_is_created_once(parts, vault_admin):
    # Separate regions, because other tests of this process rotate the root key of theirs.
    regions = ("eu-central-8", "eu-central-9")
    for _ in range(2):
        bootstrap.ensure_root_keys(parts.root_keys, regions)
    for region in regions:
        key = vault_admin.read(f"transit/keys/{root_key(region)}")
        assert (key["type"], key["latest_version"], key["derived"], key["exportable"]) == (
            "aes256-gcm96",
            1,
            True,
            False,
        )


async def test_public_keys_of_the_signer_are_stored(parts):
    for _ in range(2):
        bootstrap.record_audit_keys(parts.signer, parts.queries)
    assert PlatformQueries(parts.database).audit_keys() == parts.signer.public_keys()
    assert PlatformQueries(parts.database).audit_keys()
