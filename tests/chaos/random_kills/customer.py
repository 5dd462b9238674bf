"""A customer whose random requests must take effect while processes are killed, and the state that they must reach."""

import asyncio
import random
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import httpx2
from cryptography.hazmat.primitives.asymmetric import ec

from config import secrets
from config.credential_encryption import encrypt_credentials
from config.secrets import Role
from core.errors.tenants import TenantUnknown
from core.keys.root_keys import RootKeyMode
from core.keys.rotation import RotationScope
from core.messages.keys import RotateRequest
from core.messages.tenants import OffboardRequest, StatusChange
from core.tenants.lifecycle import State
from database.root_keys import RootKeyRequestRow
from database.services.repository import ServiceRequestRow
from openkcm.contract.services import ServiceKind
from openkcm.errors import OpenKcmError
from tests.activities.services.connecting import csr_of
from tests.chaos.root_keys.changing import Customers
from tests.e2e.stack import REGION, Stack
from workflows.client.updates import UpdateRejected
from workflows.client.workflow_client import WorkflowClient

_PAUSE_SECONDS = 0.3
_HOLDERS = ("platform", "aws", "second")
_OPERATIONS = ("lock", "suspend", "rotate", "change_root_key", "connect", "disconnect", "restore")
_COMPROMISED_SHARE, _OFFBOARDED_SHARE = 0.3, 0.4


