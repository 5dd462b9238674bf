"""What is tried by who kept everything that a tenant had: its certificates, cookies and rows, the servers' secrets.

Each kind is tried on the living tenant first, where it works, so that a refusal afterwards says something. What a
try comes to is `ok` or the code of a refusal; whatever else happens is raised, and is a refusal to nobody.
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
from tests.stories.busy import Busy
from tests.stories.clients import OK, Program, data_key
from tests.stories.stack import REGION, Stack
from tests.stories.thief import Thief
from tests.stories.wires import post
from vault.auth.client import VaultClient
from workflows.client.workflow_client import WorkflowClient

_THREADS = 6
NO_CONNECTION = "no connection"
Try = Callable[[], str]


@dataclass(frozen=True)
class Kind:
    """`tries` are taken in turn until it was tried so many `times`; all of them `once_worked`, or none."""

    name: str
    times: int
    tries: Sequence[Try]
    once_worked: bool = True


def code_of(call: Callable[[], object]) -> str:
    try:
        call()
    except (OpenKcmError, ClientError) as refused:
        return refused.code
    return OK


@dataclass(frozen=True)
class Kept:
    """What somebody kept of a tenant from when it lived."""

    stack: Stack
    services: Sequence[Busy]
    thief: Thief
    cookies: dict[str, str] = field(repr=False)
    stale_at: datetime
    """When the cookie is too old to begin a session, and only the one that it began makes it valid."""
    inner: Sequence[tuple[Any, str]] = field(repr=False)
    payload: str = field(repr=False)
    """A data key of the workflows' payloads, as it is kept in histories."""
    _mine: threading.local = field(default_factory=threading.local, repr=False)
    """A thread's own connections, by service and kind."""
    _opened: list[Program] = field(default_factory=list, repr=False)

    @property
    def tenant_id(self) -> str:
        return self.thief.tenant_id

    def counted(self, kinds: Iterable[Kind]) -> dict[str, Counter[str]]:
        """Try all kinds by several threads at once; return, by kind, what each try came to."""
        with ThreadPoolExecutor(_THREADS) as crowd:
            asked = {kind.name: [crowd.submit(one) for one in islice(cycle(kind.tries), kind.times)] for kind in kinds}
            found = {name: Counter(one.result() for one in tries) for name, tries in asked.items()}
        while self._opened:
            self._opened.pop().hang_up()
        return found

    # ── with the certificates ────────────────────────────────────────────────────────────────────────────────────

    def over_https(self) -> list[Try]:
        return self._kept_alive(_requests)

    def over_kmip(self) -> list[Try]:
        return self._kept_alive(_items)

    def without_a_key(self) -> list[Try]:
        """Ask for what stands in rows, so that no key is needed for it."""
        return self._kept_alive(_keyless)

    def by_handshakes(self) -> list[Try]:
        """Connect anew for each request, as who has never connected yet."""

        def tried(one: Busy, *, https: bool) -> str:
            alone = Program(one.service)
            try:
                return _asked(alone, data_key("record/1") if https else batch_item(*creation()))
            finally:
                alone.hang_up()

        return [
            lambda one=one, https=https: tried(one, https=https) for one in self.services for https in (True, False)
        ]

    def _kept_alive(self, of: Callable[[Busy], Sequence[bytes | Item]]) -> list[Try]:
        return [
            lambda one=one, request=request: _asked(self._program(one), request)
            for one in self.services
            for request in of(one)
        ]

    def _program(self, one: Busy) -> Program:
        """Return this thread's connections as a service, made if it has none."""
        own, name = vars(self._mine), one.service.name
        if name not in own:
            own[name] = Program(one.service)
            self._opened.append(own[name])
        return own[name]

    # ── at the key server ────────────────────────────────────────────────────────────────────────────────────────

    def opening_as_the_tenant(self) -> list[Try]:
        """Use L2 with the tenant's own identity, on every ciphertext that lay within a wrap."""
        keys = self.thief.keys
        calls: list[Callable[[], object]] = [
            *(lambda pair=pair: keys.decrypt(*pair) for pair in self.inner),
            *(lambda pair=pair: keys.rewrap([pair]) for pair in self.inner),
        ]
        return [lambda call=call: code_of(call) for call in calls]

    def making_as_the_tenant(self) -> list[Try]:
        keys, (place, _) = self.thief.keys, self.inner[0]
        return [
            lambda: code_of(lambda: keys.encrypt(place, b"data")),
            lambda: code_of(lambda: keys.new_wrapped_key(place)),
        ]

    def with_wraps(self) -> list[Try]:
        """Open whole wraps, both layers."""
        return [lambda: code_of(self.thief.opened)]

    def as_the_worker(self) -> list[Try]:
        """Use the tenant's authority and payload key, which the worker's identity may as long as they are there."""
        worker = self.thief.session
        return self._written(
            worker,
            (f"transit/sign/{ids.ca_key(self.tenant_id)}/sha2-256", {"input": "AAAA"}),
            (f"transit/datakey/plaintext/{ids.payload_key(self.tenant_id)}", {"bits": 256}),
            (f"transit/decrypt/{ids.payload_key(self.tenant_id)}", {"ciphertext": self.payload}),
        )

    def as_others(self) -> list[Try]:
        """Use the tenant's keys with identities that may not: of the processes, and the one that destroys."""
        l2, authority, payload = (make(self.tenant_id) for make in (ids.l2_key, ids.ca_key, ids.payload_key))
        inner = {"ciphertext": self.inner[0][1]}
        return [
            one
            for role in (Role.WORKER, Role.CRYPTO, Role.CODEC, Role.OFFBOARDING)
            for one in self._written(
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
    def _written(calls: VaultClient, *asked: tuple[str, dict[str, Any]]) -> list[Try]:
        return [lambda path=path, data=data: code_of(lambda: calls.write(path, data)) for path, data in asked]

    # ── at the platform's doors ──────────────────────────────────────────────────────────────────────────────────

    def by_cookie(self) -> list[Try]:
        """Come with the session of the tenant's administrator from before."""
        address = f"{self.stack.settings.dashboard_url}/tenant/{self.tenant_id}/audit.jsonl"

        def tried() -> str:
            answer = httpx2.get(address, cookies=self.cookies, timeout=30)
            return OK if answer.is_success else str(answer.status_code)

        return [tried]

    def by_updates(self) -> list[Try]:
        """Ask the tenant's workflow, as dashboard and command do."""
        tenant_id, everything = (
            self.tenant_id,
            RotateRequest(request_id=uuid4().hex, services=RotationScope.ALL, tenant_key=True),
        )
        asked: list[Callable[[WorkflowClient], Any]] = [
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

        async def tried(ask: Callable[[WorkflowClient], Any]) -> None:
            await ask(await WorkflowClient.connect(self.stack.settings.temporal_address, 180))

        return [lambda ask=ask: code_of(lambda: asyncio.run(tried(ask))) for ask in asked]

    def by_events(self) -> list[Try]:
        """Enable and disable, as the marketplace."""

        def tried(event: str) -> str:
            answer = self.stack.click(event=event, customer=self.tenant_id, organization="Gone Corp", region=REGION)
            return OK if answer.is_success else str(answer.json()["code"])

        return [lambda event=event: tried(event) for event in ("service_enabled", "service_disabled")]


def _asked(program: Program, request: bytes | Item) -> str:
    try:
        return program.https(request) if isinstance(request, bytes) else program.kmip(request)
    except (OSError, EOFError):
        program.hang_up()
        return NO_CONNECTION


def _requests(one: Busy) -> list[bytes | Item]:
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


def _items(one: Busy) -> list[bytes | Item]:
    object_id, sealed, _ = one.sealed[0]
    it = text(Tag.UNIQUE_IDENTIFIER, object_id)
    return [
        batch_item(Operation.GET, it),
        batch_item(Operation.ENCRYPT, it, gcm(), octets(Tag.DATA, b"data")),
        batch_item(Operation.DECRYPT, it, gcm(), *sealed),
        batch_item(*creation()),
    ]


def _keyless(one: Busy) -> list[bytes | Item]:
    it = text(Tag.UNIQUE_IDENTIFIER, one.sealed[0][0])
    return [
        post("/v1/certificate", None),
        batch_item(Operation.GET_ATTRIBUTES, it),
        batch_item(Operation.LOCATE),
    ]
