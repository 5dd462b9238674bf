"""All tenants are operable again after the loss of every workflow history; PostgreSQL and OpenBao are kept.

The running product makes the tenants with a first Temporal server. Its worker is killed during operations, and the
server is deleted with all histories. A new worker starts with an empty server.
"""

import asyncio
import re
import shutil
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from config.settings import Settings
from core import names as ids
from core.errors.tenants import OperationLost
from core.keys.encryption_context import EncryptionContext, Purpose
from core.messages.tenants import OffboardRequest, StatusChange
from core.tenants.approvals import Action, ApprovalState, VoteChoice
from core.tenants.lifecycle import State
from core.tenants.policy import TenantPolicy
from core.tenants.roles import PersonRole
from database.services.repository import ServiceRequestRow
from devstack.servers.temporal import TemporalServer
from openkcm.contract.services import ServiceKind
from tests.activities.provisioning import REGION, Provisioning
from tests.activities.services.connecting import KEY, SERVICE, csr_of
from tests.concurrency import wait_until_async
from tests.database.builders import a_person
from tests.database.fixtures import Field
from tests.e2e.isolation.test_traces import payloads_in
from tests.ports import free_port, free_ports
from tests.worker.test_process import Process, callback, process_settings, start
from tests.workflows.entities import a_rotation
from vault.auth.client import TokenSession, VaultSession
from worker import wiring
from worker.bootstrap import declare_schedules
from workflows.client.workflow_client import WorkflowClient

# Fixtures that pytest finds here by their names.
__all__ = ["callback", "process_settings", "start"]

pytestmark = pytest.mark.full

_LOCKS_AT_ONCE = 4
_REQUESTS_AT_ONCE = 16
_KEYS_PER_SECOND = 0.001
"""So slow that no rotation ends before the worker is killed."""


class Kind(StrEnum):
    """The state of a tenant when the histories are lost."""

    REQUESTED = "requested"
    PROVISIONING = "provisioning"
    FAILED = "failed"
    ACTIVE = "active"
    CONNECTED = "connected"
    SUSPENDED = "suspended"
    LOCKED = "locked"
    ROTATING = "rotating"
    APPROVED = "approved"
    """Its offboarding is approved and waits for a running rotation."""
    LEAVING = "leaving"
    DESTROYING = "destroying"


_NUMBERS = {
    Kind.REQUESTED: 4,
    Kind.PROVISIONING: 4,
    Kind.FAILED: 16,
    Kind.ACTIVE: 44,
    Kind.CONNECTED: 40,
    Kind.SUSPENDED: 24,
    Kind.LOCKED: 20,
    Kind.ROTATING: 20,
    Kind.APPROVED: 4,
    Kind.LEAVING: 16,
    Kind.DESTROYING: 8,
}
_LATE = {Kind.REQUESTED, Kind.PROVISIONING}
"""Enabled when the other tenants are complete."""
_CONNECTED = {Kind.CONNECTED, Kind.SUSPENDED, Kind.ROTATING, Kind.APPROVED, Kind.LEAVING, Kind.DESTROYING}
_LOCKABLE = {Kind.ACTIVE, Kind.CONNECTED, Kind.SUSPENDED, Kind.LOCKED, Kind.ROTATING}
_KEPT = set(Kind) - _LATE - {Kind.DESTROYING}
"""Their keys and certificates must be the same afterwards."""
_ENDS = {
    Kind.REQUESTED: State.ACTIVE,
    Kind.PROVISIONING: State.ACTIVE,
    Kind.FAILED: State.FAILED,
    Kind.APPROVED: State.LEAVING,
    Kind.LEAVING: State.LEAVING,
    Kind.DESTROYING: State.OFFBOARDED,
}
"""The states of tenants that cannot be locked, after the recovery."""


