"""Cancellation of a workflow during a step that is retried: it ends the workflow, and an operation is undone first."""

import ast
import asyncio
import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowHandle

from core import names as ids
from core.errors.tenants import OperationCancelled
from core.messages.compliance import DueExamination, DueResult, MakeReportInput
from core.messages.services import CertificatePlan, ServiceInput, ServiceWorkflowState
from core.messages.tenants import ProvisionInput, StatusChange
from core.tenants.lifecycle import State
from core.tenants.provisioning import Step
from tests.concurrency import wait_until_async
from tests.workflows.entities import Entity, a_tenant_id, ends, refused
from workflows.certificates import RotateCertificateAuthority
from workflows.isolation import AssessDueTenants, AssessIsolation
from workflows.provisioning import ProvisionTenant
from workflows.reports import GenerateReport
from workflows.root_keys import ChangeRootKey
from workflows.rotation import RotateDueKeys, RotateKeys
from workflows.services import ConnectService
from workflows.tenants import Tenant

WORKFLOWS = [
    Tenant,
    AssessDueTenants,
    AssessIsolation,
    ChangeRootKey,
    ConnectService,
    GenerateReport,
    ProvisionTenant,
    RotateCertificateAuthority,
    RotateDueKeys,
    RotateKeys,
]
CANCELLED = WorkflowExecutionStatus.CANCELED

OPERATIONS = {
    "abandon-rotation": ("rewrap-keys", Entity.rotate, ids.rotation_workflow),
    "abandon-root-key": ("wrap-service-keys", Entity.change_root_key, ids.root_key_workflow),
    "abandon-ca": ("verify-ca", Entity.roll_authority, ids.authority_workflow),
}
"""Compensating activity → the step that is retried, the request and the id of the operation's workflow."""


async def cancel_during(script, step: str, handle: WorkflowHandle) -> None:
    await wait_until_async(lambda: script.attempts[step] > 0)
    await handle.cancel()


@pytest.mark.parametrize("undo", OPERATIONS)
async def test_cancelled_operation_is_undone_and_reports_its_code(client, entity, script, undo):
    step, request, workflow_id = OPERATIONS[undo]
    script.down.add(step)
    requested = asyncio.create_task(refused(OperationCancelled.code, request(entity)))
    await cancel_during(script, step, client.get_workflow_handle(workflow_id(entity.tenant_id, 1)))
    await requested
    assert script.calls[-1] == undo
    assert (script.inputs[undo][-1].code, script.inputs[undo][-1].reason) == (OperationCancelled.code, "cancelled")
    script.down.clear()
    await request(entity)


@pytest.mark.parametrize("step", [Step.CREATE_KEYS, Step.CHECK_BOUNDARIES])
async def test_cancelled_provisioning_is_rolled_back(client, queue, script, step):
    script.down.add(step)
    tenant_id = a_tenant_id()
    handle = await client.start_workflow(
        ProvisionTenant.run,
        ProvisionInput(tenant_id=tenant_id, region="eu-west-1", attempt=1, provisioning_slo_seconds=60),
        id=ids.provision_workflow(tenant_id),
        task_queue=queue,
    )
    await cancel_during(script, step, handle)
    assert (await handle.result()).state is State.FAILED
    assert {"disable-tenant-key", "disable-ca", "record-failure"} <= set(script.calls)
    assert script.inputs["record-failure"][-1].code == OperationCancelled.code


@pytest.mark.parametrize("step", [Step.CREATE_KEYS, Step.CREATE_AUTHORITY])
async def test_rollback_of_a_cancelled_provisioning_waits_for_a_running_step(client, queue, script, step):
    ended = asyncio.Event()

    async def run_until_ended(_step: object) -> None:
        await ended.wait()

    script.answers[step] = run_until_ended
    tenant_id = a_tenant_id()
    handle = await client.start_workflow(
        ProvisionTenant.run,
        ProvisionInput(tenant_id=tenant_id, region="eu-west-1", attempt=1, provisioning_slo_seconds=60),
        id=ids.provision_workflow(tenant_id),
        task_queue=queue,
    )
    await cancel_during(script, step, handle)
    await wait_until_async(lambda: cancellation_processed(handle))
    assert "disable-tenant-key" not in script.attempts
    ended.set()
    assert (await handle.result()).state is State.FAILED
    assert script.calls.index(step) < script.calls.index("disable-tenant-key")