@dataclass
class Customer:
    """One tenant. `rejections` counts the answers after which a request was repeated, by code."""

    stack: Stack
    gateway: WorkflowClient
    holders: Customers
    tenant_id: str
    choices: random.Random
    rejections: Counter[str]
    operations: Counter[str] = field(default_factory=Counter)
    state: State = State.REQUESTED
    holder: str = "platform"
    rotations: int = 0
    services: dict[str, bool] = field(default_factory=dict)
    """Whether each service is connected."""

    async def use(self, operations: int) -> None:
        """Enable the tenant, request random operations, and leave, or remain in the state of the last operation."""
        await self._enable()
        await self._connect()
        for name in self.choices.choices(_OPERATIONS, k=operations):
            await getattr(self, f"_{name}")()
            self.operations[name] += 1
        if self.choices.random() < _OFFBOARDED_SHARE:
            await self._offboard()
        else:
            await self._stay(self.choices.choice((State.ACTIVE, State.LOCKED, State.SUSPENDED)))

    # ── operations ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _enable(self) -> None:
        message = f"msg_{self.tenant_id}"

        async def click() -> None:
            answer = await asyncio.to_thread(
                self.stack.click, message, customer=self.tenant_id, organization="Chaos Corporation"
            )
            if answer.status_code != 202:
                raise _NotAccepted(str(answer.status_code))

        await self._until_done(click)
        self.operations["enable"] += 1
        await self._reach(State.ACTIVE)

    async def _lock(self) -> None:
        await self._change(StatusChange.LOCK, State.LOCKED)
        await self._change(StatusChange.UNLOCK, State.ACTIVE)

    async def _suspend(self) -> None:
        await self._change(StatusChange.SUSPEND, State.SUSPENDED)
        await self._change(StatusChange.RESUME, State.ACTIVE)

    async def _stay(self, state: State) -> None:
        moves = {State.LOCKED: StatusChange.LOCK, State.SUSPENDED: StatusChange.SUSPEND}
        if state in moves:
            await self._change(moves[state], state)

    async def _change(self, move: StatusChange, state: State) -> None:
        await self._until_done(
            lambda: self.gateway.change_standing(self.tenant_id, move), reached=lambda: self._shown() is state
        )
        await self._reach(state)

    async def _rotate(self) -> None:
        request_id = uuid.uuid4().hex
        compromised = self.choices.random() < _COMPROMISED_SHARE

        async def rotate() -> None:
            nonlocal request_id
            request = RotateRequest(
                request_id=request_id, services=RotationScope.ALL, tenant_key=True, compromised=compromised
            )
            try:
                await self.gateway.rotate_keys(self.tenant_id, request)
            except UpdateRejected:
                request_id = uuid.uuid4().hex  # Temporal answers a repeated id with the former result
                raise

        await self._until_done(rotate)
        self.rotations += 1

    async def _change_root_key(self) -> None:
        holder = self.choices.choice([name for name in _HOLDERS if name != self.holder])
        place, credentials = await asyncio.to_thread(self.holders.holds, holder)

        async def change() -> None:
            request_id = uuid.uuid4().hex
            public = self.stack.secret(secrets.INTAKE_PUBLIC_KEY)
            encrypted = credentials and encrypt_credentials(public, self.tenant_id, request_id, credentials)
            row = RootKeyRequestRow(request_id, place, encrypted)

            def store() -> None:
                with self.stack.database(Role.OPERATOR).tenant_tx(self.tenant_id) as tx:
                    tx.root_keys.request(row)

            await asyncio.to_thread(store)
            await self.gateway.change_root_key(self.tenant_id, request_id)

        await self._until_done(change, reached=lambda: self._root_key_mode() is place.provider)
        self.holder = holder

    async def _connect(self) -> None:
        service = f"service-{len(self.services) + 1}"
        request = ServiceRequestRow(
            uuid.uuid4().hex, service, ServiceKind.MICROSERVICE, csr_of(ec.generate_private_key(ec.SECP256R1()))
        )

        async def connect() -> None:
            def store() -> None:
                with self.stack.database(Role.OPERATOR).tenant_tx(self.tenant_id) as tx:
                    tx.services.request(request)

            await asyncio.to_thread(store)
            await self.gateway.connect_service(self.tenant_id, REGION, service, request.request_id)

        await self._until_done(connect)
        self.services[service] = True

    async def _disconnect(self) -> None:
        connected = [name for name, is_connected in self.services.items() if is_connected]
        if len(connected) < 2:
            return
        service = self.choices.choice(connected)
        await self._until_done(lambda: self.gateway.disconnect_service(self.tenant_id, REGION, service))
        self.services[service] = False

    async def _restore(self) -> None:
        await self._until_done(
            lambda: self.gateway.offboard(self.tenant_id, OffboardRequest(grace_seconds=86_400)),
            reached=lambda: self._shown() is State.LEAVING,
        )
        await self._reach(State.LEAVING)
        await self._until_done(
            lambda: self.gateway.restore(self.tenant_id), reached=lambda: self._shown() is State.ACTIVE
        )
        await self._reach(State.ACTIVE)

    async def _offboard(self) -> None:
        left = {State.LEAVING, State.OFFBOARDED}
        await self._until_done(
            lambda: self.gateway.offboard(self.tenant_id, OffboardRequest(now=True)),
            reached=lambda: self._shown() in left,
        )
        self.operations["offboard"] += 1
        await self._reach(State.OFFBOARDED)

    # ── waiting ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _until_done(
        self, request: Callable[[], Awaitable[object]], reached: Callable[[], bool] = lambda: False
    ) -> None:
        """Repeat a request as a client does: after an error, unless its effect shows that it was complete."""
        while True:
            try:
                await request()
            except (OpenKcmError, _NotAccepted, httpx2.TransportError) as failed:
                code = failed.code if isinstance(failed, OpenKcmError) else type(failed).__name__
                self.rejections[code] += 1
                if isinstance(failed, (UpdateRejected, TenantUnknown)) and await self._ask(reached):
                    return
            else:
                return
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _reach(self, state: State) -> None:
        """Wait without a limit, because the kills go on; the test limits the time after the last one."""
        self.state = state
        while await self.shown_state() is not state:  # noqa: ASYNC110 - another process changes it
            await asyncio.sleep(_PAUSE_SECONDS)

    async def shown_state(self) -> object:
        """Return the stored state of the tenant."""
        return await self._ask(self._shown)

    async def _ask(self, question: Callable[[], object]) -> object:
        """Ask the database until it answers."""
        while True:
            try:
                return await asyncio.to_thread(question)
            except OpenKcmError:
                await asyncio.sleep(_PAUSE_SECONDS)

    def _shown(self) -> State | None:
        with self.stack.database().tenant_tx(self.tenant_id) as tx:
            row = tx.tenants.get()
        return None if row is None else row.state

    def _root_key_mode(self) -> RootKeyMode:
        with self.stack.database().tenant_tx(self.tenant_id) as tx:
            current = tx.root_keys.current()
        return RootKeyMode.PLATFORM if current is None else current.place.provider


class _NotAccepted(Exception):
    """The marketplace endpoint asked for a repetition."""
