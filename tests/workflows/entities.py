"""A tenant's entity that is already where a test begins, and the gateway's way to it."""

import asyncio
import uuid

from temporalio.client import Client, WorkflowHandle

from tenancy import ids
from tenancy.lifecycle import State
from tenancy.messages import StandingMove, TenantInput, TenantMemory
from workflows import visibility
from workflows.gateway import Gateway
from workflows.tenant import Tenant


class Entity:
    """A tenant that is where `state` says, and the gateway's way to it."""

    def __init__(self, client: Client, handle: WorkflowHandle, tenant_id: str) -> None:
        self.handle, self.tenant_id = handle, tenant_id
        self.gateway = Gateway(client, 180, patience_seconds=15)

    async def stand(self, move: StandingMove) -> None:
        await self.gateway.change_standing(self.tenant_id, move)

    async def change(self, request_id: str = "") -> None:
        await self.gateway.change_root_key(self.tenant_id, request_id or uuid.uuid4().hex)

    async def state(self) -> tuple[str | None, str | None]:
        attributes = (await self.handle.describe()).typed_search_attributes
        return attributes.get(visibility.LIFECYCLE_STATE), attributes.get(visibility.ROOT_KEY_MODE)

    async def reaches(self, state: State) -> None:
        async with asyncio.timeout(15):
            while (await self.state())[0] != state:  # noqa: ASYNC110 - Temporal's visibility has nothing to wait for
                await asyncio.sleep(0.05)


async def an_entity(client: Client, queue: str, state: State = State.ACTIVE) -> Entity:
    tenant_id = f"t-{uuid.uuid4().hex[:12]}"
    handle = await client.start_workflow(
        Tenant.run,
        TenantInput(
            tenant_id=tenant_id,
            region=queue.removeprefix("lifecycle."),
            promise_seconds=60,
            memory=TenantMemory(state=state),
        ),
        id=ids.tenant_workflow(tenant_id),
        task_queue=queue,
    )
    return Entity(client, handle, tenant_id)
