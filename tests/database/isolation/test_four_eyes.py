"""Every way to a protected action, tried by one person: the real workflow and activities, with Temporal and PostgreSQL.

Any Temporal client can send any update; the activity rejects it while it holds the lock of the row.
"""

import asyncio
import dataclasses
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Event

import pytest
from temporalio.client import Client, WorkflowUpdateFailedError
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.exceptions import ApplicationError

from activities.approvals import ApprovalActivities
from activities.notifications import NotificationOutbox
from activities.root_keys.change import RootKeyActivities
from activities.runtime.concurrency import Pace
from activities.tenants import PolicyActivities, StoredTenantActivities, TenantStatusActivities
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
from tests.activities.recorded import LockCopies
from tests.dashboard.scene import Scene
from tests.database.fixtures import Field
from tests.workflows.queues import run_region
from worker.interceptors import FailureInterceptor
from workflows.client.workflow_client import WorkflowClient
from workflows.root_keys import ChangeRootKey
from workflows.tenants import Tenant

ACME = "acme-corp-12345"
POLICY = TenantPolicy(four_eyes=frozenset({Action.LOCK, Action.ROOT_KEY_TO_PLATFORM}))


class Untouched:
    """Fake key providers and stores for the steps of a root key change: no attack may reach them."""

    def forget(self, tenant_id: str) -> None:
        """Accept that a rejected change is deleted, which gains nothing."""

    def __getattr__(self, name: str) -> object:
        raise IsolationBreached((name,))  # not retried, so that the test ends


class Installation:
    """The tenant's workflow with the product's own activities, and all its clients."""

    def __init__(self, field: Field, client: Client, region: str, address: str) -> None:
        self.field, self.client, self.region, self.address = field, client, region, address
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
            TenantInput(tenant_id=ACME, region=self.region, provisioning_slo_seconds=60, memory=memory),
            id=self.entity.id,
            task_queue=ids.tenant_queue(self.region),
        )

    def steps(self) -> list[Callable[..., object]]:
        outbox, never, worker = NotificationOutbox((), ""), Untouched(), self.scene.worker
        approvals = ApprovalActivities(worker, outbox, timedelta(hours=24))
        status = TenantStatusActivities(worker, outbox, LockCopies(), 60.0, lambda: datetime.now(UTC))
        root_keys = RootKeyActivities(worker, never, never, lambda *_: never, outbox, LockCopies(), Pace(0, Event()))
        return [
            approvals.admit_approval,
            approvals.decide_approval,
            approvals.close_approval,
            approvals.expire_approvals,
            PolicyActivities(worker).change_policy,
            status.change_standing,
            status.follow_root_key,
            StoredTenantActivities(worker).read_tenant_state,
            root_keys.admit_root_key,
            root_keys.preflight_root_key,
            root_keys.wrap_service_keys,
            root_keys.switch_root_key,
            root_keys.abandon_root_key,
        ]

    def user(self, name: str, role: PersonRole = PersonRole.KEY_ADMINISTRATOR) -> PageContext:
        bridge = WorkflowBridge(lambda: WorkflowClient.connect(self.address, 180))
        return dataclasses.replace(self.scene.page_context(ACME, role, name=name), workflows=bridge)

    async def request_lock(self, name: str = "Ada") -> str:
        """Request a lock as a user; return the request's id."""
        return (await asyncio.to_thread(standing_actions.ask_to_lock, self.user(name), "drill")).approval_id

    async def vote(self, name: str, approval_id: str, choice: VoteChoice = VoteChoice.APPROVE) -> ApprovalState:
        return (await asyncio.to_thread(approval_actions.decide, self.user(name), approval_id, choice)).state

    def request_platform_key(self) -> str:
        """Store a request for the platform's root key, as any user can; return its id."""
        request_id = uuid.uuid4().hex
        with self.scene.dashboard.tenant_tx(ACME) as tx:
            tx.root_keys.request(RootKeyRequestRow(request_id, PlatformKeyRef(), None))
        return request_id

    def assert_untouched(self) -> None:
        """Require that the tenant is active, with its own root key and its original policy."""
        with self.scene.worker.tenant_tx(ACME) as tx:
            row, key, policy = tx.tenants.get(), tx.root_keys.current(), tx.policy.get()
        assert (row.state, key is not None, policy) == (State.ACTIVE, True, POLICY)