class Tenants:
    """The tenants by their kinds, and what PostgreSQL and the key server store for them."""

    def __init__(self, tenants: Sequence[tuple[Kind, Provisioning]], vault: VaultSession) -> None:
        self._tenants, self._vault = tenants, vault

    def of(self, *kinds: Kind) -> list[Provisioning]:
        return [tenant for kind, tenant in self._tenants if kind in kinds]

    def stored(self, *kinds: Kind) -> dict[str, dict[str, object]]:
        """Return what a recovery must neither disable, destroy nor create again."""
        authorities = self.authorities()
        return {
            tenant.tenant_id: _rows(tenant)
            | {"key server": self.keys(tenant), "authority certificates": authorities[tenant.tenant_id]}
            for tenant in self.of(*kinds)
        }

    def grace_periods(self) -> dict[str, object]:
        return {tenant.tenant_id: tenant.read(lambda tx: tx.leaving.get()) for tenant in self.of(Kind.LEAVING)}

    def keys(self, tenant: Provisioning) -> dict[str, Any]:
        """Return the key server's record of each key of a tenant."""
        names = (name(tenant.tenant_id) for name in (ids.l2_key, ids.ca_key, ids.payload_key))
        return {name: self._vault.read(f"transit/keys/{name}") for name in names}

    def authorities(self) -> Mapping[str, set[tuple[str, int]]]:
        """Return serials and times of revocation of the CA certificates that the key server issued, by tenant."""
        found = defaultdict[str, set[tuple[str, int]]](set)
        for serial in self._vault.list("pki/certs"):
            answer = self._vault.read(f"pki/cert/{serial}") or {}
            subject = x509.load_pem_x509_certificate(answer["certificate"].encode()).subject.rfc4514_string()
            if (tenant_id := re.search(r"lost-\d+-corp", subject)) is not None:
                found[tenant_id[0]].add((serial, answer["revocation_time"]))
        return found


def _rows(tenant: Provisioning) -> dict[str, object]:
    return {
        "keys": tenant.read(lambda tx: [(key.name, key.version, key.oldest) for key in tx.keys.all()]),
        "authorities": tenant.read(lambda tx: [(one.serial, one.state) for one in tx.certificates.authorities()]),
        "route": tenant.read(lambda tx: tx.routes.get()),
        # The lost rotation discards the version that it prepared; nothing was encrypted with it.
        "service keys": tenant.rows(
            "select service, version, state, wrapped from okcm.service_key"
            " where state <> 'prepared' and wrapped is not null order by 1, 2"
        ),
        "certificates": tenant.rows("select serial, revoked_at from okcm.service_certificate order by 1"),
    }


def rotations(tenant: Provisioning) -> list[tuple[Any, ...]]:
    """Return state and problem of each rotation.

    The numbers are not compared: a step that reads the tenant's state again, after its response was lost under load,
    leaves a gap in them.
    """
    return tenant.rows("select state, problem from okcm.rotation order by number")


async def at_once(requests: Iterable[Awaitable[object]], most: int = _REQUESTS_AT_ONCE) -> None:
    slots = asyncio.Semaphore(most)

    async def within_slot(request: Awaitable[object]) -> None:
        async with slots:
            await request

    await asyncio.gather(*map(within_slot, requests))


