"""One tenant's life on real servers: what its services and the platform's schedules do by the clock.

For each schedule the test asks what is due, and runs the schedule's workflow only where something is.
"""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
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
from database.platform.scheduled import PlatformQueries
from database.root_keys import RootKeyRequestRow
from database.services.repository import ServiceCertificateRow, ServiceRequestRow
from openkcm.contract.audit_events import AuditName, head_message, verify_chain
from openkcm.contract.services import ServiceKind
from openkcm.verification.public_keys import PublicKeys
from tests.activities.connecting import KEY, csr_of
from tests.activities.provisioning import REGION, Provisioning
from tests.database.builders import an_event
from tests.kms.opening import Estate, Opener, decrypt, encrypt
from tests.lives.clocks import PlayedClock
from tests.lives.skipping import describe, skip_its_pauses, skip_to_its_timer
from worker import wiring
from worker.bootstrap import PLATFORM_QUEUE, ensure_canary, record_audit_keys
from workflows.certificates import RotateDueCertificateAuthorities
from workflows.client.workflow_client import WorkflowClient
from workflows.rotation import RotateDueKeys

DAY = timedelta(days=1)
STEP = 2
"""Days between two looks at what is due: as long as a certificate lasts before it is renewed."""
LISTS = 10
"""Days between two looks at revocation lists and at what was not renewed."""
TENANT = "long-lived-corp"
SERVICE = "orders-db"

_LONG_DAY = DAY + timedelta(seconds=1)
"""Of this life: what is to come after so many days is due when they are over."""
_UNRENEWED = timedelta(hours=24)
"""What is left of a certificate of 72 hours when its workflow renews it."""
_PATIENCE_SECONDS = 300
_BATCH = 100


@dataclass(frozen=True)
class Audited:
    """A record by the day of the tenant's life on which it was made."""

    day: int
    name: AuditName
    outcome: str


