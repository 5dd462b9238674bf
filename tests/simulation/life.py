"""The lifetime of one tenant on real servers: the work of its services and of the platform's schedules over time.

For each schedule the test queries the due work, and runs the schedule's workflow only if there is any.
"""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from temporalio.client import Client, WorkflowHandle

from config import secrets
from config.credential_encryption import encrypt_credentials
from config.secrets import Role, read_secret
from core import names as ids
from core.errors.compliance import CanaryMissing
from core.keys.root_keys import Credentials, Place, RootKeyMode
from core.keys.rotation import KeyState
from core.messages.services import ExpiryResult
from core.tenants.lifecycle import State
from database.root_keys import RootKeyRequestRow
from database.services.repository import ServiceCertificateRow, ServiceRequestRow
from openkcm.contract.audit_events import AuditName, head_message, verify_chain
from openkcm.contract.services import ServiceKind
from openkcm.verification.public_keys import PublicKeys
from tests.activities.provisioning import REGION, Provisioning
from tests.activities.services.connecting import KEY, csr_of
from tests.database.builders import an_event
from tests.kms.opening import Estate, Opener, decrypt, encrypt
from tests.simulation.clocks import MovedClock
from tests.simulation.skipping import describe, skip_all_timers, skip_to_next_timer
from worker import wiring
from worker.bootstrap import ensure_canary, record_audit_keys
from worker.task_queues import run_workers
from workflows.certificates import RotateDueCertificateAuthorities
from workflows.client.workflow_client import WorkflowClient
from workflows.rotation import RotateDueKeys

DAY = timedelta(days=1)
STEP = 2
"""Days between two checks for due work: the time until the renewal of a certificate."""
CRL_DAYS = 10
"""Days between two runs of the schedules for CRLs and for expired certificates."""
TENANT = "long-lived-corp"
SERVICE = "orders-db"

_LONG_DAY = DAY + timedelta(seconds=1)
"""The length of a simulated day: work that is due after n days is due when n such days are over."""
_RENEWAL_MARGIN = timedelta(hours=24)
"""The remaining validity of a certificate of 72 hours when its workflow renews it."""
_TIMEOUT_SECONDS = 300
_BATCH = 100


@dataclass(frozen=True)
class RecordedEvent:
    """An audit event with the day of the tenant's lifetime."""

    day: int
    name: AuditName
    outcome: str