class Product:
    """The product with the first Temporal server: it brings each tenant into the state of its kind."""

    def __init__(
        self,
        tenants: Tenants,
        server: TemporalServer,
        request_tenant: Callable[[str], Provisioning],
        field: Field,
        admin: TokenSession,
    ) -> None:
        self.tenants, self._server, self._request_tenant = tenants, server, request_tenant
        self._operator, self._dashboard, self._admin = field.open("operator"), field.open("dashboard"), admin
        self._unfinished: list[asyncio.Future[None]] = []

    @property
    def port(self) -> int:
        """The port of the first Temporal server."""
        return self._server.port

    async def make(self) -> None:
        """Bring the tenants into their states, all but those of `_LATE` and `DESTROYING`."""
        client = await Client.connect(self._server.address, data_converter=pydantic_data_converter)
        self.gateway = gateway = WorkflowClient(client, provisioning_slo_seconds=180)
        of = self.tenants.of
        for tenant in of(Kind.FAILED):
            # Provisioning rejects a key of another owner that has the name of the tenant key.
            self._admin.write(foreign_key(tenant), {"type": "aes256-gcm96", "exportable": True})
        await at_once(map(self.enable, of(*set(Kind) - _LATE)))
        for tenant in of(*set(Kind) - _LATE):
            await reaches(tenant, State.FAILED if tenant in of(Kind.FAILED) else State.ACTIVE)
        await at_once(map(self._connect, of(*_CONNECTED)))
        moves = {Kind.SUSPENDED: StatusChange.SUSPEND, Kind.LOCKED: StatusChange.LOCK}
        for kind, move in moves.items():
            await at_once(gateway.change_standing(tenant.tenant_id, move) for tenant in of(kind))
        await at_once(gateway.offboard(tenant.tenant_id, OffboardRequest()) for tenant in of(Kind.LEAVING))
        for tenant in of(Kind.ROTATING, Kind.APPROVED):
            self._start(gateway.rotate_keys(tenant.tenant_id, a_rotation()))
        for tenant in of(Kind.ROTATING, Kind.APPROVED):
            await wait_until_async(
                lambda t=tenant: t.read(lambda tx: tx.keys.get(ids.l2_key(t.tenant_id))).version == 2
            )
        for tenant in of(Kind.APPROVED):
            await self._approve_offboarding(tenant)

    async def enable(self, tenant: Provisioning) -> None:
        self._request_tenant(tenant.tenant_id)
        await self.gateway.enable(tenant.tenant_id, REGION, "event-1")
        tenant.read(lambda tx: tx.inbox.mark_started("event-1"))

    async def start_unfinished(self) -> None:
        """Start destructions and provisionings that are interrupted, and wait until each has begun."""
        for tenant in self.tenants.of(Kind.DESTROYING):
            self._start(self.gateway.offboard(tenant.tenant_id, OffboardRequest(now=True)))
        for tenant in self.tenants.of(Kind.DESTROYING):
            await wait_until_async(lambda t=tenant: t.read(lambda tx: tx.leaving.get()).destroying_at is not None)
        await at_once(map(self.enable, self.tenants.of(Kind.PROVISIONING)))
        for tenant in self.tenants.of(Kind.PROVISIONING):
            await wait_until_async(lambda t=tenant: t.tenant_row.state is not State.REQUESTED)

    async def lose(self) -> None:
        """Delete the server with all histories."""
        for request in self._unfinished:
            request.cancel()
        await asyncio.gather(*self._unfinished, return_exceptions=True)
        self._server.kill()
        shutil.rmtree(self._server.folder)

    def _start(self, request: Awaitable[None]) -> None:
        self._unfinished.append(asyncio.ensure_future(request))

    async def _connect(self, tenant: Provisioning) -> None:
        with self._operator.tenant_tx(tenant.tenant_id) as tx:
            tx.services.request(ServiceRequestRow("request-1", SERVICE, ServiceKind.MONGODB, csr_of(KEY)))
        await self.gateway.connect_service(tenant.tenant_id, REGION, SERVICE, "request-1")

    async def _approve_offboarding(self, tenant: Provisioning) -> None:
        tenant_id, approval_id = tenant.tenant_id, uuid.uuid4().hex
        ada, kai = a_person(tenant_id), a_person(tenant_id, "kai", PersonRole.KEY_ADMINISTRATOR)
        await self.gateway.change_policy(tenant_id, TenantPolicy(four_eyes=frozenset({Action.OFFBOARD})))
        with self._dashboard.tenant_tx(tenant_id) as tx:
            for person in (ada, kai):
                tx.sessions.begin(uuid.uuid4().hex * 2, person.subject, datetime.now(UTC) + timedelta(hours=1))
            tx.approvals.ask(approval_id, Action.OFFBOARD, {"now": False}, ada, "contract ended")
        await self.gateway.propose(tenant_id, approval_id)
        with self._dashboard.tenant_tx(tenant_id) as tx:
            assert tx.approvals.vote(approval_id, kai, VoteChoice.APPROVE)
        self._start(self.gateway.decide(tenant_id, approval_id))
        await wait_until_async(lambda: tenant.read(lambda tx: tx.approvals.unexecuted()) != [])


def foreign_key(tenant: Provisioning) -> str:
    return f"transit/keys/{ids.l2_key(tenant.tenant_id)}"


async def reaches(tenant: Provisioning, state: State) -> None:
    await wait_until_async(lambda: tenant.tenant_row.state is state, seconds=300)


