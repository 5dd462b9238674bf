"""The dependencies of the real HTTPS server and operations in these tests: callers, keys and journal in memory."""

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from cryptography import x509

from core import names as ids
from core.correlation import correlation_id
from core.errors.services import ClientNotAuthorized, ObjectNotFound
from core.errors.tenants import TenantNotOperational
from core.tenants.lifecycle import DECRYPTS, State
from crypto_service.https.schemas import HeartbeatRequest
from crypto_service.interfaces import AuditEntry, ClientIdentity, ServiceKey
from database.certificates import AuthorityRow
from database.services.protected_fields import ProtectionRow
from database.services.repository import ServiceCertificateRow
from tests.crypto_service.authority import Leaf, root, tenant_authority

Result = TypeVar("Result")
_MATERIAL = 32


class MemoryCore:
    """Callers, key cache, journal, threads and changes that the test controls; its keys are real."""

    def __init__(self) -> None:
        self.callers: dict[str, ClientIdentity] = {}
        self.newest: dict[tuple[str, str], Leaf] = {}
        self.keys: dict[tuple[str, str], list[ServiceKey]] = {}
        self.entries: list[AuditEntry] = []
        self.asked: list[str] = []
        """The correlation id of every request for a key."""
        self.failing: list[Exception | None] = []
        """The errors that the next requests for a key raise, one each; None means success."""
        self.gate: asyncio.Event | None = None
        """If set, requests for a key wait for it, as they wait for Vault on a cache miss."""
        self.journal_gate: asyncio.Event | None = None
        """If set, a write of audit entries waits for it."""
        self.is_failing = False
        """As of the journal."""
        self._forget: list[Callable[[str | None], None]] = []

    def hold(self) -> asyncio.Event:
        """Block requests for a key until the event is set."""
        self.gate = asyncio.Event()
        return self.gate

    def hold_journal(self) -> asyncio.Event:
        """Block the end of writes until the event is set."""
        self.journal_gate = asyncio.Event()
        return self.journal_gate

    def admit(self, leaf: Leaf, tenant_id: str, service: str) -> ClientIdentity:
        caller = ClientIdentity(tenant_id, service, ids.l2_key(tenant_id), "eu-west-1", leaf.serial, State.ACTIVE)
        self.callers[leaf.serial] = caller
        self.newest[tenant_id, service] = leaf
        self.keys.setdefault((tenant_id, service), [ServiceKey(1, os.urandom(_MATERIAL))])
        return caller

    def rotate(self, caller: ClientIdentity) -> None:
        keys = self.keys[caller.tenant_id, caller.service]
        keys.append(ServiceKey(len(keys) + 1, os.urandom(_MATERIAL)))

    def revoke(self, serial: str) -> None:
        del self.callers[serial]

    def move(self, tenant_id: str, state: State) -> None:
        for serial, caller in self.callers.items():
            if caller.tenant_id == tenant_id:
                self.callers[serial] = replace(caller, tenant_state=state)

    # Callers

    async def identify(self, certificate_der: bytes, address: str) -> ClientIdentity:
        serial = f"{x509.load_der_x509_certificate(certificate_der).serial_number:x}"
        return replace(self._now(serial), address=address)

    def is_current(self, caller: ClientIdentity) -> bool:  # noqa: ARG002 - each request reads the caller
        return False

    async def refresh(self, caller: ClientIdentity) -> ClientIdentity:
        return self._now(caller.serial)

    async def locked(self, certificate_der: bytes) -> ClientIdentity:
        found = self.callers.get(f"{x509.load_der_x509_certificate(certificate_der).serial_number:x}")
        if found is None or found.tenant_state is not State.LOCKED:
            raise ClientNotAuthorized
        return found

    def _now(self, serial: str) -> ClientIdentity:
        found = self.callers.get(serial)
        if found is None:
            raise ClientNotAuthorized
        if found.tenant_state not in DECRYPTS:
            raise TenantNotOperational(found.tenant_state)
        return found

    # Keyring

    async def key(self, caller: ClientIdentity, version: int | None = None) -> ServiceKey:
        self.asked.append(correlation_id.get())
        if self.gate is not None:
            await self.gate.wait()
        failure = self.failing.pop(0) if self.failing else None
        if failure is not None:
            raise failure
        keys = self.keys[caller.tenant_id, caller.service]
        if version is not None and version > len(keys):
            raise ObjectNotFound
        return keys[-1 if version is None else version - 1]

    def cached(self, caller: ClientIdentity, version: int | None = None) -> None:
        """Return nothing: each request reads the key."""

    def revision(self, tenant_id: str) -> object:  # noqa: ARG002 - no test changes a tenant
        return self

    # Journal, Blocking, Changes

    async def write(self, entries: Sequence[AuditEntry]) -> None:
        self.entries += entries
        if self.journal_gate is not None:
            await self.journal_gate.wait()

    async def run(self, tenant_id: str, work: Callable[[], Result]) -> Result:  # noqa: ARG002 - the protocol's
        return await asyncio.to_thread(work)

    def subscribe(self, forget: Callable[[str | None], None]) -> None:
        self._forget.append(forget)


@dataclass
class MemoryCertificates:
    core: MemoryCore
    asked: list[str] = field(default_factory=list)

    async def newest(self, caller: ClientIdentity) -> tuple[ServiceCertificateRow, AuthorityRow]:
        self.asked.append(caller.service)
        leaf = self.core.newest.get((caller.tenant_id, caller.service))
        if leaf is None:
            raise ObjectNotFound
        dates = leaf.certificate.not_valid_before_utc, leaf.certificate.not_valid_after_utc
        row = ServiceCertificateRow(leaf.serial, caller.service, 1, "request", leaf.pem, *dates, "1")
        authority = tenant_authority(caller.tenant_id)
        until = authority.certificate.not_valid_after_utc
        return row, AuthorityRow("1", authority.pem, authority.pem + root().pem, until)

    async def revocation_list(self, caller: ClientIdentity, *, former: bool) -> bytes:
        if former:
            raise ObjectNotFound
        return f"list of {caller.tenant_id}".encode()


@dataclass
class MemoryHeartbeats:
    core: MemoryCore
    reported: list[tuple[ClientIdentity, HeartbeatRequest]] = field(default_factory=list)

    async def note(self, caller: ClientIdentity, heartbeat: HeartbeatRequest) -> bool:
        self.reported.append((caller, heartbeat))
        return self.core.newest[caller.tenant_id, caller.service].serial != caller.serial


@dataclass
class MemoryProtections:
    lists: dict[tuple[str, str], ProtectionRow] = field(default_factory=dict)
    asked: int = 0

    async def of(self, caller: ClientIdentity) -> ProtectionRow:
        self.asked += 1
        return self.lists.get((caller.tenant_id, caller.service), ProtectionRow(0, []))
