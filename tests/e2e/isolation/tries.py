"""Attacks with everything that a tenant had: its certificates, cookies and rows, and the secrets of the servers.

Each kind of attack first runs against the active tenant, where it must succeed; only then is a later rejection
meaningful. The result of an attempt is `ok` or an error code; every other error is raised.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from itertools import cycle, islice
from typing import Any
from uuid import uuid4

import httpx2

from config.secrets import Role
from core import names as ids
from core.keys.rotation import RotationScope
from core.messages.keys import RotateRequest
from core.messages.tenants import OffboardRequest, StatusChange
from core.tenants.policy import TenantPolicy
from crypto_service.kmip.codec.enums import Operation
from crypto_service.kmip.codec.fields import octets, text
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from openkcm.errors import OpenKcmError
from openkcm.sdk.errors import ClientError
from tests.crypto_service.kmip.messages import batch_item
from tests.crypto_service.kmip.scene import creation, gcm
from tests.e2e.busy import BusyService
from tests.e2e.clients import OK, Program, data_key
from tests.e2e.isolation.attacker import InsiderAttacker
from tests.e2e.stack import REGION, Stack
from tests.e2e.wires import post
from vault.auth.client import VaultClient
from workflows.client.workflow_client import WorkflowClient

_THREADS = 6
NO_CONNECTION = "no connection"
Attempt = Callable[[], str]


@dataclass(frozen=True)
class AttackKind:
    """`tries` repeat for `times` attempts; `worked_before` states that all succeed while the tenant is active."""

    name: str
    times: int
    tries: Sequence[Attempt]
    worked_before: bool = True


def code_of(call: Callable[[], object]) -> str:
    try:
        call()
    except (OpenKcmError, ClientError) as refused:
        return refused.code
    return OK


@dataclass(frozen=True)
class RetainedAccess:
    """Everything that an attacker retained of a tenant before its offboarding."""

    stack: Stack
    services: Sequence[BusyService]
    attacker: InsiderAttacker
    cookies: dict[str, str] = field(repr=False)
    stale_at: datetime
    """The time from which the cookie cannot start a session; only its existing session makes it valid."""
    inner: Sequence[tuple[Any, str]] = field(repr=False)
    payload: str = field(repr=False)
    """A wrapped data key of workflow payloads, as stored in histories."""
    _local: threading.local = field(default_factory=threading.local, repr=False)
    """The connections of each thread, by service."""
    _programs: list[Program] = field(default_factory=list, repr=False)

    @property
    def tenant_id(self) -> str:
        return self.attacker.tenant_id

    def run_attempts(self, kinds: Iterable[AttackKind]) -> dict[str, Counter[str]]:
        """Run all kinds with several threads; return the counted results by kind."""
        with ThreadPoolExecutor(_THREADS) as pool:
            futures = {kind.name: [pool.submit(one) for one in islice(cycle(kind.tries), kind.times)] for kind in kinds}
            found = {name: Counter(one.result() for one in tries) for name, tries in futures.items()}
        while self._programs:
            self._programs.pop().hang_up()
        return found

    # ── with the certificates ────────────────────────────────────────────────────────────────────────────────────

    def over_https(self) -> list[Attempt]:
        return self._on_open_connections(_requests)

    def over_kmip(self) -> list[Attempt]:
        return self._on_open_connections(_items)

    def without_a_key(self) -> list[Attempt]:
        """Send the requests that need only rows and no key."""
        return self._on_open_connections(_keyless)

    def by_handshakes(self) -> list[Attempt]:
        """Open a new connection for each request."""

        def attempt(one: BusyService, *, https: bool) -> str:
            alone = Program(one.service)
            try:
                return _send(alone, data_key("record/1") if https else batch_item(*creation()))
            finally:
                alone.hang_up()

        return [
            lambda one=one, https=https: attempt(one, https=https) for one in self.services for https in (True, False)
        ]

    def _on_open_connections(self, of: Callable[[BusyService], Sequence[bytes | Item]]) -> list[Attempt]:
        return [
            lambda one=one, request=request: _send(self._program(one), request)
            for one in self.services
            for request in of(one)
        ]

    def _program(self, one: BusyService) -> Program:
        """Return the connections of this thread as a service; create them if needed."""
        own, name = vars(self._local), one.service.name
        if name not in own:
            own[name] = Program(one.service)
            self._programs.append(own[name])
        return own[name]

    # ── at the key server ────────────────────────────────────────────────────────────────────────────────────────

    def decrypt_as_the_tenant(self) -> list[Attempt]:
        """Use L2 with the tenant's identity on the inner ciphertext of every wrap."""
        keys = self.attacker.keys
        calls: list[Callable[[], object]] = [
            *(lambda pair=pair: keys.decrypt(*pair) for pair in self.inner),
            *(lambda pair=pair: keys.rewrap([pair]) for pair in self.inner),
        ]
        return [lambda call=call: code_of(call) for call in calls]

    def encrypt_as_the_tenant(self) -> list[Attempt]:
        keys, (place, _) = self.attacker.keys, self.inner[0]
        return [
            lambda: code_of(lambda: keys.encrypt(place, b"data")),
            lambda: code_of(lambda: keys.new_wrapped_key(place)),
        ]

    def with_wraps(self) -> list[Attempt]:
        """Remove both wraps of every service key."""
        return [lambda: code_of(self.attacker.unwrap_keys)]

    def as_the_worker(self) -> list[Attempt]:
        """Use the tenant CA and the payload key, which the worker's identity may use while they exist."""
        worker = self.attacker.session
        return self._write_attempts(
            worker,
            (f"transit/sign/{ids.ca_key(self.tenant_id)}/sha2-256", {"input": "AAAA"}),
            (f"transit/datakey/plaintext/{ids.payload_key(self.tenant_id)}", {"bits": 256}),
            (f"transit/decrypt/{ids.payload_key(self.tenant_id)}", {"ciphertext": self.payload}),
        )

    def as_others(self) -> list[Attempt]:
        """Use the tenant's keys with identities that have no right to them."""
        l2, authority, payload = (make(self.tenant_id) for make in (ids.l2_key, ids.ca_key, ids.payload_key))
        inner = {"ciphertext": self.inner[0][1]}
        return [
            one
            for role in (Role.WORKER, Role.CRYPTO, Role.CODEC, Role.OFFBOARDING)
            for one in self._write_attempts(
                self.stack.vault(role),
                (f"transit/decrypt/{l2}", inner),
                (f"transit/rewrap/{l2}", inner),
                (f"transit/export/encryption-key/{l2}", {}),
                (f"transit/backup/{payload}", {}),
                (f"transit/restore/{authority}", {"backup": "AAAA"}),
                (f"transit/datakey/plaintext/{l2}", {}),
            )
        ]

    @staticmethod
    def _write_attempts(calls: VaultClient, *writes: tuple[str, dict[str, Any]]) -> list[Attempt]:
        return [lambda path=path, data=data: code_of(lambda: calls.write(path, data)) for path, data in writes]

    # ── at the platform's endpoints ──────────────────────────────────────────────────────────────────────────────

    def by_cookie(self) -> list[Attempt]:
        """Use an earlier session of the tenant's administrator."""
        address = f"{self.stack.settings.dashboard_url}/tenant/{self.tenant_id}/audit.jsonl"

        def attempt() -> str:
            answer = httpx2.get(address, cookies=self.cookies, timeout=30)
            return OK if answer.is_success else str(answer.status_code)

        return [attempt]

    def by_updates(self) -> list[Attempt]:
        """Call the tenant's workflow as the dashboard and the commands do."""
        tenant_id, everything = (
            self.tenant_id,
            RotateRequest(request_id=uuid4().hex, services=RotationScope.ALL, tenant_key=True),
        )
        calls: list[Callable[[WorkflowClient], Any]] = [
            lambda gateway: gateway.rotate_keys(tenant_id, everything),
            lambda gateway: gateway.restore(tenant_id),
            *(lambda gateway, move=move: gateway.change_standing(tenant_id, move) for move in StatusChange),
            lambda gateway: gateway.change_root_key(tenant_id, uuid4().hex),
            lambda gateway: gateway.change_policy(tenant_id, TenantPolicy()),
            lambda gateway: gateway.retire_service_key(tenant_id, self.services[0].service.name, 1),
            lambda gateway: gateway.roll_authority(tenant_id),
            lambda gateway: gateway.propose(tenant_id, uuid4().hex),
            lambda gateway: gateway.retry(tenant_id),
            lambda gateway: gateway.offboard(tenant_id, OffboardRequest(now=True)),
        ]

        async def attempt(ask: Callable[[WorkflowClient], Any]) -> None:
            await ask(await WorkflowClient.connect(self.stack.settings.temporal_address, 180))

        return [lambda ask=ask: code_of(lambda: asyncio.run(attempt(ask))) for ask in calls]

    def by_events(self) -> list[Attempt]:
        """Enable and disable the tenant as the marketplace does."""

        def attempt(event: str) -> str:
            answer = self.stack.click(event=event, customer=self.tenant_id, organization="Gone Corp", region=REGION)
            return OK if answer.is_success else str(answer.json()["code"])

        return [lambda event=event: attempt(event) for event in ("service_enabled", "service_disabled")]


