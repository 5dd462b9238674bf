"""How workflows are started from outside: under which id, where, how urgently, and what operators see of them."""

from typing import TypedDict

from temporalio.client import WithStartWorkflowOperation
from temporalio.common import (
    Priority,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)

from tenancy import ids
from tenancy.messages import ServiceInput
from workflows import priorities, visibility
from workflows.service import ConnectService


class StartOptions(TypedDict):
    """Arguments of a start that finds the workflow that runs, and starts one anew where it has ended."""

    id: str
    task_queue: str
    id_conflict_policy: WorkflowIDConflictPolicy
    id_reuse_policy: WorkflowIDReusePolicy
    search_attributes: TypedSearchAttributes
    static_summary: str
    priority: Priority


def service_start(tenant_id: str, region: str, service: str) -> WithStartWorkflowOperation[ConnectService, None]:
    return WithStartWorkflowOperation(
        ConnectService.run,
        ServiceInput(tenant_id=tenant_id, region=region, service=service),
        **service_options(tenant_id, region, service),
    )


def service_options(tenant_id: str, region: str, service: str) -> StartOptions:
    return _options(
        tenant_id,
        region,
        ids.service_workflow(tenant_id, service),
        f"service {service} of {tenant_id}",
        priorities.service(tenant_id),
    )


def report_options(tenant_id: str, region: str, report_id: str) -> StartOptions:
    return _options(
        tenant_id,
        region,
        ids.report_workflow(tenant_id, report_id),
        f"compliance report of {tenant_id}",
        priorities.report(tenant_id),
    )


def boundaries_options(tenant_id: str, region: str) -> StartOptions:
    return _options(
        tenant_id,
        region,
        ids.boundaries_workflow(tenant_id),
        f"examine the boundaries of {tenant_id}",
        priorities.service(tenant_id),
    )


def _options(tenant_id: str, region: str, workflow_id: str, summary: str, priority: Priority) -> StartOptions:
    return {
        "id": workflow_id,
        "task_queue": ids.task_queue(region),
        "id_conflict_policy": WorkflowIDConflictPolicy.USE_EXISTING,
        "id_reuse_policy": WorkflowIDReusePolicy.ALLOW_DUPLICATE,
        "search_attributes": visibility.of_tenant(tenant_id, region),
        "static_summary": summary,
        "priority": priority,
    }
