"""Prerequisites of the first tenant: root keys, public audit keys, search attributes, schedules and the canary tenant.

The second canary tenant follows later, because no tenant waits for it. Each start of a worker reconciles all of them;
a second run, or a run in two workers at once, changes nothing.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import product
from typing import Any

import structlog
from temporalio.api.enums.v1 import IndexedValueType, TaskQueueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.common import SearchAttributeIndexedValueType, WorkflowIDConflictPolicy
from temporalio.converter import JSONPlainPayloadConverter
from temporalio.service import RPCError, RPCStatusCode
from temporalio.types import MethodAsyncNoParam

from core.errors.compliance import CanaryMissing, SecondCanaryMissing
from core.messages.keys import WatchRootKeysInput
from core.names import (
    CANARY_TENANT_ID,
    MIRROR_TENANT_ID,
    PLATFORM_QUEUE,
    parse_watch_workflow,
    shards_of_worker,
    tenant_queue,
    watch_workflow,
)
from core.tenants.lifecycle import State
from core.tenants.provisioning import EventKind, MarketplaceEvent
from database.connection.database import Database
from database.platform.scheduled import PlatformQueries
from openkcm.contract.audit_events import CHECKPOINT_MINUTES
from vault.transit.audit_signer import TransitAuditSigner
from vault.transit.root_keys import TransitRootKeys
from workflows.audit import ReconcileAudit, SignAuditCheckpoints
from workflows.certificates import CheckExpiry, PublishRevocationLists, RotateDueCertificateAuthorities
from workflows.client.workflow_client import WorkflowClient
from workflows.isolation import AssessDueTenants
from workflows.notifications import DispatchNotifications
from workflows.recovery import RecordLocks, RecoverWorkflows
from workflows.retention import ArchiveAuditStreams, DeleteExpiredRows
from workflows.root_keys import DetectRootKeyVersions, MonitorRootKeys, PurgeUnusedCredentials
from workflows.rotation import RotateDueKeys
from workflows.runtime import options as visibility

_PLATFORM_WORKFLOWS = "platform/"
RELEASE = 2
"""Raise it with each change of SCHEDULES: a worker leaves alone what a newer one has declared."""
_RELEASE = "release"
_READABLE = JSONPlainPayloadConverter()
"""Not the client's converter, which encrypts: an operator should read the number too."""
_GONE_SECONDS = 120.0
"""A worker has ended when its last poll is older than the newest one by this time. A poll takes up to 60 seconds."""


def _scheduled(
    name: str, run: MethodAsyncNoParam[Any, None], *, minutes: int, execution_timeout: timedelta | None = None
) -> tuple[str, Schedule]:
    """Return a schedule with its name: `platform/NAME` starts every `minutes`, unless the last run has not ended."""
    action = ScheduleActionStartWorkflow(
        run,
        id=f"{_PLATFORM_WORKFLOWS}{name}",
        task_queue=PLATFORM_QUEUE,
        execution_timeout=execution_timeout,
        memo={_RELEASE: _READABLE.to_payload(RELEASE)},
    )
    interval = ScheduleIntervalSpec(every=timedelta(minutes=minutes))
    return name, Schedule(
        action=action,
        spec=ScheduleSpec(intervals=[interval], jitter=timedelta(seconds=10)),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP),
    )


_RECOVERY = "workflow-recovery"

SCHEDULES = dict(
    (
        _scheduled(_RECOVERY, RecoverWorkflows.run, minutes=1),
        _scheduled("lock-records", RecordLocks.run, minutes=1),
        _scheduled("audit-checkpoints", SignAuditCheckpoints.run, minutes=CHECKPOINT_MINUTES),
        _scheduled("audit-reconciliation", ReconcileAudit.run, minutes=24 * 60),
        _scheduled("unused-credentials", PurgeUnusedCredentials.run, minutes=5),
        _scheduled("ca-rotation", RotateDueCertificateAuthorities.run, minutes=60),
        _scheduled("revocation-lists", PublishRevocationLists.run, minutes=10),
        _scheduled("expiry", CheckExpiry.run, minutes=60),
        _scheduled("rotations", RotateDueKeys.run, minutes=60),
        _scheduled("root-key-versions", DetectRootKeyVersions.run, minutes=60),
        # An offboarding destroys the payload key of its child's result. A run that cannot be decrypted afterwards
        # must not block later runs.
        _scheduled("isolation", AssessDueTenants.run, minutes=1, execution_timeout=timedelta(hours=12)),
        _scheduled("retention", DeleteExpiredRows.run, minutes=60),
        _scheduled("audit-archive", ArchiveAuditStreams.run, minutes=60),
        _scheduled("notifications", DispatchNotifications.run, minutes=1),
    )
)

