"""A small core behind the real front: it truly encrypts, keeps its keys in memory, and obeys the test."""

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TypeVar

from cryptography import x509

from crypto import ciphertext
from crypto.correlation import correlation_id
from crypto.interfaces import Caller, DataKey, Entry, ServiceKey
from database.interfaces import AuthorityRow, LeafRow
from tenancy import ids
from tenancy.binding import Context, Purpose
from tenancy.errors import CallerRefused, CiphertextRefused, ObjectNotFound, TenantClosed
from tenancy.lifecycle import DECRYPTS, ENCRYPTS, State
from tests.crypto.https.authority import Leaf, root, tenant_authority

Result = TypeVar("Result")
_MATERIAL = 32


class MemoryCore:
    """Callers, operations, journal, blocking and changes for the tests of the front."""

    def __init__(self) -> None:
        self.callers: dict[str, Caller] = {}
        self.newest: dict[tuple[str, str], Leaf] = {}
        self.keys: dict[tuple[str, str], list[ServiceKey]] = {}
        self.entries: list[Entry] = []
        self.calls: list[tuple[str, str]] = []
        """(operation, correlation id) of every operation asked for."""
        self.failing: list[Exception | None] = []
        """What the next operations raise, one each; None lets one through."""
        self.gate: asyncio.Event | None = None
        """Operations wait for it when there is one, as they wait for Vault on a miss."""
        self._forget: list[Callable[[str | None], None]] = []

    def admit(self, leaf: Leaf, tenant_id: str, service: str) -> Caller:
        caller = Caller(tenant_id, service, ids.l2_key(tenant_id), "eu-west-1", leaf.serial, State.ACTIVE)
        self.callers[leaf.serial] = caller
        self.newest[tenant_id, service] = leaf
        self.keys.setdefault((tenant_id, service), [ServiceKey(1, _random())])
        return caller

    def rotate(self, caller: Caller) -> None:
        keys = self.keys[caller.tenant_id, caller.service]
        keys.append(ServiceKey(len(keys) + 1, _random()))

    def revoke(self, serial: str) -> None:
        del self.callers[serial]

    def move(self, tenant_id: str, state: State) -> None:
        for serial, caller in self.callers.items():
            if caller.tenant_id == tenant_id:
                self.callers[serial] = replace(caller, tenant_state=state)

    # Callers

    async def identify(self, certificate_der: bytes, address: str) -> Caller:
        serial = f"{x509.load_der_x509_certificate(certificate_der).serial_number:x}"
        return replace(self._now(serial), address=address)

    async def refresh(self, caller: Caller) -> Caller:
        return self._now(caller.serial)

    def _now(self, serial: str) -> Caller:
        found = self.callers.get(serial)
        if found is None:
            raise CallerRefused
        if found.tenant_state not in DECRYPTS:
            raise TenantClosed(found.tenant_state)
        return found

    # Operations

    async def encrypt(self, caller: Caller, resource: str, plaintext: bytes) -> str:
        await self._begin("encrypt", caller, encrypts=True)
        return self._seal(caller, Purpose.DATA, resource, plaintext)

    async def decrypt(self, caller: Caller, resource: str, ciphertext: str) -> bytes:
        await self._begin("decrypt", caller)
        return self._open(caller, Purpose.DATA, resource, ciphertext)

    async def rewrap(self, caller: Caller, resource: str, ciphertext: str) -> str:
        await self._begin("rewrap", caller, encrypts=True)
        purpose = _purpose(ciphertext)
        return self._seal(caller, purpose, resource, self._open(caller, purpose, resource, ciphertext))

    async def new_data_key(self, caller: Caller, resource: str, *, with_plaintext: bool) -> DataKey:
        await self._begin("data-key", caller, encrypts=True)
        material = _random()
        wrapped = self._seal(caller, Purpose.DATA_KEY, resource, material)
        return DataKey(wrapped, material if with_plaintext else None)

    async def open_data_key(self, caller: Caller, resource: str, wrapped: str) -> bytes:
        await self._begin("open-data-key", caller)
        return self._open(caller, Purpose.DATA_KEY, resource, wrapped)

    async def seal_object(self, caller: Caller, object_id: str, material: bytes) -> tuple[int, bytes]:
        raise NotImplementedError

    async def open_object(self, caller: Caller, object_id: str, key_version: int, sealed: bytes) -> bytes:
        raise NotImplementedError

    async def _begin(self, operation: str, caller: Caller, *, encrypts: bool = False) -> None:
        self.calls.append((operation, correlation_id.get()))
        if self.gate is not None:
            await self.gate.wait()
        failure = self.failing.pop(0) if self.failing else None
        if failure is not None:
            raise failure
        if encrypts and caller.tenant_state not in ENCRYPTS:
            raise TenantClosed(caller.tenant_state)

    def _seal(self, caller: Caller, purpose: Purpose, resource: str, plaintext: bytes) -> str:
        key = self.keys[caller.tenant_id, caller.service][-1]
        return ciphertext.to_text(ciphertext.seal(key, _place(caller, purpose, resource), plaintext))

    def _open(self, caller: Caller, purpose: Purpose, resource: str, text: str) -> bytes:
        sealed = ciphertext.from_text(text)
        version = ciphertext.header(sealed).key_version
        keys = self.keys[caller.tenant_id, caller.service]
        if version > len(keys):
            raise CiphertextRefused
        return ciphertext.unseal(keys[version - 1], _place(caller, purpose, resource), sealed)

    # Journal, Blocking, Changes

    async def write(self, entries: Sequence[Entry]) -> None:
        self.entries += entries

    async def run(self, tenant_id: str, work: Callable[[], Result]) -> Result:  # noqa: ARG002 - the protocol's
        return await asyncio.to_thread(work)

    def subscribe(self, forget: Callable[[str | None], None]) -> None:
        self._forget.append(forget)


@dataclass
class MemoryCertificates:
    core: MemoryCore
    asked: list[str] = field(default_factory=list)

    async def newest(self, caller: Caller) -> tuple[LeafRow, AuthorityRow]:
        self.asked.append(caller.service)
        leaf = self.core.newest.get((caller.tenant_id, caller.service))
        if leaf is None:
            raise ObjectNotFound
        found = leaf.certificate
        row = LeafRow(
            leaf.serial, caller.service, 1, "request", leaf.pem, found.not_valid_before_utc, found.not_valid_after_utc
        )
        authority = tenant_authority(caller.tenant_id)
        return row, AuthorityRow("1", authority.pem, root().pem, _end(authority.certificate))


def _end(certificate: x509.Certificate) -> datetime:
    return certificate.not_valid_after_utc


def _place(caller: Caller, purpose: Purpose, resource: str) -> Context:
    return Context(caller.tenant_id, caller.l2_key, caller.service, purpose, resource)


def _purpose(text: str) -> Purpose:
    return ciphertext.header(ciphertext.from_text(text)).purpose


def _random() -> bytes:
    return os.urandom(_MATERIAL)