def _send(program: Program, request: bytes | Item) -> str:
    try:
        return program.https(request) if isinstance(request, bytes) else program.kmip(request)
    except (OSError, EOFError):
        program.hang_up()
        return NO_CONNECTION


def _requests(one: BusyService) -> list[bytes | Item]:
    sealed, wrapped = one.texts[0], one.data_keys[0]
    by_text = {"ciphertext": sealed.sealed, "resource": sealed.resource}
    return [
        post("/v1/encrypt", {"resource": "record/1", "plaintext": "AAAA"}),
        post("/v1/decrypt", by_text),
        post("/v1/rewrap", by_text),
        data_key("record/1"),
        post("/v1/data-keys/open", {"wrapped": wrapped.sealed, "resource": wrapped.resource}),
        post("/v1/decrypt:batch", {"items": [by_text]}),
    ]


def _items(one: BusyService) -> list[bytes | Item]:
    object_id, sealed, _ = one.sealed[0]
    it = text(Tag.UNIQUE_IDENTIFIER, object_id)
    return [
        batch_item(Operation.GET, it),
        batch_item(Operation.ENCRYPT, it, gcm(), octets(Tag.DATA, b"data")),
        batch_item(Operation.DECRYPT, it, gcm(), *sealed),
        batch_item(*creation()),
    ]


def _keyless(one: BusyService) -> list[bytes | Item]:
    it = text(Tag.UNIQUE_IDENTIFIER, one.sealed[0][0])
    return [
        post("/v1/certificate", None),
        batch_item(Operation.GET_ATTRIBUTES, it),
        batch_item(Operation.LOCATE),
    ]
