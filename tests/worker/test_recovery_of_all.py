"""All tenants are operable again after the loss of every workflow history; PostgreSQL and OpenBao are kept.

The tenants are created by the activities alone, as earlier workflows ran them, so the new Temporal server knows none.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from temporalio.client import Client

from config.secrets import Role
from core import names as ids
from core.keys.encryption_context import EncryptionContext, Purpose
from core.keys.rotation import RotationScope
from core.messages.base import StepInput
from core.messages.keys import PlanRotationStep, RotateRequest, RotationStep
from core.messages.tenants import LeaveInput, StatusChange, StatusChangeInput
from core.tenants.lifecycle import State
from core.tenants.offboarding import offboarding_number
from core.tenants.provisioning import Step
from database.connection.database import Database
from tests.activities.provisioning import MADE, REGION, Provisioning, run_steps
from tests.activities.services.connecting import SERVICE, Connection
from tests.concurrency import wait_until_async
from tests.e2e.isolation.test_traces import payloads_in
from tests.worker.test_process import callback, process_settings, start
from tests.workflows.entities import a_rotation
from worker import wiring
from workflows.client.workflow_client import WorkflowClient

# Fixtures that pytest finds here by their names.
__all__ = ["callback", "process_settings", "start"]

pytestmark = pytest.mark.full

_TENANTS = 200
_LOCK_SECONDS = 5
_AT_ONCE = 4


def _status(tenant: Provisioning, move: StatusChange) -> None:
    step = StatusChangeInput(tenant_id=tenant.tenant_id, operation_id=f"{move}-1", move=move)
    tenant.run_with("change-status", step)


def _connect(tenant: Provisioning, operator: Database) -> None:
    connection = Connection(tenant, operator)
    connection.ask()
    connection.connect()


def _leave(tenant: Provisioning, *, now: bool = False) -> None:
    tenant.run_with("start-offboarding", LeaveInput(tenant_id=tenant.tenant_id, operation_id="leave-1", now=now))


def requested(_tenant: Provisioning, _operator: Database) -> None:
    """The event was handed over, and nothing was done."""


def provisioning(tenant: Provisioning, _operator: Database) -> None:
    run_steps(tenant, [Step.OPEN_RECORDS, Step.CREATE_KEYS])


def failed(tenant: Provisioning, _operator: Database) -> None:
    run_steps(tenant, [Step.OPEN_RECORDS, Step.CREATE_KEYS, Step.CREATE_AUTHORITY, "disable-tenant-key", "disable-ca"])
    tenant.run("record-failure", code="conflicting_resource", reason="activate")


def active(tenant: Provisioning, _operator: Database) -> None:
    run_steps(tenant, MADE)


def connected(tenant: Provisioning, operator: Database) -> None:
    active(tenant, operator)
    _connect(tenant, operator)


def suspended(tenant: Provisioning, operator: Database) -> None:
    connected(tenant, operator)
    _status(tenant, StatusChange.SUSPEND)


def locked(tenant: Provisioning, operator: Database) -> None:
    active(tenant, operator)
    _status(tenant, StatusChange.LOCK)


def rotating(tenant: Provisioning, operator: Database) -> None:
    connected(tenant, operator)
    request = RotateRequest(request_id="request-2", services=RotationScope.ALL, tenant_key=True)
    step = {"tenant_id": tenant.tenant_id, "operation_id": "rotate-1", "number": 1}
    tenant.run_with("plan-rotation", PlanRotationStep(**step, request=request))
    for name in ("rotate-tenant-key", "prepare-service-keys"):
        tenant.run_with(name, RotationStep(**step))


def leaving(tenant: Provisioning, operator: Database) -> None:
    connected(tenant, operator)
    _leave(tenant)


def destroying(tenant: Provisioning, operator: Database) -> None:
    connected(tenant, operator)
    _leave(tenant, now=True)
    number = offboarding_number(tenant.read(lambda tx: tx.leaving.get()).since)
    for name in ("start-destruction", "inventory-keys", "disconnect-services"):
        tenant.run_with(name, StepInput(tenant_id=tenant.tenant_id, operation_id=f"offboard-{number}"))


_OF_FIFTY = {
    requested: 1,
    provisioning: 1,
    destroying: 2,
    failed: 4,
    active: 12,
    connected: 10,
    suspended: 6,
    locked: 5,
    rotating: 5,
    leaving: 4,
}
KINDS = [kind for kind, number in _OF_FIFTY.items() for _ in range(number)]
ENABLED = {requested, provisioning}
LIVE = {active, connected, suspended, locked, rotating} | ENABLED
WITH_SERVICE = {connected, suspended, rotating, leaving}
Kind = Callable[[Provisioning, Database], None]


@pytest.fixture
def operator(settings) -> Iterator[Database]:
    with closing(wiring.open_database(settings, Role.OPERATOR)) as opened:
        yield opened


@pytest.fixture
def tenants(request_tenant, operator) -> Sequence[tuple[Kind, Provisioning]]:
    """Return the tenants, each with the effects of its earlier workflows."""
    run_steps(request_tenant(ids.CANARY_TENANT_ID, "OpenKCM canary"), MADE)
    made = [(KINDS[number % len(KINDS)], request_tenant(f"lost-{number}-corp")) for number in range(_TENANTS)]

    def make(kind: Kind, tenant: Provisioning) -> None:
        tenant.run_with("load-tenant", StepInput(tenant_id=tenant.tenant_id, operation_id="load"))
        kind(tenant, operator)
        tenant.read(lambda tx: tx.inbox.mark_started("event-1"))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda one: make(*one), made))
    return made


def facts(tenant: Provisioning) -> dict[str, object]:
    """Return what a recovery must not change."""
    return {
        "keys": tenant.read(lambda tx: [(key.name, key.version, key.oldest) for key in tx.keys.all()]),
        "authorities": tenant.read(lambda tx: [one.serial for one in tx.certificates.authorities()]),
        "route": tenant.read(lambda tx: tx.routes.get()),
        "service key": tenant.read(lambda tx: tx.services.key(SERVICE)),
        "certificates": tenant.read(lambda tx: tx.services.generation(SERVICE)),
    }


def assert_key_works(tenant: Provisioning) -> None:
    context = EncryptionContext(tenant.tenant_id, ids.l2_key(tenant.tenant_id), "", Purpose.VERIFY, "check")
    assert tenant.tenant_keys.decrypt(context, tenant.tenant_keys.encrypt(context, b"text")) == b"text"


class Estate:
    """The tenants by the way they were lost, and the requests of their administrators."""

    def __init__(self, tenants: Sequence[tuple[Kind, Provisioning]], client: Client) -> None:
        self.tenants, self.client = tenants, client
        self.gateway = WorkflowClient(client, provisioning_slo_seconds=180)
        self.lockable = self.of(*LIVE - ENABLED)

    def of(self, *kinds: Kind) -> list[Provisioning]:
        return [tenant for kind, tenant in self.tenants if kind in kinds]

    def facts(self) -> dict[str, dict[str, object]]:
        kept = set(KINDS) - ENABLED - {destroying}
        return {tenant.tenant_id: facts(tenant) for tenant in self.of(*kept)}

    async def lock_all(self) -> list[float]:
        """Lock every tenant that can be locked; return the seconds from each request to its result, sorted."""
        slots = asyncio.Semaphore(_AT_ONCE)

        async def lock(tenant: Provisioning) -> float:
            async with slots:
                began = time.monotonic()
                await self.gateway.change_standing(tenant.tenant_id, StatusChange.LOCK)
                return time.monotonic() - began

        return sorted(await asyncio.gather(*map(lock, self.lockable)))

    def required(self) -> Counter[str]:
        """Return the workflows that the rows require: one of each."""
        return Counter(
            [
                *(ids.tenant_workflow(one.tenant_id) for one in self.of(*set(KINDS) - {destroying})),
                *(ids.offboard_workflow(one.tenant_id) for one in self.of(leaving)),
                *(ids.service_workflow(one.tenant_id, SERVICE) for one in self.of(*WITH_SERVICE)),
            ]
        )

    async def running(self) -> Counter[str]:
        query = "ExecutionStatus = 'Running' and WorkflowId STARTS_WITH 'tenant/lost-'"
        return Counter([run.id async for run in self.client.list_workflows(query)])

    async def payload_keys(self, tenant: Provisioning) -> set[str]:
        """Return the keys that encrypt the payloads of a tenant's workflow."""
        history = await self.client.get_workflow_handle(ids.tenant_workflow(tenant.tenant_id)).fetch_history()
        payloads = [payload for event in history.events for payload in payloads_in(event)]
        return {payload.metadata["key"].decode() for payload in payloads if "key" in payload.metadata}

    async def assert_operable(self) -> None:
        """Run an operation of each kind on each tenant."""
        for tenant in self.lockable:
            await self.gateway.change_standing(tenant.tenant_id, StatusChange.UNLOCK)
            assert_key_works(tenant)
        for tenant in self.of(rotating):
            await self.gateway.rotate_keys(tenant.tenant_id, a_rotation())
        for tenant in self.of(connected):
            await self.gateway.renew_service(tenant.tenant_id, REGION, SERVICE)
            assert tenant.read(lambda tx: tx.services.generation(SERVICE)) == 2
        for tenant in self.of(leaving):
            await self.gateway.restore(tenant.tenant_id)
            assert tenant.tenant_row.state is State.ACTIVE
        for tenant in self.of(failed):
            await self.gateway.retry(tenant.tenant_id)
            await wait_until_async(lambda t=tenant: t.tenant_row.state is State.ACTIVE)
            assert_key_works(tenant)


