"""The end of a tenant's workflows, which must be over before the key of their payloads is destroyed."""

import asyncio

import structlog
from temporalio import activity
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from core import names as ids
from core.messages.base import StepInput

_PAUSE_SECONDS = 0.25
_PATIENCE_SECONDS = 30.0
"""How long they are waited for. One that is still there then waits for something that is gone."""

log = structlog.get_logger()


class ClosingActivities:
    @activity.defn(name="close-workflows")
    async def close_workflows(self, step: StepInput) -> None:
        """Step 10: wait until every workflow of the tenant but this one is over; stragglers are terminated.

        Each was told before. The list of running workflows is a moment behind, so the entity, whose id is known, is
        asked for itself; a straggler that is found in no list has nothing to do any more that could be done.
        """
        client, own, waited = activity.client(), activity.info().workflow_id, 0.0
        while left := await _running(client, step.tenant_id, own):
            activity.heartbeat(len(left))
            if waited >= _PATIENCE_SECONDS:
                for workflow_id in left:
                    log.warning("workflow of a tenant that has left is terminated", workflow_id=workflow_id)
                    await _terminate(client, workflow_id)
            await asyncio.sleep(_PAUSE_SECONDS)
            waited += _PAUSE_SECONDS


async def _running(client: Client, tenant_id: str, own: str | None) -> list[str]:
    # A tenant's id is a quoted word of letters, digits and hyphens (core/names.py): nothing in it ends the quotes.
    query = f"TenantId = '{tenant_id}' and ExecutionStatus = 'Running'"
    found = {run.id async for run in client.list_workflows(query)} - {own}
    entity = ids.tenant_workflow(tenant_id)
    if await _is_running(client, entity):
        found.add(entity)
    return sorted(found)


async def _is_running(client: Client, workflow_id: str) -> bool:
    try:
        described = await client.get_workflow_handle(workflow_id).describe()
    except RPCError as gone:
        if gone.status is RPCStatusCode.NOT_FOUND:
            return False
        raise
    return described.status is WorkflowExecutionStatus.RUNNING


async def _terminate(client: Client, workflow_id: str) -> None:
    try:
        await client.get_workflow_handle(workflow_id).terminate(reason="the tenant has left")
    except RPCError as gone:
        if gone.status is not RPCStatusCode.NOT_FOUND:
            raise
