"""Start of lost workflows, for the recovery activities (activities/recovery.py), which import no workflow."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError

from core import names as ids
from core.messages.services import ServiceInput
from core.messages.tenants import OffboardInput, TenantInput
from workflows.client.connection import connect_client, unavailable
from workflows.client.service_start import service_options
from workflows.client.tenant_start import tenant_options
from workflows.offboarding import OffboardTenant
from workflows.runtime import options as priorities
from workflows.runtime import options as visibility
from workflows.services import ConnectService
from workflows.tenants import Tenant

_RPC_TIMEOUT = timedelta(seconds=5)
_IDS_OF_A_QUERY = 100
_EVENTS_OF_A_START = 3
"""The start, and the first task scheduled and started."""
_FIRST_TASK_POLLS, _POLL_SECONDS = 20, 0.1


class LostWorkflowStarter:
    """A `WorkflowStarter` with a connection for one event loop. Its inputs contain only ids, so it needs no key."""

    def __init__(self, temporal_address: str | None, provisioning_slo_seconds: float) -> None:
        self._address = temporal_address
        self._promise_seconds = provisioning_slo_seconds
        self._client: Client | None = None

    async def running(self, workflow_ids: Sequence[str]) -> frozenset[str]:
        client = await self._connected()
        pages = range(0, len(workflow_ids), _IDS_OF_A_QUERY)
        found = await asyncio.gather(
            *(_running(client, workflow_ids[first : first + _IDS_OF_A_QUERY]) for first in pages)
        )
        return frozenset().union(*found)

    async def wait_for_first_task(self, workflow_id: str) -> bool:
        handle = (await self._connected()).get_workflow_handle(workflow_id)
        for _ in range(_FIRST_TASK_POLLS):
            with suppress(RPCError):
                if (await handle.describe(rpc_timeout=_RPC_TIMEOUT)).history_length > _EVENTS_OF_A_START:
                    return True
            await asyncio.sleep(_POLL_SECONDS)
        return False

    async def start_tenant(self, tenant_id: str, region: str) -> bool:
        tenant = TenantInput(tenant_id=tenant_id, region=region, provisioning_slo_seconds=self._promise_seconds)
        return await self._start(Tenant.run, tenant, dict(tenant_options(tenant_id, region)))

    async def start_offboarding(self, leaving: OffboardInput) -> bool:
        return await self._start(
            OffboardTenant.run,
            leaving,
            {
                "id": ids.offboard_workflow(leaving.tenant_id),
                "task_queue": ids.operation_queue(leaving.region),
                "search_attributes": visibility.of_tenant(leaving.tenant_id, leaving.region),
                "priority": priorities.service(leaving.tenant_id),
            },
        )

    async def start_service(self, service: ServiceInput) -> bool:
        options = service_options(service.tenant_id, service.region, service.service)
        return await self._start(ConnectService.run, service, dict(options))

    async def _start(self, run: Any, argument: object, options: dict[str, Any]) -> bool:
        client = await self._connected()
        try:
            await client.start_workflow(
                run,
                argument,
                rpc_timeout=_RPC_TIMEOUT,
                **options | {"id_conflict_policy": WorkflowIDConflictPolicy.FAIL},
            )
        except WorkflowAlreadyStartedError:
            return False
        except (RPCError, RuntimeError) as down:
            raise unavailable(down) from down
        return True

    async def _connected(self) -> Client:
        if self._client is None:
            self._client = await connect_client(self._address)
        return self._client


async def _running(client: Client, workflow_ids: Sequence[str]) -> set[str]:
    # An id has only letters, digits, hyphens and slashes (core/names.py), so it cannot end the quotes.
    named = ", ".join(f"'{workflow_id}'" for workflow_id in workflow_ids)
    query = f"ExecutionStatus = 'Running' and WorkflowId in ({named})"
    try:
        return {run.id async for run in client.list_workflows(query)}
    except (RPCError, RuntimeError) as down:
        raise unavailable(down) from down
