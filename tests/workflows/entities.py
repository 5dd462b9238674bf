"""A tenant workflow that starts in a given state, and its requests through the workflow client."""

import uuid
from collections.abc import Awaitable
from datetime import timedelta
from typing import Self

import pytest
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.testing import TimeSkipper, TimeSkippingConfig

from core import names as ids
from core.keys.rotation import RotationScope
from core.messages.keys import RotateRequest
from core.messages.tenants import MarketplaceSignal, OffboardRequest, StatusChange, TenantInput, TenantWorkflowState
from core.tenants.lifecycle import State
from tests.concurrency import wait_until_async
from workflows.client.updates import UpdateRejected
from workflows.client.workflow_client import WorkflowClient
from workflows.runtime import options as visibility
from workflows.tenants import Tenant


def a_tenant_id() -> str:
    return f"t-{uuid.uuid4().hex[:12]}"


async def refused(code: str, ask: Awaitable[object]) -> UpdateRejected:
    """Assert the code with which a request is rejected."""
    with pytest.raises(UpdateRejected) as caught:
        await ask
    assert caught.value.code == code
    return caught.value


async def ends(handle: WorkflowHandle, status: WorkflowExecutionStatus = WorkflowExecutionStatus.COMPLETED) -> None:
    async def ended() -> bool:
        return (await handle.describe()).status is status

    await wait_until_async(ended)


async def summaries(handle: WorkflowHandle) -> list[str]:
    """Return the summaries of the steps in the Temporal UI."""
    events = (await handle.fetch_history()).events
    return [e.user_metadata.summary.data.decode().strip('"') for e in events if e.user_metadata.HasField("summary")]


async def fast_forward(client: Client, handle: WorkflowHandle, time: timedelta) -> None:
    await TimeSkipper(client, config=TimeSkippingConfig(enabled=False)).fast_forward(handle, time)


def a_rotation(**changed: object) -> RotateRequest:
    request = RotateRequest(request_id=uuid.uuid4().hex, services=RotationScope.ALL, tenant_key=True)
    return request.model_copy(update=changed)


async def run_platform(client: Client, queue: str, workflow: type) -> None:
    """Run a workflow of a schedule."""
    await client.execute_workflow(workflow.run, id=f"platform/{uuid.uuid4().hex}", task_queue=queue)


async def reaches(handle: WorkflowHandle, state: State) -> None:
    async def reached() -> bool:
        attributes = (await handle.describe()).typed_search_attributes
        return attributes.get(visibility.LIFECYCLE_STATE) == state

    await wait_until_async(reached)


class Entity:
    def __init__(self, client: Client, region: str, tenant_id: str = "") -> None:
        self.client, self.region, self.tenant_id = client, region, tenant_id or a_tenant_id()
        self.handle = client.get_workflow_handle_for(Tenant.run, ids.tenant_workflow(self.tenant_id))
        self.offboarding = client.get_workflow_handle(ids.offboard_workflow(self.tenant_id))
        self.gateway = WorkflowClient(client, 180)

    @classmethod
    async def start(
        cls, client: Client, region: str, state: State = State.ACTIVE, tenant_id: str = "", **memory: object
    ) -> Self:
        entity = cls(client, region, tenant_id)
        await client.start_workflow(
            Tenant.run,
            TenantInput(
                tenant_id=entity.tenant_id,
                region=region,
                provisioning_slo_seconds=60,
                memory=TenantWorkflowState.model_validate({"state": state} | memory),
            ),
            id=entity.handle.id,
            task_queue=ids.tenant_queue(region),
        )
        return entity

    @classmethod
    async def enable(cls, client: Client, region: str, tenant_id: str = "") -> Self:
        """Start the tenant workflow with the marketplace's first event."""
        entity = cls(client, region, tenant_id)
        await client.start_workflow(
            Tenant.run,
            TenantInput(tenant_id=entity.tenant_id, region=region, provisioning_slo_seconds=60),
            id=entity.handle.id,
            task_queue=ids.tenant_queue(region),
            start_signal="marketplace-event",
            start_signal_args=[MarketplaceSignal(event_id="event-1", kind="service_enabled")],
        )
        return entity

    async def move(self, move: StatusChange) -> None:
        await self.gateway.change_standing(self.tenant_id, move)

    async def change_root_key(self, request_id: str = "") -> None:
        await self.gateway.change_root_key(self.tenant_id, request_id or uuid.uuid4().hex)

    async def rotate(self, **changed: object) -> None:
        await self.gateway.rotate_keys(self.tenant_id, a_rotation(**changed))

    async def retire(self, version: int) -> None:
        await self.gateway.retire_service_key(self.tenant_id, "orders", version)

    async def roll_authority(self) -> None:
        await self.gateway.roll_authority(self.tenant_id)

    async def propose(self, approval_id: str = "") -> str:
        approval_id = approval_id or uuid.uuid4().hex
        await self.gateway.propose(self.tenant_id, approval_id)
        return approval_id

    async def decide(self, approval_id: str) -> None:
        await self.gateway.decide(self.tenant_id, approval_id)

    async def offboard(self, **request: object) -> None:
        await self.gateway.offboard(self.tenant_id, OffboardRequest.model_validate(request))

    async def restore(self) -> None:
        await self.gateway.restore(self.tenant_id)

    async def state(self) -> tuple[str | None, str | None]:
        attributes = (await self.handle.describe()).typed_search_attributes
        return attributes.get(visibility.LIFECYCLE_STATE), attributes.get(visibility.ROOT_KEY_MODE)

    async def reaches(self, state: State) -> None:
        await reaches(self.handle, state)
