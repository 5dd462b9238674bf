"""Every way to a protected action, tried by one person: the real entity and activities, on a real Temporal and rows.

A client of Temporal can send any update; the activity that acts rejects it, under the lock of the row.
"""

import asyncio
import dataclasses
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from temporalio.client import Client, WorkflowUpdateFailedError
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker

from activities.approvals import ApprovalActivities
from activities.notifications import NotificationOutbox
from activities.root_keys.change import RootKeyActivities
from activities.tenants import PolicyActivities, TenantStatusActivities
from core import names as ids
from core.errors.compliance import IsolationBreached
from core.errors.tenants import ApprovalRequired, VoteRejected
from core.keys.root_keys import PlatformKeyRef
from core.messages.keys import ChangeRootKeyInput, RootKeyRequest
from core.messages.tenants import (
    ApprovalRequest,
    PolicyRequest,
    StatusChange,
    StatusChangeRequest,
    TenantInput,
    TenantWorkflowState,
)
from core.tenants.approvals import Action, ApprovalState, VoteChoice
from core.tenants.lifecycle import State
from core.tenants.policy import TenantPolicy
from core.tenants.roles import PersonRole
from dashboard.approvals import actions as approval_actions
from dashboard.page_context import PageContext
from dashboard.tenants import actions as standing_actions
from dashboard.workflow_bridge import WorkflowBridge
from database.root_keys import RootKeyRequestRow
from devstack.servers.temporal import TemporalServer
from openkcm.errors import OpenKcmError
from tests.dashboard.scene import Scene
from tests.database.fixtures import Field
from worker.interceptors import FailureInterceptor
from workflows.client.workflow_client import WorkflowClient
from workflows.root_keys import ChangeRootKey
from workflows.tenants import Tenant

ACME = "acme-corp-12345"
POLICY = TenantPolicy(four_eyes=frozenset({Action.LOCK, Action.ROOT_KEY_TO_PLATFORM}))


class Untouched:
    """Keys and shelves of the steps of a root key: none of these attacks may get so far as to use one."""

    def forget(self, tenant_id: str) -> None:
        """A change that was refused is forgotten, which is no use."""

    def __getattr__(self, name: str) -> object:
        raise IsolationBreached((name,))  # which no step tries again, so that the test ends


class Installation:
    """The tenant's entity with the product's own steps, and everybody's way to it."""

    def __init__(self, field: Field, client: Client, queue: str, address: str) -> None:
        self.field, self.client, self.queue, self.address = field, client, queue, address
        self.scene = Scene(field)
        self.gateway = WorkflowClient(client, 180, patience_seconds=15)
        self.entity = client.get_workflow_handle(ids.tenant_workflow(ACME))

    async def start(self) -> None:
        self.scene.tenant(State.ACTIVE)
        self.scene.held_key()
        with self.scene.worker.tenant_tx(ACME) as tx:
            tx.policy.set(POLICY)
        memory = TenantWorkflowState(state=State.ACTIVE, changes=1)
        await self.client.start_workflow(
            Tenant.run,
            TenantInput(
                tenant_id=ACME, region=self.queue.removeprefix("lifecycle."), promise_seconds=60, memory=memory
            ),
            id=self.entity.id,
            task_queue=self.queue,
        )

    def steps(self) -> list[Callable[..., object]]:
        announcer, never, worker = NotificationOutbox((), ""), Untouched(), self.scene.worker
        approvals = ApprovalActivities(worker, announcer, timedelta(hours=24))
        standing = TenantStatusActivities(worker, announcer, 60.0, lambda: datetime.now(UTC))
        root_keys = RootKeyActivities(worker, never, never, lambda *_: never, announcer)
        return [
            approvals.admit_approval,
            approvals.decide_approval,
            approvals.close_approval,
            approvals.expire_approvals,
            PolicyActivities(worker).change_policy,
            standing.change_standing,
            standing.follow_root_key,
            root_keys.admit_root_key,
            root_keys.preflight_root_key,
            root_keys.wrap_service_keys,
            root_keys.switch_root_key,
            root_keys.abandon_root_key,
        ]

    def seat(self, name: str, role: PersonRole = PersonRole.KEY_ADMINISTRATOR) -> PageContext:
        door = WorkflowBridge(lambda: WorkflowClient.connect(self.address, 180))
        return dataclasses.replace(self.scene.seat(ACME, role, name=name), door=door)

    async def asks(self, name: str = "Ada") -> str:
        """Have somebody ask for a lock; return the request's id."""
        return (await asyncio.to_thread(standing_actions.ask_to_lock, self.seat(name))).approval_id

    async def says(self, name: str, approval_id: str, choice: VoteChoice = VoteChoice.APPROVE) -> ApprovalState:
        return (await asyncio.to_thread(approval_actions.decide, self.seat(name), approval_id, choice)).state

    def back_to_the_platform(self) -> str:
        """Store a request for the platform's root key, as anybody can; return its id."""
        request_id = uuid.uuid4().hex
        with self.scene.dashboard.tenant_tx(ACME) as tx:
            tx.root_keys.request(RootKeyRequestRow(request_id, PlatformKeyRef(), None))
        return request_id

    def assert_untouched(self) -> None:
        """The tenant is open, on its own root key, and under the policy that it had."""
        with self.scene.worker.tenant_tx(ACME) as tx:
            row, key, policy = tx.tenants.get(), tx.root_keys.current(), tx.policy.get()
        assert (row.state, key is not None, policy) == (State.ACTIVE, True, POLICY)