class TenantLifetime:
    """`start` creates the tenant, `advance_to` moves the time; requests of users go through `gateway`."""

    def __init__(self, parts: wiring.WorkerDependencies, clock: MovedClock, client: Client, opener: Opener) -> None:
        self.clock, self.client, self.gateway = clock, client, WorkflowClient(client, 180)
        self.day, self.began = 0, clock.now()
        self._parts, self._database, self._opener = parts, parts.database, opener
        self._tenant = Provisioning(parts, TENANT)
        self._operator = wiring.open_database(parts.settings, Role.OPERATOR)
        self._samples: list[tuple[int, bytes, bytes]] = []

    @staticmethod
    @asynccontextmanager
    async def start(
        parts: wiring.WorkerDependencies, clock: MovedClock, address: str, opener: Opener
    ) -> AsyncIterator["TenantLifetime"]:
        """Start the worker, the canary and a tenant with one service; yields when the tenant is provisioned."""
        client = await Client.connect(address, data_converter=parts.converter)
        lifetime = TenantLifetime(parts, clock, client, opener)
        with closing(lifetime._operator):
            async with run_workers(wiring.workers(client, parts), parts.stopping):
                await lifetime._provision()
                yield lifetime

    async def _provision(self) -> None:
        record_audit_keys(self._parts.signer, self._parts.queries)
        event = an_event(TENANT, region=REGION, timestamp=self.clock.now())
        with closing(wiring.open_database(self._parts.settings, Role.MARKETPLACE)) as marketplace:
            await self._create_canary(marketplace)
            with marketplace.tenant_tx(TENANT) as tx:
                tx.tenants.request(event)
                tx.inbox.accept(event)
                tx.inbox.mark_started(event.event_id)
        await self.gateway.enable(TENANT, REGION, event.event_id)
        await wait_until(lambda: self.state is State.ACTIVE)
        with self._operator.tenant_tx(TENANT) as tx:
            tx.services.request(ServiceRequestRow("request-1", SERVICE, ServiceKind.MONGODB, csr_of(KEY)))
        await self.gateway.connect_service(TENANT, REGION, SERVICE, "request-1")
        for tenant_id in (TENANT, ids.CANARY_TENANT_ID):
            await self._wait_until_idle(tenant_id)
            await skip_all_timers(self.client, self._entity_of(tenant_id))
        self._run_crl_schedules()

    async def _create_canary(self, marketplace: Any) -> None:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            while True:
                try:
                    return await ensure_canary(marketplace, self.gateway, REGION)
                except CanaryMissing:
                    await asyncio.sleep(0.1)

    # ── the passage of time ──────────────────────────────────────────────────────────────────────────────────────

    async def advance_to(self, day: int) -> None:
        """Advance to the end of a day, which must be even, because the schedules run on even days only."""
        while self.day < day:
            self.day += STEP
            self.clock.move_to(self.began + self.day * _LONG_DAY)
            newest = self.leaf
            if newest.not_after - _RENEWAL_MARGIN <= self.clock.now():
                await self._renew(newest)
            await self._run_due_rotations()
            await self._run_due_ca_rotations()
            if self.day % CRL_DAYS == 0:
                self._run_crl_schedules()

    async def _renew(self, newest: ServiceCertificateRow) -> None:
        """Skip to the timer of the service's workflow and wait for the renewal."""
        await skip_to_next_timer(self.client, self.service)
        await self._wait_for_renewal(newest)

    async def _wait_for_renewal(self, newest: ServiceCertificateRow) -> None:
        await wait_until(lambda: self.leaf.generation > newest.generation)

    async def _run_due_rotations(self) -> None:
        """Run the work of the hourly schedule "rotations" until nothing is due."""
        while due := self._parts.queries.due_rotations(_BATCH):
            await self.client.execute_workflow(
                RotateDueKeys.run, id="platform/rotations", task_queue=ids.PLATFORM_QUEUE
            )
            for tenant_id in due:
                await self._wait_until_idle(tenant_id)

    async def _run_due_ca_rotations(self) -> None:
        """Run the work of the schedule "ca-rotation" and wait for the services, which then renew their certificates."""
        while self._parts.queries.outlived_authorities(_BATCH) or self._parts.queries.due_authorities(_BATCH):
            due, newest = self._parts.queries.due_authorities(_BATCH), self.leaf
            await self.client.execute_workflow(
                RotateDueCertificateAuthorities.run, id="platform/ca-rotation", task_queue=ids.PLATFORM_QUEUE
            )
            for tenant_id in due:
                await self._wait_until_idle(tenant_id)
            if TENANT in due:
                await self._wait_for_renewal(newest)  # takes about a second, so no timer is skipped

    def _run_crl_schedules(self) -> None:
        """Run the work of the schedules "revocation-lists" and "expiry"; no certificate may be unrenewed."""
        self._tenant.run_platform("publish-revocation-lists")
        assert self._tenant.run_platform("check-expiry") == ExpiryResult(services=())

    async def _wait_until_idle(self, tenant_id: str) -> None:
        """Wait until a tenant's workflow is idle."""
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            while not (await describe(self._entity_of(tenant_id))).idle:  # noqa: ASYNC110 - polls another process
                await asyncio.sleep(0.02)

    async def check_decryption(self) -> None:
        """Encrypt another sample and assert that all samples decrypt."""
        await self.encrypt_sample()
        await self.assert_samples_decrypt()

    # ── requests of users ────────────────────────────────────────────────────────────────────────────────────────

    async def change_root_key(self, place: Place, credentials: Credentials | None) -> None:
        request_id = uuid.uuid4().hex
        public_key = read_secret(self._parts.settings.secrets, secrets.INTAKE_PUBLIC_KEY)
        encrypted = credentials and encrypt_credentials(public_key, TENANT, request_id, credentials)
        with self._operator.tenant_tx(TENANT) as tx:
            tx.root_keys.request(RootKeyRequestRow(request_id, place, encrypted))
        await self.gateway.change_root_key(TENANT, request_id)

    async def encrypt_sample(self) -> None:
        """Encrypt a sample with the active version of the service key."""
        keys = await self._unwrapped_keys()
        version = max(version for _, version in keys)
        text = f"written on day {self.day}".encode()
        self._samples.append((version, text, encrypt(keys[SERVICE, version], text)))

    async def assert_samples_decrypt(self) -> None:
        """Assert that all samples decrypt with keys that are unwrapped as in the crypto service."""
        keys = await self._unwrapped_keys()
        for version, text, ciphertext in self._samples:
            assert decrypt(keys[SERVICE, version], ciphertext) == text

    async def _unwrapped_keys(self) -> Estate:
        return await asyncio.to_thread(self._opener.open_all, TENANT, REGION)

    # ── recorded state ───────────────────────────────────────────────────────────────────────────────────────────

    @property
    def entity(self) -> WorkflowHandle[Any, Any]:
        return self._entity_of(TENANT)

    def _entity_of(self, tenant_id: str) -> WorkflowHandle[Any, Any]:
        return self.client.get_workflow_handle(ids.tenant_workflow(tenant_id))

    @property
    def service(self) -> WorkflowHandle[Any, Any]:
        return self.client.get_workflow_handle(ids.service_workflow(TENANT, SERVICE))

    @property
    def state(self) -> State:
        return self._tenant.tenant_row.state

    @property
    def root_key_mode(self) -> RootKeyMode:
        current = self._tenant.read(lambda tx: tx.root_keys.current())
        return RootKeyMode.PLATFORM if current is None else current.mode

    @property
    def versions(self) -> dict[int, KeyState]:
        """Return the versions of the service key."""
        return {key.version: key.state for key in self._tenant.read(lambda tx: tx.services.keys())}

    @property
    def l2(self) -> tuple[int, int]:
        """Return the newest and the oldest version of the tenant key that decrypts."""
        key = self._tenant.get(lambda tx: tx.keys.get(ids.l2_key(TENANT)))
        return key.version, key.oldest

    async def failed_workflows(self) -> list[str]:
        """Return the ids of the workflows that failed or are stuck."""
        ended = "ExecutionStatus in ('Failed', 'TimedOut', 'Terminated', 'Canceled')"
        query = f"{ended} or TemporalReportedProblems is not null"
        return [run.id async for run in self.client.list_workflows(query)]

    @property
    def leaf(self) -> ServiceCertificateRow:
        return self._tenant.get(lambda tx: tx.services.leaf(SERVICE))

    def verified_events(self) -> Sequence[RecordedEvent]:
        """Verify the tenant's audit stream up to its checkpoint and return its events."""
        self._tenant.run_platform("sign-audit-checkpoints")
        with self._database.tenant_tx(TENANT) as tx:
            records = list(tx.audit.records())
            while more := tx.audit.records(records[-1].seq):
                records += more
            signed = tx.audit.signed_heads()[-1]
        last = verify_chain(records)
        assert last is not None
        assert (last.seq, last.chain_hash) == (signed.seq, signed.chain_hash)
        keys = PublicKeys(self._parts.queries.audit_keys())
        assert keys.check(signed.key, head_message(TENANT, last.seq, last.chain_hash), signed.signature).problem is None
        return [self._event_of(json.loads(stored.record)) for stored in records]

    def _event_of(self, record: dict[str, Any]) -> RecordedEvent:
        day = (datetime.fromisoformat(record["time"]) - self.began) // DAY
        return RecordedEvent(day, AuditName(record["name"]), record["outcome"])

    async def histories(self, handle: WorkflowHandle[Any, Any]) -> list[int]:
        """Return the number of events of each run of a workflow, the current run first."""
        runs = self.client.list_workflows(f"WorkflowId = '{handle.id}' and ExecutionStatus = 'ContinuedAsNew'")
        return [(await describe(handle)).events, *[run.history_length or 0 async for run in runs]]


async def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, evaluated in a thread so that the worker's event loop is not blocked."""
    async with asyncio.timeout(_TIMEOUT_SECONDS):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110 - polls another process
            await asyncio.sleep(0.03)
