"""What must exist before the first tenant: root keys, public audit keys, and in Temporal attributes, schedules, canary.

Declared here once and reconciled at every start of a worker; running it twice, or from two workers, changes nothing.
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

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
)
from temporalio.common import SearchAttributeIndexedValueType, WorkflowIDConflictPolicy

from database.interfaces import PlatformDatabase, TenantDatabase
from tenancy.errors import CanaryMissing
from tenancy.events import EventKind, MarketplaceEvent
from tenancy.ids import CANARY_TENANT_ID, task_queue, watch_workflow
from tenancy.lifecycle import State
from tenancy.messages import WatchRootKeysInput
from vault.interfaces import AuditSigner, RootKeys
from workflows import visibility
from workflows.certificates import CheckExpiry, PublishRevocationLists, RollDueAuthorities
from workflows.gateway import Gateway
from workflows.platform import ForgetUntakenCredentials, SignAuditHeads, SweepOutbox
from workflows.root_keys import WatchRootKeys

PLATFORM_QUEUE = "platform"


def _every(minutes: int) -> ScheduleSpec:
    return ScheduleSpec(
        intervals=[ScheduleIntervalSpec(every=timedelta(minutes=minutes))], jitter=timedelta(seconds=10)
    )


SCHEDULES = {
    "audit-heads": Schedule(
        action=ScheduleActionStartWorkflow(SignAuditHeads.run, id="platform/audit-heads", task_queue=PLATFORM_QUEUE),
        spec=_every(minutes=5),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP),
    ),
    "untaken-credentials": Schedule(
        action=ScheduleActionStartWorkflow(
            ForgetUntakenCredentials.run, id="platform/untaken-credentials", task_queue=PLATFORM_QUEUE
        ),
        spec=_every(minutes=5),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP),
    ),
    "authorities": Schedule(
        action=ScheduleActionStartWorkflow(
            RollDueAuthorities.run, id="platform/authorities", task_queue=PLATFORM_QUEUE
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
    "outbox": Schedule(
        action=ScheduleActionStartWorkflow(SweepOutbox.run, id="platform/outbox", task_queue=PLATFORM_QUEUE),
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
    """Create the schedules that are missing."""
    for name, schedule in SCHEDULES.items():
        try:
            await client.create_schedule(name, schedule)
            log.info("schedule created", name=name)
        except ScheduleAlreadyRunningError:
            continue


def ensure_root_keys(root_keys: RootKeys, regions: Sequence[str]) -> None:
    """Make the platform's root key of each region, which the first service of a tenant there needs."""
    for region in regions:
        key = root_keys.ensure(region)
        log.info("root key ready", key=key.name, version=key.version)


def record_audit_keys(signer: AuditSigner, database: PlatformDatabase) -> None:
    """Put the public keys of the audit signer on record, for those who check and hold no identity at the key server."""
    keys = signer.public_keys()
    database.record_audit_keys(keys)
    log.info("audit keys on record", keys=sorted(keys))


async def ensure_watches(client: Client, regions: Sequence[str]) -> None:
    """Have the root keys of each region watched; a watch that runs already is left alone."""
    for region in regions:
        await client.start_workflow(
            WatchRootKeys.run,
            WatchRootKeysInput(region=region),
            id=watch_workflow(region),
            task_queue=task_queue(region),
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            static_summary=f"the root keys that customers of {region} hold",
        )


async def ensure_canary(database: TenantDatabase, gateway: Gateway, region: str) -> None:
    """Have the canary provisioned like any other tenant; raises CanaryMissing for as long as it is not active.

    Every new tenant's gate attacks it, so without it no tenant becomes ready.
    """
    state = await asyncio.to_thread(_request_canary, database, region)
    if state in {State.REQUESTED, State.FAILED}:
        await gateway.enable(CANARY_TENANT_ID, region, f"bootstrap-{state}")
    if state is not State.ACTIVE:
        raise CanaryMissing


def _request_canary(database: TenantDatabase, region: str) -> State:
    event = MarketplaceEvent(
        event_id="bootstrap",
        kind=EventKind.SERVICE_ENABLED,
        tenant_id=CANARY_TENANT_ID,
        organization="OpenKCM canary",
        region=region,
        timestamp=datetime.now(UTC),
    )
    with database.tenant_tx(CANARY_TENANT_ID) as tx:
        return tx.tenants.request(event).state