class Life:
    """`Life.of` begins one, `until` lives it; what people ask for in between goes through `gateway`."""

    def __init__(self, parts: wiring.WorkerDependencies, clock: PlayedClock, client: Client, opener: Opener) -> None:
        self.clock, self.client, self.gateway = clock, client, WorkflowClient(client, 180)
        self.day, self.born = 0, clock.now()
        self._parts, self._database, self._opener = parts, parts.database, opener
        self._tenant = Provisioning(parts, TENANT)
        self._operator = wiring.open_database(parts.settings, Role.OPERATOR, clock.now)
        self._kept: list[tuple[int, bytes, bytes]] = []

    @staticmethod
    @asynccontextmanager
    async def of(
        parts: wiring.WorkerDependencies, clock: PlayedClock, address: str, opener: Opener
    ) -> AsyncIterator["Life"]:
        """Start the worker, the canary and a tenant with one service; the day of its birth is over when this yields."""
        client = await Client.connect(address, data_converter=parts.converter)
        async with AsyncExitStack() as stack:
            for worker in wiring.workers(client, parts):
                await stack.enter_async_context(worker)
            life = Life(parts, clock, client, opener)
            stack.callback(life._operator.close)
            await life._begin()
            yield life

    async def _begin(self) -> None:
        record_audit_keys(self._parts.signer, self._database)
        event = an_event(TENANT, region=REGION, timestamp=self.clock.now())
        with closing(wiring.open_database(self._parts.settings, Role.MARKETPLACE, self.clock.now)) as marketplace:
            await self._until_canary(marketplace)
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
            await self._rested(tenant_id)
            await skip_its_pauses(self.client, self._entity_of(tenant_id))
        self._look()

    async def _until_canary(self, marketplace: Any) -> None:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while True:
                try:
                    return await ensure_canary(marketplace, self.gateway, REGION)
                except CanaryMissing:
                    await asyncio.sleep(0.1)

    # ── what happens by the clock ────────────────────────────────────────────────────────────────────────────────

    async def until(self, day: int) -> None:
        """Live on to the end of a day; it is even, and the schedules are played on even days alone."""
        while self.day < day:
            self.day += STEP
            self.clock.reach(self.born + self.day * _LONG_DAY)
            newest = self.leaf
            if newest.not_after - _UNRENEWED <= self.clock.now():
                await self._renewed_after(newest)
            await self._rotate()
            await self._roll()
            if self.day % LISTS == 0:
                self._look()

    async def _renewed_after(self, newest: ServiceCertificateRow) -> None:
        """Have the service's workflow wait no longer, and wait for what it then does by itself."""
        await skip_to_its_timer(self.client, self.service)
        await self._issued_after(newest)

    async def _issued_after(self, newest: ServiceCertificateRow) -> None:
        await wait_until(lambda: self.leaf.generation > newest.generation)

    async def _rotate(self) -> None:
        """What the schedule "rotations" does, until nothing is due: it comes every hour."""
        while due := PlatformQueries(self._database).due_rotations(_BATCH):
            await self.client.execute_workflow(RotateDueKeys.run, id="platform/rotations", task_queue=PLATFORM_QUEUE)
            for tenant_id in due:
                await self._rested(tenant_id)

    async def _roll(self) -> None:
        """What the schedule "authorities" does, and then the services, which are told to come for certificates."""
        while PlatformQueries(self._database).outlived_authorities(_BATCH) or PlatformQueries(
            self._database
        ).due_authorities(_BATCH):
            due, newest = PlatformQueries(self._database).due_authorities(_BATCH), self.leaf
            await self.client.execute_workflow(
                RotateDueCertificateAuthorities.run, id="platform/authorities", task_queue=PLATFORM_QUEUE
            )
            for tenant_id in due:
                await self._rested(tenant_id)
            if TENANT in due:
                await self._issued_after(newest)  # a second later: nobody skips what may be over meanwhile

    def _look(self) -> None:
        """What the schedules "revocation-lists" and "expiry" do; there is never anything that was not renewed."""
        self._tenant.run_platform("publish-revocation-lists")
        assert self._tenant.run_platform("check-expiry") == ExpiryResult(services=())

    async def _rested(self, tenant_id: str) -> None:
        """Wait until a tenant's entity has nothing to do."""
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while not (await describe(self._entity_of(tenant_id))).rests:  # noqa: ASYNC110 - another process is watched
                await asyncio.sleep(0.02)

    async def milestone(self) -> None:
        """Encrypt something more; whatever was encrypted before opens."""
        await self.keep_a_text()
        await self.assert_texts_open()

    # ── what people do ───────────────────────────────────────────────────────────────────────────────────────────

    async def change_root_key(self, place: Place, credentials: Credentials | None) -> None:
        request_id = uuid.uuid4().hex
        public_key = read_secret(self._parts.settings.secrets, secrets.INTAKE_PUBLIC_KEY)
        sealed = credentials and encrypt_credentials(public_key, TENANT, request_id, credentials)
        with self._operator.tenant_tx(TENANT) as tx:
            tx.root_keys.request(RootKeyRequestRow(request_id, place, sealed))
        await self.gateway.change_root_key(TENANT, request_id)

    async def keep_a_text(self) -> None:
        """Encrypt something with the version that encrypts now."""
        estate = await self._opened()
        version = max(version for _, version in estate)
        text = f"written on day {self.day}".encode()
        self._kept.append((version, text, encrypt(estate[SERVICE, version], text)))

    async def assert_texts_open(self) -> None:
        """Whatever was ever encrypted opens, with keys opened as the crypto service opens them."""
        estate = await self._opened()
        for version, text, ciphertext in self._kept:
            assert decrypt(estate[SERVICE, version], ciphertext) == text

    async def _opened(self) -> Estate:
        return await asyncio.to_thread(self._opener.open_all, TENANT, REGION)

    # ── what is recorded ─────────────────────────────────────────────────────────────────────────────────────────

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
        held = self._tenant.read(lambda tx: tx.root_keys.current())
        return RootKeyMode.PLATFORM if held is None else held.mode

    @property
    def versions(self) -> dict[int, KeyState]:
        """Return the versions of the service key."""
        return {key.version: key.state for key in self._tenant.read(lambda tx: tx.services.keys())}

    @property
    def l2(self) -> tuple[int, int]:
        """Return the newest and the oldest version of the tenant key that decrypts."""
        key = self._tenant.get(lambda tx: tx.keys.get(ids.l2_key(TENANT)))
        return key.version, key.oldest

    async def failed(self) -> list[str]:
        """Return what ended otherwise than as it should have, or is stuck."""
        ended = "ExecutionStatus in ('Failed', 'TimedOut', 'Terminated', 'Canceled')"
        wrong = f"{ended} or TemporalReportedProblems is not null"
        return [run.id async for run in self.client.list_workflows(wrong)]

    @property
    def leaf(self) -> ServiceCertificateRow:
        return self._tenant.get(lambda tx: tx.services.leaf(SERVICE))

    def verified(self) -> Sequence[Audited]:
        """Return what is in the tenant's audit stream, which must be whole up to its signed head."""
        self._tenant.run_platform("sign-audit-heads")
        with self._database.tenant_tx(TENANT) as tx:
            records = list(tx.audit.records())
            while more := tx.audit.records(records[-1].seq):
                records += more
            signed = tx.audit.signed_heads()[-1]
        last = verify_chain(records)
        assert last is not None
        assert (last.seq, last.chain_hash) == (signed.seq, signed.chain_hash)
        keys = PublicKeys(PlatformQueries(self._database).audit_keys())
        assert keys.check(signed.key, head_message(TENANT, last.seq, last.chain_hash), signed.signature).problem is None
        return [self._audited(json.loads(stored.record)) for stored in records]

    def _audited(self, record: dict[str, Any]) -> Audited:
        day = (datetime.fromisoformat(record["time"]) - self.born) // DAY
        return Audited(day, AuditName(record["name"]), record["outcome"])

    async def histories(self, handle: WorkflowHandle[Any, Any]) -> list[int]:
        """Return how many events each run of a workflow has, the present one first."""
        runs = self.client.list_workflows(f"WorkflowId = '{handle.id}' and ExecutionStatus = 'ContinuedAsNew'")
        return [(await describe(handle)).events, *[run.history_length or 0 async for run in runs]]


async def wait_until(true: Callable[[], bool]) -> None:
    """Wait for something on record, asking beside the loop that the worker runs on."""
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while not await asyncio.to_thread(true):  # noqa: ASYNC110 - another process is watched
            await asyncio.sleep(0.03)
