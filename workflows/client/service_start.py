"""Start of a service's workflow together with the first update from another process."""

import asyncio
from collections.abc import Sequence
from typing import Any, TypedDict

from temporalio.client import Client, WithStartWorkflowOperation, WorkflowUpdateHandle, WorkflowUpdateStage
from temporalio.common import Priority, TypedSearchAttributes, WorkflowIDConflictPolicy, WorkflowIDReusePolicy

from core import names as ids
from core.messages.services import EnrolInput, ServiceInput
from workflows.runtime import options as priorities
from workflows.runtime import options as visibility
from workflows.services import ConnectService


def service_start(tenant_id: str, region: str, service: str) -> WithStartWorkflowOperation[ConnectService, None]:
    """Return the start operation for a service's workflow, which an update runs with."""
    return WithStartWorkflowOperation(
        ConnectService.run,
        ServiceInput(tenant_id=tenant_id, region=region, service=service),
        **service_options(tenant_id, region, service),
    )


async def update_with_start(
    client: Client,
    start: WithStartWorkflowOperation[Any, Any],
    update: Any,
    arguments: Sequence[EnrolInput],
    update_id: str | None,
) -> WorkflowUpdateHandle[Any]:
    """Start the workflow of a service where none runs, and return its update as soon as a worker has accepted it.

    Raises the errors of Temporal's client.
    """
    try:
        return await client.start_update_with_start_workflow(
            update,
            args=arguments,
            id=update_id,
            wait_for_stage=WorkflowUpdateStage.ACCEPTED,
            start_workflow_operation=start,
        )
    finally:
        # Temporal's library stores a failure in the operation as well; unretrieved, asyncio logs it as lost.
        handle = asyncio.ensure_future(start.workflow_handle())
        await asyncio.wait({handle}, timeout=0)
        if not handle.cancel() and not handle.cancelled():
            handle.exception()


class _ServiceOptions(TypedDict):
    id: str
    task_queue: str
    id_conflict_policy: WorkflowIDConflictPolicy
    id_reuse_policy: WorkflowIDReusePolicy
    search_attributes: TypedSearchAttributes
    static_summary: str
    priority: Priority


def service_options(tenant_id: str, region: str, service: str) -> _ServiceOptions:
    """Return the start options of a service's workflow."""
    return {
        "id": ids.service_workflow(tenant_id, service),
        "task_queue": ids.operation_queue(region),
        "id_conflict_policy": WorkflowIDConflictPolicy.USE_EXISTING,
        "id_reuse_policy": WorkflowIDReusePolicy.ALLOW_DUPLICATE,
        "search_attributes": visibility.of_tenant(tenant_id, region),
        "static_summary": f"service {service} of {tenant_id}",
        "priority": priorities.service(tenant_id),
    }
