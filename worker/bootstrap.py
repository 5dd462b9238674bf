"""What must exist before the first tenant: root keys, public audit keys, and in Temporal attributes, schedules, canary.

The mirror comes after it: nobody waits for it.

Declared here once and reconciled at every start of a worker; running it twice, or from two workers, changes nothing.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import structlog
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
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
from temporalio.service import RPCError, RPCStatusCode

from core.errors.compliance import CanaryMissing, SecondCanaryMissing
from core.messages.keys import WatchRootKeysInput
from core.names import CANARY_TENANT_ID, MIRROR_TENANT_ID, task_queue, watch_workflow
from core.tenants.lifecycle import State
from core.tenants.provisioning import EventKind, MarketplaceEvent
from database.connection.database import Database
from database.platform.scheduled import PlatformQueries
from vault.transit.audit_signer import TransitAuditSigner
from vault.transit.root_keys import TransitRootKeys
from workflows.audit import ReconcileAudit, SignAuditCheckpoints
from workflows.certificates import CheckExpiry, PublishRevocationLists, RotateDueCertificateAuthorities
from workflows.client.workflow_client import WorkflowClient
from workflows.isolation import AssessDueTenants
from workflows.notifications import DispatchNotifications
from workflows.root_keys import DetectRootKeyVersions, MonitorRootKeys, PurgeUnusedCredentials
from workflows.rotation import RotateDueKeys
from workflows.runtime import options as visibility

PLATFORM_QUEUE = "platform"
_PLATFORM_WORKFLOWS = "platform/"


def _every(minutes: int) -> ScheduleSpec:
    return ScheduleSpec(
        intervals=[ScheduleIntervalSpec(every=timedelta(minutes=minutes))], jitter=timedelta(seconds=10)
    )


SCHEDULES = {
    "audit-heads": Schedule(
        action=ScheduleActionStartWorkflow(
            SignAuditCheckpoints.run, id="platform/audit-heads", task_queue=PLATFORM_QUEUE
        ),
        spec=_every(minutes=5),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP),
    ),
    "audit-reconciliation": Schedule(
        action=ScheduleActionStartWorkflow(
            ReconcileAudit.run, id="platform/audit-reconciliation", task_queue=PLATFORM_QUEUE
        ),
        spec=_every(minutes=24 * 60),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP),
    ),
    "untaken-credentials": Schedule(
        action=ScheduleActionStartWorkflow(
            PurgeUnusedCredentials.run, id="platform/untaken-credentials", task_queue=PLATFORM_QUEUE
        ),
        spec=_every(minutes=5),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP),
    ),
    "authorities": Schedule(
        action=ScheduleActionStartWorkflow(
            RotateDueCertificateAuthorities.run, id="platform/authorities", task_queue=PLATFORM_QUEUE
        ),
        spec=_every(minutes=60),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP),
    ),
    "revocation-lists": Schedule(
        action=ScheduleActionStartWorkflow(
            PublishRevocationLists.run, id="platform/revocation-lists", task_queue=PLATFORM_QUEUE
        ),
        spec=_every(minutes=10),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP),
    ),
    "expiry": Schedule(
        action=ScheduleActionStartWorkflow(CheckExpiry.run, id="platform/expiry", task_queue=PLATFORM_QUEUE),
        spec=_every(minutes=60),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP),
    ),
    "rotations": Schedule(
        action=ScheduleActionStartWorkflow(RotateDueKeys.run, id="platform/rotations", task_queue=PLATFORM_QUEUE),
        spec=_every(minutes=60),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP),
    ),
    "root-key-versions": Schedule(
        action=ScheduleActionStartWorkflow(
            DetectRootKeyVersions.run, id="platform/root-key-versions", task_queue=PLATFORM_QUEUE
        ),
        spec=_every(minutes=60),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP),
    ),
    "boundaries": Schedule(
        action=ScheduleActionStartWorkflow(
            AssessDueTenants.run,
            id="platform/boundaries",
            task_queue=PLATFORM_QUEUE,
            # A tenant that leaves takes along the key of what its examination answered: a look that cannot be read any
            # more must not keep all later ones from beginning.
            execution_timeout=timedelta(hours=12),
        ),
        spec=_every(minutes=1),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP),
    ),
    "outbox": Schedule(
        action=ScheduleActionStartWorkflow(DispatchNotifications.run, id="platform/outbox", task_queue=PLATFORM_QUEUE),
        spec=_every(minutes=1),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP),
    ),
}

_INDEXED = {
    SearchAttributeIndexedValueType.KEYWORD: IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    SearchAttributeIndexedValueType.BOOL: IndexedValueType.INDEXED_VALUE_TYPE_BOOL,
}

log = structlog.get_logger()


async def declare_search_attributes(client: Client) -> None:
    """Register the search attributes that are missing; starting a workflow with an unknown one is refused."""
    there = await client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=client.namespace)
    )
    missing = {
        key.name: _INDEXED[key.indexed_value_type] for key in visibility.ALL if key.name not in there.custom_attributes
    }
    if missing:
        await client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(namespace=client.namespace, search_attributes=missing)
        )
        log.info("search attributes added", names=sorted(missing))


async def declare_schedules(client: Client) -> None:
    """Make the schedules those of the table: create, change, and delete those of ours that it has no longer.

    Ours is what starts a workflow of the platform on the platform's queue. One that an operator paused stays paused.
    """
    for name, schedule in SCHEDULES.items():
        try:
            await client.create_schedule(name, schedule)
            log.info("schedule created", name=name)
        except ScheduleAlreadyRunningError:
            await client.get_schedule_handle(name).update(partial(_changed, name, schedule))
    for name in [listed.id async for listed in await client.list_schedules() if listed.id not in SCHEDULES]:
        handle = client.get_schedule_handle(name)
        with _gone_meanwhile():
            if _is_ours((await handle.describe()).schedule):
                await handle.delete()
                log.info("schedule deleted", name=name)


def _changed(name: str, declared: Schedule, found: ScheduleUpdateInput) -> ScheduleUpdate | None:
    there = found.description.schedule
    if _essence(there) == _essence(declared):
        return None
    log.info("schedule changed", name=name)
    return ScheduleUpdate(schedule=replace(declared, state=there.state))


def _essence(schedule: Schedule) -> tuple[object, ...]:
    """Return what we declare of a schedule, without what the server fills in."""
    action, spec = schedule.action, schedule.spec
    started = (
        (action.workflow, action.id, action.task_queue) if isinstance(action, ScheduleActionStartWorkflow) else None
    )
    return started, [interval.every for interval in spec.intervals], spec.jitter, schedule.policy.overlap


def _is_ours(schedule: Schedule) -> bool:
    action = schedule.action
    return (
        isinstance(action, ScheduleActionStartWorkflow)
        and action.task_queue == PLATFORM_QUEUE
        and action.id.startswith(_PLATFORM_WORKFLOWS)
    )


@contextmanager
def _gone_meanwhile() -> Iterator[None]:
    """Pass over a schedule that another worker, starting at the same moment, has deleted."""
    try:
        yield
    except RPCError as failed:
        if failed.status is not RPCStatusCode.NOT_FOUND:
            raise


def ensure_root_keys(root_keys: TransitRootKeys, regions: Sequence[str]) -> None:
    """Make the platform's root key of each region, which the first service of a tenant there needs."""
    for region in regions:
        key = root_keys.ensure(region)
        log.info("root key ready", key=key.name, version=key.version)