async def cancellation_processed(handle: WorkflowHandle) -> bool:
    """Return whether the workflow has processed its cancellation: a later workflow task is complete."""
    kinds = [event.WhichOneof("attributes") for event in (await handle.fetch_history()).events]
    cancelled = "workflow_execution_cancel_requested_event_attributes"
    return cancelled in kinds and "workflow_task_completed_event_attributes" in kinds[kinds.index(cancelled) :]


@pytest.mark.parametrize("step", ["plan-renewal", "issue-certificate"])
async def test_cancelled_service_workflow_ends_during_a_failing_renewal(client, queue, script, step):
    script.answers["plan-renewal"] = CertificatePlan(request_id="request-1", generation=2)
    script.down.add(step)
    memory = ServiceWorkflowState(generation=1, renew_at=datetime.now(UTC))
    service = ServiceInput(tenant_id=a_tenant_id(), region="eu-west-1", service="orders-db", memory=memory)
    handle = await client.start_workflow(
        ConnectService.run,
        service,
        id=ids.service_workflow(service.tenant_id, service.service),
        task_queue=queue,
    )
    await cancel_during(script, step, handle)
    await ends(handle, CANCELLED)


async def test_cancelled_tenant_workflow_ends_during_a_failing_notification(entity, script):
    script.down.add("send-notification locked")
    await entity.move(StatusChange.LOCK)
    await cancel_during(script, "send-notification locked", entity.handle)
    await ends(entity.handle, CANCELLED)


async def test_cancelled_report_ends_as_cancelled(client, queue, script):
    script.down.add("render-report")
    report = MakeReportInput(tenant_id=a_tenant_id(), report_id=uuid.uuid4().hex)
    handle = await client.start_workflow(
        GenerateReport.run, report, id=ids.report_workflow(report.tenant_id, report.report_id), task_queue=queue
    )
    await cancel_during(script, "render-report", handle)
    await ends(handle, CANCELLED)


async def test_cancelled_hourly_rotation_ends_during_a_failing_alert(client, queue, script):
    script.down.add("find-stalled-rotations")
    handle = await client.start_workflow(RotateDueKeys.run, id=f"platform/{uuid.uuid4().hex}", task_queue=queue)
    await cancel_during(script, "find-stalled-rotations", handle)
    await ends(handle, CANCELLED)
    assert "find-due-rotations" not in script.calls


async def test_cancelled_assessment_of_due_tenants_assesses_no_further_tenant(client, region, queue, script):
    first, second = a_tenant_id(), a_tenant_id()
    due = tuple(DueExamination(tenant_id=tenant_id, region=region) for tenant_id in (first, second))
    script.answers["find-due-assessments"] = DueResult(tenants=due)
    script.down.add("assess-tenant")
    handle = await client.start_workflow(AssessDueTenants.run, id=f"platform/{uuid.uuid4().hex}", task_queue=queue)
    await cancel_during(script, "assess-tenant", handle)
    await ends(handle, CANCELLED)
    assert {step.tenant_id for step in script.inputs["assess-tenant"]} == {first}


def test_direct_call_of_an_activity_does_not_swallow_a_cancellation():
    """Where a workflow catches the failure of a call without `run_activity`, it distinguishes a cancellation."""
    checked = 0
    for path in (Path(__file__).parents[2] / "workflows").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Try) or "activity_method(" not in ast.unparse(node.body):
                continue
            for handler in node.handlers:
                assert "raise_if_cancelled(" in ast.unparse(handler.body), (path.name, handler.lineno)
                checked += 1
    assert checked >= 3