@pytest.fixture
async def installed(field: Field, temporal: TemporalServer) -> AsyncIterator[Installation]:
    client = await Client.connect(temporal.address, data_converter=pydantic_data_converter)
    installation = Installation(field, client, ids.task_queue(f"eu-{uuid.uuid4().hex}-1"), temporal.address)
    with ThreadPoolExecutor(8) as pool:
        async with Worker(
            client,
            task_queue=installation.queue,
            workflows=[Tenant, ChangeRootKey],
            activities=installation.steps(),
            activity_executor=pool,
            interceptors=[FailureInterceptor(installation.scene.worker)],
        ):
            await installation.start()
            yield installation
            await installation.entity.terminate()


async def refused_as(asked: Awaitable[object]) -> str:
    """Return the code with which something was refused, however it was asked for."""
    try:
        await asked
    except OpenKcmError as refused:
        return refused.code
    except WorkflowUpdateFailedError as refused:
        return refused.cause.type or "" if isinstance(refused.cause, ApplicationError) else str(refused)
    return "it was done"


async def test_two_people_lock_a_tenant_and_their_approval_is_used_once(installed: Installation) -> None:
    approval_id = await installed.asks()
    assert await installed.says("Kai", approval_id) is ApprovalState.DONE
    assert installed.scene.standing()[0] is State.LOCKED
    await installed.gateway.change_standing(ACME, StatusChange.UNLOCK)
    again = StatusChangeRequest(move=StatusChange.LOCK, approval_id=approval_id)
    assert await refused_as(installed.entity.execute_update(Tenant.change_standing, again)) == ApprovalRequired.code
    await installed.gateway.decide(ACME, approval_id)  # counts nothing a second time
    installed.assert_untouched()


async def test_gateway_and_dashboard_deny_a_protected_action_to_one_person(installed: Installation) -> None:
    request_id, seat = installed.back_to_the_platform(), installed.seat("Ada")
    for asked in (
        installed.gateway.change_standing(ACME, StatusChange.LOCK),
        installed.gateway.change_root_key(ACME, request_id),
        installed.gateway.change_policy(ACME, TenantPolicy()),
        asyncio.to_thread(standing_actions.lock, seat),
        asyncio.to_thread(approval_actions.change_policy, seat, TenantPolicy()),
    ):
        assert await refused_as(asked) == ApprovalRequired.code
    approval_id = await installed.asks()
    assert await refused_as(installed.says("Ada", approval_id)) == VoteRejected.code
    installed.assert_untouched()


async def test_no_update_of_a_temporal_client_replaces_an_approval(installed: Installation) -> None:
    request_id, waits = installed.back_to_the_platform(), await installed.asks()
    # Stored past every check of the dashboard: the word of whoever asked, under another name, and of an auditor.
    uma = installed.scene.seat(ACME, PersonRole.AUDITOR, name="Uma").person
    ada = dataclasses.replace(installed.scene.seat(ACME, name="Ada").person, name="Kai")
    with installed.scene.dashboard.tenant_tx(ACME) as tx:
        assert all(tx.approvals.vote(waits, person, VoteChoice.APPROVE) for person in (ada, uma))
    update = installed.entity.execute_update
    assert await refused_as(update(Tenant.decide, ApprovalRequest(approval_id=waits))) == VoteRejected.code
    other = TenantPolicy().as_argument()
    for approval_id in (None, waits, "f" * 32, "'; update okcm.approval set state = 'approved'"):
        for handler, argument in (
            (Tenant.change_standing, StatusChangeRequest(move=StatusChange.LOCK, approval_id=approval_id)),
            (Tenant.change_root_key, RootKeyRequest(request_id=request_id, approval_id=approval_id)),
            (Tenant.change_policy, PolicyRequest.model_validate(other | {"approval_id": approval_id})),
        ):
            assert await refused_as(update(handler, argument)) == ApprovalRequired.code
    installed.assert_untouched()


async def test_a_root_key_change_started_beside_the_entity_is_denied(installed: Installation) -> None:
    request_id, lock = installed.back_to_the_platform(), await installed.asks()
    kai = installed.scene.seat(ACME, name="Kai").person
    with installed.scene.dashboard.tenant_tx(ACME) as tx:
        tx.approvals.vote(lock, kai, VoteChoice.APPROVE)
    for number, approval_id in enumerate((None, lock), start=2):
        result = await installed.client.execute_workflow(
            ChangeRootKey.run,
            ChangeRootKeyInput(
                tenant_id=ACME, region="eu-west-1", number=number, request_id=request_id, approval_id=approval_id
            ),
            id=f"mine/{uuid.uuid4().hex}",
            task_queue=installed.queue,
        )
        assert result.code == ApprovalRequired.code
    installed.assert_untouched()