_INDEXED = {
    SearchAttributeIndexedValueType.KEYWORD: IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    SearchAttributeIndexedValueType.BOOL: IndexedValueType.INDEXED_VALUE_TYPE_BOOL,
}

log = structlog.get_logger()


async def declare_search_attributes(client: Client) -> None:
    """Register missing search attributes; Temporal rejects the start of a workflow with an unknown one."""
    existing = await client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=client.namespace)
    )
    missing = {
        key.name: _INDEXED[key.indexed_value_type]
        for key in visibility.ALL
        if key.name not in existing.custom_attributes
    }
    if missing:
        await client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(namespace=client.namespace, search_attributes=missing)
        )
        log.info("search attributes added", names=sorted(missing))


async def declare_schedules(client: Client) -> None:
    """Create and update the schedules of the table, and delete the platform's other schedules.

    A schedule belongs to the platform if it starts a platform workflow on the platform's queue. A schedule that an
    operator paused stays paused. During an upgrade an older worker may start again: it neither changes nor deletes the
    schedules of a newer one.
    """
    for name, schedule in SCHEDULES.items():
        try:
            await client.create_schedule(name, schedule)
            log.info("schedule created", name=name)
        except ScheduleAlreadyRunningError:
            await client.get_schedule_handle(name).update(partial(_update, name, schedule))
    for name in [listed.id async for listed in await client.list_schedules() if listed.id not in SCHEDULES]:
        handle = client.get_schedule_handle(name)
        with _ignore_not_found():
            found = (await handle.describe()).schedule
            if _is_of_platform(found) and _release_of(found) <= RELEASE:
                await handle.delete()
                log.info("schedule deleted", name=name)


def _update(name: str, declared: Schedule, found: ScheduleUpdateInput) -> ScheduleUpdate | None:
    existing = found.description.schedule
    if _release_of(existing) > RELEASE or _declared_part(existing) == _declared_part(declared):
        return None
    log.info("schedule changed", name=name)
    return ScheduleUpdate(schedule=replace(declared, state=existing.state))


def _declared_part(schedule: Schedule) -> tuple[object, ...]:
    """Return the declared part of a schedule, without the defaults that the server adds."""
    action, spec = schedule.action, schedule.spec
    started = (
        (action.workflow, action.id, action.task_queue) if isinstance(action, ScheduleActionStartWorkflow) else None
    )
    return (
        _release_of(schedule),
        started,
        [interval.every for interval in spec.intervals],
        spec.jitter,
        schedule.policy.overlap,
    )


def _release_of(schedule: Schedule) -> int:
    """Return the release that declared a schedule; 0 for one without a number."""
    action = schedule.action
    memo = (action.memo if isinstance(action, ScheduleActionStartWorkflow) else None) or {}
    return int(memo[_RELEASE].data) if _RELEASE in memo else 0


def _is_of_platform(schedule: Schedule) -> bool:
    action = schedule.action
    return (
        isinstance(action, ScheduleActionStartWorkflow)
        and action.task_queue == PLATFORM_QUEUE
        and action.id.startswith(_PLATFORM_WORKFLOWS)
    )


@contextmanager
def _ignore_not_found() -> Iterator[None]:
    """Ignore what another worker has deleted or ended at the same time."""
    try:
        yield
    except RPCError as failed:
        if failed.status is not RPCStatusCode.NOT_FOUND:
            raise


def ensure_root_keys(root_keys: TransitRootKeys, regions: Sequence[str]) -> None:
    """Create the platform's root key of each region, which the first service of a tenant needs."""
    for region in regions:
        key = root_keys.ensure(region)
        log.info("root key ready", key=key.name, version=key.version)


def record_audit_keys(signer: TransitAuditSigner, platform: PlatformQueries) -> None:
    """Record the public keys of the audit signer, for verifiers without access to the key server."""
    keys = signer.public_keys()
    platform.record_audit_keys(keys)
    log.info("audit keys recorded", keys=sorted(keys))


async def recover_workflows(client: Client) -> None:
    """Start the lost workflows now: after the loss of Temporal's storage the first scheduled run is a minute away."""
    await client.get_schedule_handle(_RECOVERY).trigger()


def root_key_watches(regions: Sequence[str], shards: int) -> Iterator[WatchRootKeysInput]:
    """Yield each shard of the root keys of each region."""
    for region, shard in product(regions, range(shards)):
        yield WatchRootKeysInput(region=region, shard=shard, shards=shards)


async def ensure_watches(client: Client, regions: Sequence[str], shards: int) -> None:
    """Start root key monitoring for each shard of each region where it does not run."""
    for watch in root_key_watches(regions, shards):
        await client.start_workflow(
            MonitorRootKeys.run,
            watch,
            id=watch_workflow(watch.region, watch.shard, shards),
            task_queue=tenant_queue(watch.region),
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            static_summary=f"root key monitoring of {watch.region}, shard {watch.shard + 1} of {shards}",
        )


