"""Records histories of workflows: each outcome of a workflow once, with scripted activities and plaintext payloads.

They contain no data of a customer or server, so they are committed and replay on any machine without a key.
`python tests/replay/test_replay.py --write` runs this with a dedicated Temporal server.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from temporalio.client import Client, WorkflowFailureError, WorkflowHandle, WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment

from core import names as ids
from core.keys.rotation import RotationScope
from core.messages.compliance import DueExamination, DueInput, DueResult, ExamineInput, ExamineResult
from core.messages.keys import (
    DueRotation,
    DueTenants,
    PreflightResult,
    RotateRequest,
    RotationPlan,
    RotationProgress,
    WatchRootKeysInput,
)
from core.messages.services import ExpiryResult, ServicesResult, UnrenewedService
from core.messages.tenants import ProvisionInput, StatusChange, StatusChangeResult
from core.tenants.approvals import ApprovalState
from core.tenants.lifecycle import State
from core.tenants.policy import TenantPolicy
from core.tenants.provisioning import Step
from tests.concurrency import wait_until_async
from tests.workflows.entities import Entity
from tests.workflows.scripted import Script
from workflows.certificates import CheckExpiry, RotateCertificateAuthority
from workflows.client.updates import UpdateRejected
from workflows.client.workflow_client import WorkflowClient
from workflows.isolation import AssessDueTenants, AssessIsolation
from workflows.offboarding import OffboardTenant
from workflows.provisioning import ProvisionTenant
from workflows.root_keys import ChangeRootKey, DetectRootKeyVersions, MonitorRootKeys
from workflows.rotation import RotateKeys
from workflows.runtime import options as visibility
from workflows.runtime.signals import ROOT_KEY_REPORTED, ROTATION_DUE
from workflows.services import ConnectService
from workflows.tenants import Tenant

Histories = dict[str, WorkflowHistory]
Recorded = AsyncIterator[tuple[str, WorkflowHandle[Any, Any]]]

WORKFLOWS: list[type] = [
    *(Tenant, ProvisionTenant, ConnectService, ChangeRootKey, RotateKeys, MonitorRootKeys, OffboardTenant),
    *(RotateCertificateAuthority, CheckExpiry, DetectRootKeyVersions, AssessDueTenants, AssessIsolation),
]
_REGION = "eu-west-1"
_QUEUE = ids.operation_queue(_REGION)


async def record_all() -> Histories:
    """Return the histories by file name."""
    async with await WorkflowEnvironment.start_local(
        data_converter=pydantic_data_converter,
        identity="recorder",  # the default contains the name of the machine
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
            _assessed,
        ):
            script = Script()
            async with script.worker(environment.client, _REGION, WORKFLOWS):
                handles = scenario(environment.client, script)
                recorded |= {name: await handle.fetch_history() async for name, handle in handles}
        return recorded


async def _ready(client: Client, _script: Script) -> Recorded:
    entity = await Entity.enable(client, _REGION, "ready-corp")
    await entity.reaches(State.ACTIVE)
    yield "tenant-ready", entity.handle
    yield "provision-ready", client.get_workflow_handle(ids.provision_workflow("ready-corp"))


async def _assessed(client: Client, script: Script) -> Recorded:
    """The assessments of five tenants that are due, one of which fails."""
    tenants = tuple(DueExamination(tenant_id=f"assessed-{number}", region=_REGION) for number in range(5))

    def find(due: DueInput) -> DueResult:
        return DueResult(tenants=() if due.after else tenants)

    def assess(step: ExamineInput) -> ExamineResult:
        if step.tenant_id == tenants[3].tenant_id:
            raise ApplicationError("refused", type="conflicting_resource", non_retryable=True)
        return ExamineResult(examined=True, held=3)

    script.answers |= {"find-due-assessments": find, "assess-tenant": assess}
    handle = await client.start_workflow(AssessDueTenants.run, id="platform/isolation", task_queue=_QUEUE)
    await handle.result()
    yield "assessments-concurrent", handle
    yield "assessment-made", client.get_workflow_handle(ids.boundaries_workflow(tenants[0].tenant_id))


async def _late(client: Client, script: Script) -> Recorded:
    script.down.add(Step.CREATE_AUTHORITY)
    script.on("record-slo-breach", script.down.clear)
    handle = await client.start_workflow(
        ProvisionTenant.run,
        ProvisionInput(tenant_id="late-corp", region=_REGION, attempt=1, provisioning_slo_seconds=0.5),
        id=ids.provision_workflow("late-corp"),
        task_queue=_QUEUE,
    )
    await handle.result()
    yield "provision-late", handle


async def _failed_and_retried(client: Client, script: Script) -> Recorded:
    script.refused[Step.CHECK_BOUNDARIES] = "isolation_breached"
    entity = await Entity.enable(client, _REGION, "retried-corp")
    await entity.reaches(State.FAILED)
    provision = client.get_workflow_handle(ids.provision_workflow("retried-corp"))
    yield "provision-failed", provision
    script.refused.clear()
    await entity.handle.execute_update(Tenant.retry)
    await entity.reaches(State.ACTIVE)
    yield "provision-retried", provision
    yield "tenant-retried", entity.handle


async def _service_renewed(client: Client, script: Script) -> Recorded:
    """A service that is connected, renewed by its timer and on demand, connected again and disconnected."""
    services, service = script.services, ("service-corp", _REGION, "orders-db")
    services.renewed_after = timedelta(seconds=1)
    gateway = WorkflowClient(client, 30)
    await gateway.connect_service(*service, "request-1")
    await wait_until_async(lambda: len(services.issued) == 2)
    await gateway.renew_service(*service)
    await gateway.connect_service(*service, "request-2")
    await gateway.disconnect_service(*service)
    yield "service-renewed", await _ended(client, ids.service_workflow("service-corp", "orders-db"))


async def _service_refused(client: Client, script: Script) -> Recorded:
    """A service whose certificate is rejected; it is not connected, so the run ends."""
    script.refused["issue-certificate"] = "csr_refused"
    with suppress(UpdateRejected):
        await WorkflowClient(client, 30).connect_service("refused-corp", _REGION, "orders-db", "request-1")
    yield "service-refused", await _ended(client, ids.service_workflow("refused-corp", "orders-db"))


async def _authority_rolled(client: Client, script: Script) -> Recorded:
    """A CA rotation with a notified service, one that fails verification, and the hourly check for expiry."""
    late = UnrenewedService(tenant_id="rolled-corp", region=_REGION, service="users-db", generation=1)
    script.answers |= {
        "find-unrenewed-services": ServicesResult(services=("orders-db",)),
        "check-expiry": ExpiryResult(services=(late,)),
    }
    entity = await _active(client, "rolled-corp")
    service = (entity.tenant_id, _REGION, "orders-db")
    await entity.gateway.connect_service(*service, "request-1")
    await entity.roll_authority()
    script.refused["verify-ca"] = "conflicting_resource"
    with suppress(UpdateRejected):
        await entity.roll_authority()
    await entity.gateway.disconnect_service(*service)
    await client.execute_workflow(CheckExpiry.run, id="platform/expiry", task_queue=_QUEUE)
    # An unfinished renewal would continue in the next scenario, and its worker would not stop.
    await wait_until_async(lambda: any(step.service == late.service for step in script.services.issued))
    for name, number in (("authority-rolled", 1), ("authority-refused", 2)):
        yield name, client.get_workflow_handle(ids.authority_workflow(entity.tenant_id, number))
    yield "expiry-checked", client.get_workflow_handle("platform/expiry")
    yield "tenant-rolled", entity.handle


async def _root_key_changed(client: Client, script: Script) -> Recorded:
    """State transitions, a change in two rounds, a preflight, a failed preflight, and a lock by the root key."""
    script.rounds = 2
    entity = await _active(client, "keyholder-corp")
    for change in (StatusChange.SUSPEND, StatusChange.RESUME, StatusChange.LOCK, StatusChange.UNLOCK):
        await entity.move(change)
    await entity.change_root_key("a" * 32)
    await entity.gateway.preflight_root_key(entity.tenant_id, "b" * 32)
    script.answers["preflight-root-key"] = PreflightResult(problems=1, code="root_key_denied")
    with suppress(UpdateRejected):
        await entity.change_root_key("c" * 32)
    script.answers["apply-root-key-health"] = StatusChangeResult(state=State.LOCKED)
    await entity.handle.signal(ROOT_KEY_REPORTED)
    await entity.reaches(State.LOCKED)
    yield "tenant-moved", entity.handle
    for name, number in (("root-key-changed", 1), ("root-key-refused", 2)):
        yield name, client.get_workflow_handle(ids.root_key_workflow(entity.tenant_id, number))


async def _watched(client: Client, script: Script) -> Recorded:
    """Reports of a tenant and of one that does not exist, then an empty report."""
    script.reports = [("watched-corp", "unknown-corp"), ()]
    await _active(client, "watched-corp")
    watch = await client.start_workflow(
        MonitorRootKeys.run, WatchRootKeysInput(region=_REGION), id=ids.watch_workflow(_REGION), task_queue=_QUEUE
    )
    await wait_until_async(lambda: script.attempts["monitor-root-keys"] == 3)
    yield "root-keys-watched", watch
    await watch.terminate()


async def _approved(client: Client, script: Script) -> Recorded:
    """One request that is approved and executed, one declined, one expired; then a change of the policy."""
    approvals = script.approvals
    entity = await _active(client, "approved-corp")
    await entity.decide(await entity.propose("a" * 32))
    await entity.propose("b" * 32)
    approvals.says = ApprovalState.REFUSED
    await entity.decide("b" * 32)
    approvals.lasts = timedelta(seconds=1)
    await entity.propose("c" * 32)
    await wait_until_async(lambda: not approvals.waiting)
    await entity.gateway.change_policy(entity.tenant_id, TenantPolicy())
    yield "tenant-approved", entity.handle


async def _left(client: Client, _script: Script) -> Recorded:
    """An offboarding by the marketplace that is undone in the grace period; then an immediate one."""
    entity = await _active(client, "leaver-corp")
    await entity.gateway.disable(entity.tenant_id, "event-off")
    await entity.reaches(State.LEAVING)
    await entity.gateway.enable(entity.tenant_id, _REGION, "event-on")
    await entity.reaches(State.ACTIVE)
    with suppress(WorkflowFailureError):  # the workflow was cancelled
        await entity.offboarding.result()
    yield "offboard-restored", entity.offboarding
    await entity.offboard(now=True)
    await entity.offboarding.result()
    yield "offboard-destroyed", entity.offboarding
    yield "tenant-left", entity.handle


async def _rotated(client: Client, script: Script) -> Recorded:
    """A rotation for a compromise in two rounds, one rejected half way, a retirement, and due rotations."""
    script.rounds = 2
    script.answers |= {
        "plan-rotation": RotationPlan(services=2, retires=True, destroys=True),
        "rewrap-keys": RotationProgress(total=1, done=1),
    }
    entity = await _active(client, "rotating-corp")
    everything = RotateRequest(request_id="a" * 32, services=RotationScope.ALL, tenant_key=True, compromised=True)
    await entity.gateway.rotate_keys(entity.tenant_id, everything)
    script.refused["prepare-service-keys"] = "root_key_disabled"
    with suppress(UpdateRejected):
        await entity.rotate(request_id="b" * 32, compromised=True)
    script.refused.clear()
    await entity.retire(1)
    await entity.handle.signal(ROTATION_DUE)
    script.answers |= {
        "look-for-due-rotation": DueRotation(
            request=RotateRequest(request_id="due-2", services=RotationScope.DUE, tenant_key=False)
        ),
        "plan-rotation": RotationPlan(services=1, retires=False, destroys=False),
    }

    async def finished() -> bool:
        await entity.handle.signal(ROTATION_DUE)
        await asyncio.sleep(0.5)
        return script.calls.count("finish-rotation") >= 2

    await wait_until_async(finished)
    for number, name in enumerate(("keys-compromised", "keys-not-rotated", "keys-due"), start=1):
        yield name, await _ended(client, ids.rotation_workflow(entity.tenant_id, number))
    yield "tenant-rotated", entity.handle


async def _followed(client: Client, script: Script) -> Recorded:
    """The check finds a new version of a tenant's root key, and all keys are re-wrapped."""
    entity = await _active(client, "following-corp")
    script.answers |= {
        "detect-root-key-versions": DueTenants(tenants=(entity.tenant_id,)),
        "rewrap-keys": RotationProgress(total=2, done=2),
        "look-for-due-rotation": DueRotation(
            request=RotateRequest(request_id="due-1", services=RotationScope.NONE, tenant_key=False)
        ),
        "plan-rotation": RotationPlan(services=0, retires=False, destroys=False, follows=True),
    }
    check = await client.start_workflow(DetectRootKeyVersions.run, id="platform/root-key-versions", task_queue=_QUEUE)
    await check.result()
    yield "root-key-versions-noticed", check
    await wait_until_async(lambda: script.attempts["send-notification keys-rotated"])
    yield "root-key-followed", await _ended(client, ids.rotation_workflow(entity.tenant_id, 1))
    yield "tenant-followed", entity.handle


async def _active(client: Client, tenant_id: str) -> Entity:
    return await Entity.start(client, _REGION, tenant_id=tenant_id)


async def _ended(client: Client, workflow_id: str) -> WorkflowHandle[Any, Any]:
    handle = client.get_workflow_handle(workflow_id)
    await handle.result()
    return handle
