"""Makes the recorded histories: each way that a workflow ends, once, scripted, payloads in the clear.

Nothing of a customer's or a server's is in them, so they are committed and replay on any machine without a key.
`python tests/histories/test_replay.py --write` runs this against a Temporal server of its own.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from temporalio.client import Client, WorkflowFailureError, WorkflowHandle, WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from tenancy import ids
from tenancy.approvals import ApprovalState
from tenancy.leaving_messages import LeaveRequest
from tenancy.lifecycle import State
from tenancy.messages import (
    LateService,
    MarketplaceSignal,
    PreflightResult,
    ProvisionInput,
    StandingMove,
    TenantInput,
    TenantMemory,
    WatchRootKeysInput,
)
from tenancy.policy import TenantPolicy
from tenancy.provisioning import Step
from tenancy.rotation import Scope
from tenancy.rotation_messages import DueRotation, RotateRequest, RotationPlan
from tests.workflows.conftest import Script
from tests.workflows.scripted_approvals import ApprovalScript
from tests.workflows.scripted_authority import AuthorityScript
from tests.workflows.scripted_leaving import LeavingScript
from tests.workflows.scripted_root_key import RootKeyScript
from tests.workflows.scripted_rotation import RotationScript
from tests.workflows.scripted_service import ServiceScript
from workflows import visibility
from workflows.authority import RollAuthority
from workflows.certificates import CheckExpiry
from workflows.gateway import Gateway, UpdateRefused
from workflows.offboard import OffboardTenant
from workflows.platform import NoticeRootKeyVersions
from workflows.provision import ProvisionTenant
from workflows.root_key import ChangeRootKey
from workflows.root_keys import ROOT_KEY_REPORTED, WatchRootKeys
from workflows.rotate import ROTATION_DUE, RotateKeys
from workflows.service import ConnectService
from workflows.tenant import Tenant

Histories = dict[str, WorkflowHistory]

_REGION = "eu-west-1"
_PATIENCE_SECONDS = 30


async def record_all() -> Histories:
    """Return the histories by the name of the file they belong in."""
    async with await WorkflowEnvironment.start_local(
        data_converter=pydantic_data_converter,
        identity="recorder",  # the default names the machine
        search_attributes=visibility.ALL,
        dev_server_existing_path=str(Path(sys.executable).with_name("temporal")),
    ) as environment:
        recorded: Histories = {}
        for scenario in (
            _ready,
            _late,
            _failed_and_retried,
            _service_renewed,
            _service_refused,
            _root_key_changed,
            _watched,
            _approved,
            _left,
            _authority_rolled,
            _rotated,
            _followed,
        ):
            recorded |= await scenario(environment.client)
        return recorded


async def _ready(client: Client) -> Histories:
    async with _scripted_worker(client, Script()):
        handle = await _enable(client, "ready-corp")
        await _reach(handle, State.ACTIVE)
        return {"tenant-ready": await handle.fetch_history(), "provision-ready": await _provision_of(handle, client)}


async def _late(client: Client) -> Histories:
    script = Script()
    script.down.add(Step.CREATE_AUTHORITY)
    script.on("break-promise", script.down.clear)
    async with _scripted_worker(client, script):
        handle = await client.start_workflow(
            ProvisionTenant.run,
            ProvisionInput(tenant_id="late-corp", region=_REGION, attempt=1, promise_seconds=0.5),
            id=ids.provision_workflow("late-corp"),
            task_queue=ids.task_queue(_REGION),
        )
        await handle.result()
        return {"provision-late": await handle.fetch_history()}


async def _failed_and_retried(client: Client) -> Histories:
    script = Script()
    script.refused[Step.CHECK_BOUNDARIES] = "boundary_breached"
    async with _scripted_worker(client, script):
        handle = await _enable(client, "retried-corp")
        await _reach(handle, State.FAILED)
        failed = await _provision_of(handle, client)
        script.refused.clear()
        await handle.execute_update(Tenant.retry)
        await _reach(handle, State.ACTIVE)
        return {
            "provision-failed": failed,
            "provision-retried": await _provision_of(handle, client),
            "tenant-retried": await handle.fetch_history(),
        }


async def _service_renewed(client: Client) -> Histories:
    """Connected, renewed by its timer and then on demand, given a second certificate, disconnected."""
    script, service = ServiceScript(renewed_after=timedelta(seconds=1)), "orders-db"
    async with _service_worker(client, script):
        gateway = Gateway(client, _PATIENCE_SECONDS)
        await gateway.connect_service("service-corp", _REGION, service, "request-1")
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while len(script.issued) < 2:  # noqa: ASYNC110 - another task is watched
                await asyncio.sleep(0.02)
        await gateway.renew_service("service-corp", _REGION, service)
        await gateway.connect_service("service-corp", _REGION, service, "request-2")
        await gateway.disconnect_service("service-corp", _REGION, service)
        return {"service-renewed": await _service_history(client, "service-corp", service)}


async def _authority_rolled(client: Client) -> Histories:
    """Rolled with a service that is told; refused when it does not verify; and the hourly look at all that ends."""
    script, services, tenant_id = AuthorityScript(), ServiceScript(), "rolled-corp"
    script.unrenewed = ("orders-db",)
    script.late = (LateService(tenant_id=tenant_id, region=_REGION, service="users-db", generation=1),)
    activities = [*script.activities(), *script.platforms(), *services.activities()]
    workflows = [Tenant, RollAuthority, ConnectService, CheckExpiry]
    queue = ids.task_queue(_REGION)
    async with Worker(client, task_queue=queue, workflows=workflows, activities=activities):
        gateway = Gateway(client, _PATIENCE_SECONDS)
        handle = await client.start_workflow(
            Tenant.run,
            TenantInput(
                tenant_id=tenant_id, region=_REGION, promise_seconds=60, memory=TenantMemory(state=State.ACTIVE)
            ),
            id=ids.tenant_workflow(tenant_id),
            task_queue=queue,
        )
        await gateway.connect_service(tenant_id, _REGION, "orders-db", "request-1")
        await gateway.roll_authority(tenant_id)
        script.refused["verify-authority"] = "conflicting_resource"
        with suppress(UpdateRefused):
            await gateway.roll_authority(tenant_id)
        await gateway.disconnect_service(tenant_id, _REGION, "orders-db")
        await client.execute_workflow(CheckExpiry.run, id="platform/expiry", task_queue=queue)
        rolls = [client.get_workflow_handle(ids.authority_workflow(tenant_id, number)) for number in (1, 2)]
        return {
            "authority-rolled": await rolls[0].fetch_history(),
            "authority-refused": await rolls[1].fetch_history(),
            "expiry-checked": await client.get_workflow_handle("platform/expiry").fetch_history(),
            "tenant-rolled": await handle.fetch_history(),
        }


async def _service_refused(client: Client) -> Histories:
    """Refused when its certificate was to be issued; nothing is connected, so the run ends."""
    script, service = ServiceScript(), "orders-db"
    script.refused["issue-certificate"] = ("csr_refused", "the certificate request is refused", "send another")
    async with _service_worker(client, script):
        with suppress(UpdateRefused):
            await Gateway(client, _PATIENCE_SECONDS).connect_service("refused-corp", _REGION, service, "request-1")
        return {"service-refused": await _service_history(client, "refused-corp", service)}


async def _root_key_changed(client: Client) -> Histories:
    """Moved, changed in two rounds, refused by a preflight, tried alone, and following its root key."""
    script, tenant_id = RootKeyScript(), "keyholder-corp"
    script.rounds = 2
    async with _root_key_worker(client, script):
        handle = await _active(client, tenant_id)
        gateway = Gateway(client, _PATIENCE_SECONDS)
        for move in (StandingMove.SUSPEND, StandingMove.RESUME, StandingMove.LOCK, StandingMove.UNLOCK):
            await gateway.change_standing(tenant_id, move)
        await gateway.change_root_key(tenant_id, "a" * 32)
        await gateway.preflight_root_key(tenant_id, "b" * 32)
        script.problems = PreflightResult(problems=1, code="root_key_denied")
        with suppress(UpdateRefused):
            await gateway.change_root_key(tenant_id, "c" * 32)
        script.follows = State.LOCKED
        await handle.signal(ROOT_KEY_REPORTED)
        await _reach(handle, State.LOCKED)
        changes = [client.get_workflow_handle(ids.root_key_workflow(tenant_id, number)) for number in (1, 2)]
        return {
            "tenant-moved": await handle.fetch_history(),
            "root-key-changed": await changes[0].fetch_history(),
            "root-key-refused": await changes[1].fetch_history(),
        }


async def _watched(client: Client) -> Histories:
    """Told of a tenant and of one that is not there, then of nobody."""
    script = RootKeyScript()
    script.reports = [("watched-corp", "nobody-corp"), ()]
    async with _root_key_worker(client, script):
        await _active(client, "watched-corp")
        watch = await client.start_workflow(
            WatchRootKeys.run,
            WatchRootKeysInput(region=_REGION),
            id=ids.watch_workflow(_REGION),
            task_queue=ids.task_queue(_REGION),
        )
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while script.attempts["watch-root-keys"] < 3:  # noqa: ASYNC110 - another task is watched
                await asyncio.sleep(0.02)
        recorded = await watch.fetch_history()
        await watch.terminate()
        return {"root-keys-watched": recorded}


async def _approved(client: Client) -> Histories:
    """One request approved and done, one declined, one that nobody decided in time; then the policy is changed."""
    script, tenant_id = ApprovalScript(), "approved-corp"
    async with _root_key_worker(client, script):
        handle = await _active(client, tenant_id)
        gateway = Gateway(client, _PATIENCE_SECONDS)
        await gateway.propose(tenant_id, "a" * 32)
        await gateway.decide(tenant_id, "a" * 32)
        await gateway.propose(tenant_id, "b" * 32)
        script.says = ApprovalState.REFUSED
        await gateway.decide(tenant_id, "b" * 32)
        script.lasts = timedelta(seconds=1)
        await gateway.propose(tenant_id, "c" * 32)
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while script.waiting:  # noqa: ASYNC110 - another task is watched
                await asyncio.sleep(0.02)
        await gateway.change_policy(tenant_id, TenantPolicy())
        return {"tenant-approved": await handle.fetch_history()}


async def _left(client: Client) -> Histories:
    """Disabled by the marketplace and enabled again within the grace; then gone at once, with its service."""
    script, tenant_id = LeavingScript(services=("orders-db",)), "leaver-corp"
    workflows = [Tenant, OffboardTenant]
    async with Worker(client, task_queue=ids.task_queue(_REGION), workflows=workflows, activities=script.activities()):
        entity, gateway = await _active(client, tenant_id), Gateway(client, _PATIENCE_SECONDS)
        offboarding = client.get_workflow_handle(ids.offboard_workflow(tenant_id))
        await gateway.disable(tenant_id, "event-off")
        await _reach(entity, State.LEAVING)
        await gateway.enable(tenant_id, _REGION, "event-on")
        await _reach(entity, State.ACTIVE)
        with suppress(WorkflowFailureError):  # it was cancelled
            await offboarding.result()
        restored = await offboarding.fetch_history()
        await gateway.offboard(tenant_id, LeaveRequest(now=True))
        await client.get_workflow_handle(ids.offboard_workflow(tenant_id)).result()
        return {
            "offboard-restored": restored,
            "offboard-destroyed": await offboarding.fetch_history(),
            "tenant-left": await entity.fetch_history(),
        }


async def _rotated(client: Client) -> Histories:
    """Everything for a compromise in two rounds, refused half way, one version retired, and what was due."""
    script, tenant_id = RotationScript(), "rotating-corp"
    script.plan, script.rounds, script.rewrapped = RotationPlan(services=2, retires=True, destroys=True), 2, 1
    queue, workflows = ids.task_queue(_REGION), [Tenant, RotateKeys]
    async with Worker(client, task_queue=queue, workflows=workflows, activities=script.activities()):
        handle = await _active(client, tenant_id)
        gateway = Gateway(client, _PATIENCE_SECONDS)
        everything = RotateRequest(request_id="a" * 32, services=Scope.ALL, tenant_key=True, compromised=True)
        await gateway.rotate_keys(tenant_id, everything)
        script.refused["prepare-service-keys"] = "root_key_disabled"
        with suppress(UpdateRefused):
            await gateway.rotate_keys(tenant_id, everything.model_copy(update={"request_id": "b" * 32}))
        script.refused.clear()
        await gateway.retire_service_key(tenant_id, "orders", 1)
        await handle.signal(ROTATION_DUE)
        script.due = DueRotation(request=RotateRequest(request_id="due-2", services=Scope.DUE, tenant_key=False))
        script.plan = RotationPlan(services=1, retires=False, destroys=False)
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while script.calls.count("finish-rotation") < 2:
                await handle.signal(ROTATION_DUE)
                await asyncio.sleep(0.5)
        rotations = [client.get_workflow_handle(ids.rotation_workflow(tenant_id, number)) for number in (1, 2, 3)]
        for rotation in rotations:
            await rotation.result()
        return {
            "tenant-rotated": await handle.fetch_history(),
            "keys-compromised": await rotations[0].fetch_history(),
            "keys-not-rotated": await rotations[1].fetch_history(),
            "keys-due": await rotations[2].fetch_history(),
        }


async def _followed(client: Client) -> Histories:
    """The look finds a tenant whose root key has a new version, and everything of it is wrapped anew."""
    script, tenant_id = RotationScript(), "following-corp"
    script.behind, script.rewrapped = (tenant_id,), 2
    script.due = DueRotation(request=RotateRequest(request_id="due-1", services=Scope.NONE, tenant_key=False))
    script.plan = RotationPlan(services=0, retires=False, destroys=False, follows=True)
    queue, workflows = ids.task_queue(_REGION), [Tenant, RotateKeys, NoticeRootKeyVersions]
    async with Worker(client, task_queue=queue, workflows=workflows, activities=script.activities()):
        handle = await _active(client, tenant_id)
        look = await client.start_workflow(NoticeRootKeyVersions.run, id="platform/root-key-versions", task_queue=queue)
        await look.result()
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while not script.attempts["announce keys-rotated"]:  # noqa: ASYNC110 - another task is watched
                await asyncio.sleep(0.02)
        rotation = client.get_workflow_handle(ids.rotation_workflow(tenant_id, 1))
        await rotation.result()
        return {
            "root-key-versions-noticed": await look.fetch_history(),
            "root-key-followed": await rotation.fetch_history(),
            "tenant-followed": await handle.fetch_history(),
        }


async def _active(client: Client, tenant_id: str) -> WorkflowHandle[Any, Any]:
    return await client.start_workflow(
        Tenant.run,
        TenantInput(tenant_id=tenant_id, region=_REGION, promise_seconds=60, memory=TenantMemory(state=State.ACTIVE)),
        id=ids.tenant_workflow(tenant_id),
        task_queue=ids.task_queue(_REGION),
    )


@asynccontextmanager
async def _root_key_worker(client: Client, script: RootKeyScript) -> AsyncIterator[None]:
    queue, workflows = ids.task_queue(_REGION), [Tenant, ChangeRootKey, WatchRootKeys]
    async with Worker(client, task_queue=queue, workflows=workflows, activities=script.activities()):
        yield


async def _service_history(client: Client, tenant_id: str, service: str) -> WorkflowHistory:
    handle = client.get_workflow_handle(ids.service_workflow(tenant_id, service))
    await handle.result()
    return await handle.fetch_history()


@asynccontextmanager
async def _service_worker(client: Client, script: ServiceScript) -> AsyncIterator[None]:
    queue = ids.task_queue(_REGION)
    async with Worker(client, task_queue=queue, workflows=[ConnectService], activities=script.activities()):
        yield


@asynccontextmanager
async def _scripted_worker(client: Client, script: Script) -> AsyncIterator[None]:
    async with Worker(
        client,
        task_queue=ids.task_queue(_REGION),
        workflows=[Tenant, ProvisionTenant],
        activities=script.activities(),
    ):
        yield


async def _enable(client: Client, tenant_id: str) -> WorkflowHandle[Any, Any]:
    return await client.start_workflow(
        Tenant.run,
        TenantInput(tenant_id=tenant_id, region=_REGION, promise_seconds=60),
        id=ids.tenant_workflow(tenant_id),
        task_queue=ids.task_queue(_REGION),
        start_signal="marketplace-event",
        start_signal_args=[MarketplaceSignal(event_id="event-1", kind="service_enabled")],
    )


async def _reach(handle: WorkflowHandle[Any, Any], state: State) -> None:
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while True:
            described = await handle.describe()
            if described.typed_search_attributes.get(visibility.LIFECYCLE_STATE) == state:
                return
            await asyncio.sleep(0.05)


async def _provision_of(handle: WorkflowHandle[Any, Any], client: Client) -> WorkflowHistory:
    return await client.get_workflow_handle(f"{handle.id}/provision").fetch_history()