async def test_every_tenant_is_operable_after_the_loss_of_all_histories(
    start, process_settings, tenants, temporal_client, record_property
) -> None:
    estate = Estate(tenants, temporal_client)
    before = estate.facts()
    worker = start(process_settings)
    worker.wait_until(lambda: "worker ready" in worker.log)
    ready = time.monotonic()
    seconds = await estate.lock_all()
    record_property("seconds until all are locked", time.monotonic() - ready)
    record_property("median lock", seconds[len(seconds) // 2])
    record_property("longest lock", seconds[-1])
    assert seconds[-1] < _LOCK_SECONDS
    assert {tenant.tenant_row.state for tenant in estate.lockable} == {State.LOCKED}

    # Provisioning and destruction continue; the others keep their state.
    ends = {requested: State.ACTIVE, provisioning: State.ACTIVE, destroying: State.OFFBOARDED}
    for kind, state in (ends | {failed: State.FAILED, leaving: State.LEAVING}).items():
        for tenant in estate.of(kind):
            await wait_until_async(lambda t=tenant, s=state: t.tenant_row.state is s, seconds=300)
    assert estate.facts() == before
    required = estate.required()

    async def complete() -> bool:
        return await estate.running() == required

    await wait_until_async(complete)
    await estate.assert_operable()
    for tenant in estate.of(destroying):
        assert tenant.read(lambda tx: tx.leaving.certificate()) is not None
    for tenant in estate.of(active):
        assert ids.payload_key(tenant.tenant_id) in await estate.payload_keys(tenant)
    for tenant in estate.of(*KINDS):
        tenant.assert_audited_once()