@pytest.fixture
async def installed(field: Field, temporal: TemporalServer) -> AsyncIterator[Installation]:
    client = await Client.connect(temporal.address, data_converter=pydantic_data_converter)
    installation = Installation(field, client, f"eu-{uuid.uuid4().hex}-1", temporal.address)
    with ThreadPoolExecutor(8) as pool:
        async with run_region(
            client,
            installation.region,
            [Tenant, ChangeRootKey],
            installation.steps(),
            activity_executor=pool,
            interceptors=[FailureInterceptor(installation.scene.worker)],
        ):
            await installation.start()
            yield installation
            await installation.entity.terminate()


async def error_code(call: Awaitable[object]) -> str:
    """Return the error code of a rejected call, from any client."""
    try:
        await call
    except OpenKcmError as failed:
        return failed.code
    except WorkflowUpdateFailedError as failed:
        return failed.cause.type or "" if isinstance(failed.cause, ApplicationError) else str(failed)
    return "succeeded"


async def test_two_people_can_lock_a_tenant_and_the_approval_is_used_once(installed: Installation) -> None:
    approval_id = await installed.request_lock()
    assert await installed.vote("Kai", approval_id) is ApprovalState.DONE
    assert installed.scene.standing()[0] is State.LOCKED
    await installed.gateway.change_standing(ACME, StatusChange.UNLOCK)
    again = StatusChangeRequest(move=StatusChange.LOCK, approval_id=approval_id)
    assert await error_code(installed.entity.execute_update(Tenant.change_standing, again)) == ApprovalRequired.code
    await installed.gateway.decide(ACME, approval_id)  # has no effect the second time
    installed.assert_untouched()


async def test_clients_deny_a_protected_action_to_one_person(installed: Installation) -> None:
    request_id, user = installed.request_platform_key(), installed.user("Ada")
    for call in (
        installed.gateway.change_standing(ACME, StatusChange.LOCK),
        installed.gateway.change_root_key(ACME, request_id),
        installed.gateway.change_policy(ACME, TenantPolicy()),
        asyncio.to_thread(standing_actions.lock, user),
        asyncio.to_thread(approval_actions.change_policy, user, TenantPolicy()),
    ):
        assert await error_code(call) == ApprovalRequired.code
    approval_id = await installed.request_lock()
    assert await error_code(installed.vote("Ada", approval_id)) == VoteRejected.code
    installed.assert_untouched()


async def test_no_update_of_a_temporal_client_replaces_an_approval(installed: Installation) -> None:
    request_id, waits = installed.request_platform_key(), await installed.request_lock()
    # Stored past every check of the dashboard: the vote of the requester under another name, and of an auditor.
    uma = installed.scene.page_context(ACME, PersonRole.AUDITOR, name="Uma").person
    ada = dataclasses.replace(installed.scene.page_context(ACME, name="Ada").person, name="Kai")
    with installed.scene.dashboard.tenant_tx(ACME) as tx:
        assert all(tx.approvals.vote(waits, person, VoteChoice.APPROVE) for person in (ada, uma))
    update = installed.entity.execute_update
    assert await error_code(update(Tenant.decide, ApprovalRequest(approval_id=waits))) == VoteRejected.code
    other = TenantPolicy().as_argument()
    for approval_id in (None, waits, "f" * 32, "'; update okcm.approval set state = 'approved'"):
        for handler, argument in (
            (Tenant.change_standing, StatusChangeRequest(move=StatusChange.LOCK, approval_id=approval_id)),
            (Tenant.change_root_key, RootKeyRequest(request_id=request_id, approval_id=approval_id)),
            (Tenant.change_policy, PolicyRequest.model_validate(other | {"approval_id": approval_id})),
        ):
            assert await error_code(update(handler, argument)) == ApprovalRequired.code
    installed.assert_untouched()


async def test_a_root_key_change_started_beside_the_entity_is_denied(installed: Installation) -> None:
    request_id, lock = installed.request_platform_key(), await installed.request_lock()
    kai = installed.scene.page_context(ACME, name="Kai").person
    with installed.scene.dashboard.tenant_tx(ACME) as tx:
        tx.approvals.vote(lock, kai, VoteChoice.APPROVE)
    for number, approval_id in enumerate((None, lock), start=2):
        result = await installed.client.execute_workflow(
            ChangeRootKey.run,
            ChangeRootKeyInput(
                tenant_id=ACME, region="eu-west-1", number=number, request_id=request_id, approval_id=approval_id
            ),
            id=f"mine/{uuid.uuid4().hex}",
            task_queue=ids.operation_queue(installed.region),
        )
        assert result.code == ApprovalRequired.code
    installed.assert_untouched()