async def end_former_watches(client: Client, regions: Sequence[str], shards: int) -> None:
    """Cancel root key monitoring with a number of shards that no running worker has.

    A worker calls this after it started the monitoring with its number, so no key is unchecked. It does not cancel the
    numbers of other running workers: they would start again each minute, and two workers could cancel each other's.
    """
    former: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
    async for found in client.list_workflows("WorkflowType = 'MonitorRootKeys' and ExecutionStatus = 'Running'"):
        watched = parse_watch_workflow(found.id)
        if watched is not None and watched[0] in regions and watched[1] != shards:
            former[watched[0]].append((found.id, watched[1]))
    for region, watches in former.items():
        numbers = await _shards_of_running_workers(client, region)
        if None in numbers:
            continue  # a worker of an older version may have any number
        for workflow_id, number in watches:
            if number not in numbers:
                with _ignore_not_found():
                    await client.get_workflow_handle(workflow_id).cancel()
                    log.info("root key monitoring cancelled", workflow_id=workflow_id)


async def _shards_of_running_workers(client: Client, region: str) -> set[int | None]:
    """Return the numbers of shards of the workers that polled the region's task queue lately."""
    # Polls for workflow tasks: a worker without a free slot for activities does not poll for these.
    answer = await client.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace=client.namespace,
            task_queue=TaskQueue(name=tenant_queue(region)),
            task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
        )
    )
    # Compared with each other, because the clock of this machine may differ from that of Temporal.
    newest = max((poller.last_access_time.ToDatetime() for poller in answer.pollers), default=None)
    return {
        shards_of_worker(poller.identity)
        for poller in answer.pollers
        if newest is not None and newest - poller.last_access_time.ToDatetime() < timedelta(seconds=_GONE_SECONDS)
    }


async def restore_platform_workflows(client: Client, regions: Sequence[str], shards: int) -> None:
    """Start root key monitoring that has ended, and end that of a former number of shards.

    After a loss of Temporal's storage also declare everything again.

    Each worker calls this every minute. Without the monitoring a customer's withdrawn root key locks no tenant, and
    without search attributes and schedules no tenant workflow is recovered. Existing schedules are not changed: workers
    of two versions would change them in turn.
    """
    try:
        await client.get_schedule_handle(_RECOVERY).describe()
    except RPCError as failed:
        if failed.status is not RPCStatusCode.NOT_FOUND:
            raise
        log.warning("schedules are lost and declared again")
        await declare_search_attributes(client)
        await declare_schedules(client)
        await recover_workflows(client)
    await ensure_watches(client, regions, shards)
    await end_former_watches(client, regions, shards)


Clock = Callable[[], datetime]


def _now() -> datetime:
    return datetime.now(UTC)


async def ensure_canary(database: Database, gateway: WorkflowClient, region: str, clock: Clock = _now) -> None:
    """Provision the canary tenant like any other tenant; raises CanaryMissing until it is active.

    The isolation gate of each new tenant attacks it, so without it no tenant becomes active.
    """
    if not await _provision(database, gateway, CANARY_TENANT_ID, "OpenKCM canary", region, clock):
        raise CanaryMissing


async def ensure_mirror(database: Database, gateway: WorkflowClient, region: str, clock: Clock = _now) -> None:
    """Provision the second canary tenant, whose gate needs the first; raises SecondCanaryMissing until it is active."""
    if not await _provision(database, gateway, MIRROR_TENANT_ID, "OpenKCM mirror", region, clock):
        raise SecondCanaryMissing


async def _provision(  # noqa: PLR0913, PLR0917 - the tenant and its clients
    database: Database, gateway: WorkflowClient, tenant_id: str, organization: str, region: str, clock: Clock
) -> bool:
    state = await asyncio.to_thread(_request_tenant, database, tenant_id, organization, region, clock())
    if state is State.REQUESTED:
        await gateway.enable(tenant_id, region, "bootstrap-requested")
    elif state is State.FAILED:
        # The tenant workflow ignores a repeated id. This one limits the retries of all workers to one a minute.
        await gateway.enable(tenant_id, region, f"bootstrap-failed-{clock():%Y-%m-%dT%H:%M}")
    return state is State.ACTIVE


def _request_tenant(database: Database, tenant_id: str, organization: str, region: str, now: datetime) -> State:
    event = MarketplaceEvent(
        event_id="bootstrap",
        kind=EventKind.SERVICE_ENABLED,
        tenant_id=tenant_id,
        organization=organization,
        region=region,
        timestamp=now,
    )
    with database.tenant_tx(tenant_id) as tx:
        return tx.tenants.request(event).state