def record_audit_keys(signer: TransitAuditSigner, platform: PlatformQueries) -> None:
    """Put the public keys of the audit signer on record, for those who check and hold no identity at the key server."""
    keys = signer.public_keys()
    platform.record_audit_keys(keys)
    log.info("audit keys on record", keys=sorted(keys))


async def ensure_watches(client: Client, regions: Sequence[str]) -> None:
    """Have the root keys of each region watched; a watch that runs already is left alone."""
    for region in regions:
        await client.start_workflow(
            MonitorRootKeys.run,
            WatchRootKeysInput(region=region),
            id=watch_workflow(region),
            task_queue=task_queue(region),
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            static_summary=f"the root keys that customers of {region} hold",
        )


async def ensure_canary(database: Database, gateway: WorkflowClient, region: str) -> None:
    """Have the canary provisioned like any other tenant; raises CanaryMissing for as long as it is not active.

    Every new tenant's gate attacks it, so without it no tenant becomes ready.
    """
    if not await _provisioned(database, gateway, CANARY_TENANT_ID, "OpenKCM canary", region):
        raise CanaryMissing


async def ensure_mirror(database: Database, gateway: WorkflowClient, region: str) -> None:
    """Have the mirror provisioned, whose own gate needs the canary; raises SecondCanaryMissing until it is active."""
    if not await _provisioned(database, gateway, MIRROR_TENANT_ID, "OpenKCM mirror", region):
        raise SecondCanaryMissing


async def _provisioned(
    database: Database, gateway: WorkflowClient, tenant_id: str, organization: str, region: str
) -> bool:
    state = await asyncio.to_thread(_request, database, tenant_id, organization, region)
    if state in {State.REQUESTED, State.FAILED}:
        await gateway.enable(tenant_id, region, f"bootstrap-{state}")
    return state is State.ACTIVE


def _request(database: Database, tenant_id: str, organization: str, region: str) -> State:
    event = MarketplaceEvent(
        event_id="bootstrap",
        kind=EventKind.SERVICE_ENABLED,
        tenant_id=tenant_id,
        organization=organization,
        region=region,
        timestamp=datetime.now(UTC),
    )
    with database.tenant_tx(tenant_id) as tx:
        return tx.tenants.request(event).state