class Recovered:
    """The product with the second Temporal server, and the requests of its users."""

    def __init__(self, tenants: Tenants, client: Client, admin: TokenSession) -> None:
        self.tenants, self._client, self._admin = tenants, client, admin
        self.gateway = WorkflowClient(client, provisioning_slo_seconds=180)

    async def lock_all(self) -> list[float]:
        """Lock every tenant that can be locked; return the seconds from each request to its result, sorted."""
        took = []

        async def lock(tenant: Provisioning) -> None:
            began = time.monotonic()
            await self.gateway.change_standing(tenant.tenant_id, StatusChange.LOCK)
            took.append(time.monotonic() - began)

        await at_once(map(lock, self.tenants.of(*_LOCKABLE)), _LOCKS_AT_ONCE)
        return sorted(took)

    def required(self) -> Counter[str]:
        """Return the workflows that the rows require: one of each."""
        of = self.tenants.of
        return Counter(
            [
                *(ids.tenant_workflow(one.tenant_id) for one in of(*set(Kind) - {Kind.DESTROYING})),
                *(ids.offboard_workflow(one.tenant_id) for one in of(Kind.LEAVING, Kind.APPROVED)),
                *(ids.service_workflow(one.tenant_id, SERVICE) for one in of(*_CONNECTED - {Kind.DESTROYING})),
            ]
        )

    async def running(self) -> Counter[str]:
        query = "ExecutionStatus = 'Running' and WorkflowId STARTS_WITH 'tenant/lost-'"
        return Counter([run.id async for run in self._client.list_workflows(query)])

    async def payload_keys(self, tenant: Provisioning) -> set[str]:
        """Return the keys that encrypt the payloads of a tenant's workflow."""
        history = await self._client.get_workflow_handle(ids.tenant_workflow(tenant.tenant_id)).fetch_history()
        payloads = [payload for event in history.events for payload in payloads_in(event)]
        return {payload.metadata["key"].decode() for payload in payloads if "key" in payload.metadata}

    async def assert_operable(self) -> None:
        """Run an operation of each kind on each tenant."""
        of = self.tenants.of
        await at_once(map(self._unlock, of(*_LOCKABLE)))
        for tenant in of(*_LOCKABLE):
            assert tenant.tenant_row.state is (State.SUSPENDED if tenant in of(Kind.SUSPENDED) else State.ACTIVE)
            assert_key_works(tenant)
        await at_once(self.gateway.rotate_keys(one.tenant_id, a_rotation()) for one in of(Kind.ROTATING))
        await at_once(self.gateway.renew_service(one.tenant_id, REGION, SERVICE) for one in of(Kind.CONNECTED))
        for tenant in of(Kind.CONNECTED):
            assert tenant.read(lambda tx: tx.services.generation(SERVICE)) == 2
        await at_once(self.gateway.restore(one.tenant_id) for one in of(Kind.LEAVING, Kind.APPROVED))
        for tenant in of(Kind.LEAVING, Kind.APPROVED):
            assert tenant.tenant_row.state is State.ACTIVE
            assert_key_works(tenant)
        for tenant in of(Kind.FAILED):
            self._admin.write(f"{foreign_key(tenant)}/config", {"deletion_allowed": True})
            self._admin.delete(foreign_key(tenant))
        await at_once(self.gateway.retry(one.tenant_id) for one in of(Kind.FAILED))
        for tenant in of(Kind.FAILED):
            await reaches(tenant, State.ACTIVE)
            assert_key_works(tenant)

    async def _unlock(self, tenant: Provisioning) -> None:
        await self.gateway.change_standing(tenant.tenant_id, StatusChange.UNLOCK)


def assert_key_works(tenant: Provisioning) -> None:
    context = EncryptionContext(tenant.tenant_id, ids.l2_key(tenant.tenant_id), "", Purpose.VERIFY, "check")
    assert tenant.tenant_keys.decrypt(context, tenant.tenant_keys.encrypt(context, b"text")) == b"text"


@pytest.fixture
def tenants(parts: wiring.WorkerDependencies) -> Tenants:
    kinds = Counter(_NUMBERS).elements()
    return Tenants(
        [(kind, Provisioning(parts, f"lost-{number}-corp")) for number, kind in enumerate(kinds)], parts.vault
    )


@pytest.fixture
def recovered(tenants: Tenants, temporal_client: Client, vault_admin: TokenSession) -> Recovered:
    return Recovered(tenants, temporal_client, vault_admin)


@pytest.fixture
def product(tenants, request_tenant, field, vault_admin, tmp_path: Path) -> Iterator[Product]:
    server = TemporalServer(tmp_path / "lost-temporal", *free_ports(3), search_attributes={})
    server.niceness = 0
    server.prepare()
    server.start()
    server.wait_ready(90)
    yield Product(tenants, server, request_tenant, field, vault_admin)
    server.stop()


@pytest.fixture
async def paused_rotations(temporal_client: Client) -> AsyncIterator[None]:
    """Pause the hourly rotation: it would run the failed rotations again, and manual ones would be rejected then."""
    await declare_schedules(temporal_client)
    schedule = temporal_client.get_schedule_handle("rotations")
    await schedule.pause()
    yield
    await schedule.unpause()


async def lose_all_histories(product: Product, start: Callable[[Settings], Process], settings: Settings) -> None:
    """Run the product with the first server, kill its worker during operations, and delete the server."""
    ports = {"temporal_port": product.port, "worker_metrics_port": free_port()}
    worker = start(settings.model_copy(update=ports | {"rewrap_per_second": _KEYS_PER_SECOND}))
    worker.wait_until(lambda: "worker ready" in worker.log)
    await product.make()
    await product.start_unfinished()
    worker.process.kill()
    worker.process.wait()
    tenants = product.tenants
    for tenant in tenants.of(Kind.REQUESTED):
        await product.enable(tenant)
    await product.lose()
    interrupted = {
        Kind.REQUESTED: State.REQUESTED,
        Kind.PROVISIONING: State.PROVISIONING,
        Kind.DESTROYING: State.LEAVING,
    }
    for kind, state in interrupted.items():
        assert state in {tenant.tenant_row.state for tenant in tenants.of(kind)}, kind


@pytest.mark.usefixtures("paused_rotations")
async def test_every_tenant_is_operable_after_the_loss_of_all_histories(
    start, process_settings, product, recovered, record_property
) -> None:
    began, tenants = time.monotonic(), recovered.tenants
    await lose_all_histories(product, start, process_settings)
    record_property("seconds until all tenants are made and lost", time.monotonic() - began)
    before, grace_periods = tenants.stored(*_KEPT), tenants.grace_periods()
    worker = start(process_settings)
    worker.wait_until(lambda: "worker ready" in worker.log)
    ready = time.monotonic()
    seconds = await recovered.lock_all()
    record_property("seconds until all are locked", time.monotonic() - ready)
    record_property("median lock", seconds[len(seconds) // 2])
    record_property("longest lock", seconds[-1])
    assert {tenant.tenant_row.state for tenant in tenants.of(*_LOCKABLE)} == {State.LOCKED}

    # Provisioning, destruction and what was approved continue; the others keep their state.
    for kind, state in _ENDS.items():
        for tenant in tenants.of(kind):
            await reaches(tenant, state)
    lost = [("failed", OperationLost.code)]
    for tenant in tenants.of(Kind.ROTATING, Kind.APPROVED):
        with suppress(TimeoutError):  # the assertion then shows the rotations instead
            await wait_until_async(lambda t=tenant: rotations(t) == lost)
        assert rotations(tenant) == lost, tenant.tenant_id
    assert tenants.stored(*_KEPT) == before
    assert tenants.grace_periods() == grace_periods
    required = recovered.required()

    async def complete() -> bool:
        return await recovered.running() == required

    await wait_until_async(complete)
    recovery = time.monotonic() - ready
    record_property("seconds until all are recovered", recovery)
    # Compared with each other, because both grow with the load of the machine.
    assert seconds[-1] < recovery / 3, "a lock waited for the recovery of other tenants"
    assert_made_once(tenants)
    for tenant in tenants.of(Kind.DESTROYING):
        assert all(key is None for key in tenants.keys(tenant).values())
        assert tenant.read(lambda tx: tx.leaving.certificate()) is not None
    for tenant in tenants.of(Kind.APPROVED):
        [approval] = tenant.read(lambda tx: tx.approvals.latest())
        assert approval.state is ApprovalState.DONE
    for tenant in tenants.of(Kind.ACTIVE):
        assert ids.payload_key(tenant.tenant_id) in await recovered.payload_keys(tenant)
    await recovered.assert_operable()
    for tenant in tenants.of(*Kind):
        tenant.assert_audited_once()


def assert_made_once(tenants: Tenants) -> None:
    """Assert that each interrupted provisioning made one version of each key and one CA."""
    authorities = tenants.authorities()
    for tenant in tenants.of(*_LATE):
        assert {(key["latest_version"], key["soft_deleted"]) for key in tenants.keys(tenant).values()} == {(1, False)}
        assert [revoked for _, revoked in authorities[tenant.tenant_id]] == [0]
