"""The operations of a service with its keys, independent of transport. The order of their steps protects tenants.

1. The tenant's state, as last read, permits the operation.
2. The key is read from the cache or unwrapped (`key_cache`, which checks its origin).
3. The caller is checked again, because step 2 may have waited, and the key is read again if the tenant has changed
   meanwhile. From here to the end of step 4 nothing suspends, so nothing is encrypted or decrypted for a tenant after
   this process was notified of its lock or of another key version.
4. The data is encrypted or decrypted in its context (`ciphertext`).
5. The audit entry is written, also for a rejection; only then is the result returned.

`decrypt` rejects a wrapped data key: the release of a key is a separate audit event, which `decrypt` would bypass.
"""

import os
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from core.correlation import correlation_id
from core.errors.keys import KeyVersionRetired
from core.errors.services import CiphertextRefused, ClientNotAuthorized, InvalidRequest, ObjectNotFound
from core.errors.tenants import TenantNotOperational
from core.keys.encryption_context import EncryptionContext, Purpose
from core.services import CryptoOperation
from core.tenants.lifecycle import DECRYPTS, ENCRYPTS, State
from crypto_service.correlation import new_correlation_id
from crypto_service.interfaces import (
    AuditEntry,
    AuditWriter,
    ClientAuthenticator,
    ClientIdentity,
    DataKey,
    KeyCache,
    ServiceKey,
)
from crypto_service.keys import ciphertext as form
from openkcm.errors import OpenKcmError

DATA_KEY = 32
"""Bytes of a data key (L4)."""
LONGEST_RESOURCE = 512
"""Characters of a resource, or of an object's id."""
_TEXTS = frozenset({Purpose.DATA, Purpose.DATA_KEY})
"""Purposes of the ciphertexts that callers receive as text and may rewrap."""

Result = TypeVar("Result")


class CryptoOperations:
    """`interfaces.Operations` over a key cache. Nothing waits when the key and the caller are in memory."""

    def __init__(
        self,
        callers: ClientAuthenticator,
        keyring: KeyCache,
        journal: AuditWriter,
        random: Callable[[int], bytes] = os.urandom,
        timer: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._callers = callers
        self._keyring = keyring
        self._journal = journal
        self._random = random
        self._timer = timer

    def encrypt(self, caller: ClientIdentity, resource: str, plaintext: bytes) -> Coroutine[Any, Any, str]:
        """Return a text that decrypts only for this service and this resource.

        Raises: InvalidRequest, InvalidName, TenantNotOperational, and the errors of `KeyCache.key`,
        `ClientAuthenticator.refresh` and `AuditWriter.write`.
        """
        work = self._encrypt(caller, Purpose.DATA, resource, plaintext)
        return self._recorded(caller, CryptoOperation.ENCRYPT, resource, len(plaintext), work)

    def decrypt(self, caller: ClientIdentity, resource: str, ciphertext: str) -> Coroutine[Any, Any, bytes]:
        """Return the plaintext; raise CiphertextRefused, KeyVersionRetired, and as `encrypt`."""
        work = self._decrypt(caller, Purpose.DATA, resource, ciphertext)
        return self._recorded(caller, CryptoOperation.DECRYPT, resource, len(ciphertext), work)

    def rewrap(self, caller: ClientIdentity, resource: str, ciphertext: str) -> Coroutine[Any, Any, str]:
        """Return the same plaintext, or data key, encrypted with the active service key; raise as `decrypt`."""
        work = self._rewrap(caller, resource, ciphertext)
        return self._recorded(caller, CryptoOperation.REWRAP, resource, len(ciphertext), work)

    async def new_data_key(self, caller: ClientIdentity, resource: str, *, with_plaintext: bool) -> DataKey:
        """Return a new L4; raise as `encrypt`."""
        operation = CryptoOperation.DATA_KEY if with_plaintext else CryptoOperation.WRAPPED_DATA_KEY
        plaintext = self._random(DATA_KEY)
        work = self._encrypt(caller, Purpose.DATA_KEY, resource, plaintext)
        wrapped = await self._recorded(caller, operation, resource, DATA_KEY, work)
        return DataKey(wrapped, plaintext if with_plaintext else None)

    def open_data_key(self, caller: ClientIdentity, resource: str, wrapped: str) -> Coroutine[Any, Any, bytes]:
        """Return an existing data key; raise as `decrypt`."""
        work = self._decrypt(caller, Purpose.DATA_KEY, resource, wrapped)
        return self._recorded(caller, CryptoOperation.DATA_KEY, resource, DATA_KEY, work)

    async def seal_object(self, caller: ClientIdentity, object_id: str, material: bytes) -> tuple[int, bytes]:
        """Return the key version and the encrypted material of a managed object; writes no audit entry."""
        place = _place(caller, Purpose.MANAGED_OBJECT, object_id)
        key = self._cached_key(caller, ENCRYPTS) or await self._key(caller, ENCRYPTS)
        return key.version, form.seal(key, place, material, self._random)

    async def open_object(self, caller: ClientIdentity, object_id: str, key_version: int, sealed: bytes) -> bytes:
        """Return the material; writes no audit entry (the caller MUST, before it responds).

        A compromised version decrypts here too: only this service had the ciphertext, and `reencryption` will replace
        it. Raises: CiphertextRefused, KeyVersionRetired when the version is destroyed, and as `encrypt`.
        """
        place = _place(caller, Purpose.MANAGED_OBJECT, object_id)
        key = self._cached_key(caller, DECRYPTS, key_version) or await self._key_of(caller, DECRYPTS, key_version)
        return form.unseal(key, place, sealed)

    async def _encrypt(self, caller: ClientIdentity, purpose: Purpose, resource: str, plaintext: bytes) -> str:
        place = _place(caller, purpose, resource)
        key = self._cached_key(caller, ENCRYPTS) or await self._key(caller, ENCRYPTS)
        return form.to_text(form.seal(key, place, plaintext, self._random))

    async def _decrypt(self, caller: ClientIdentity, purpose: Purpose, resource: str, text: str) -> bytes:
        place = _place(caller, purpose, resource)
        sealed = form.from_text(text)
        key = await self._key_of_text(caller, DECRYPTS, form.header(sealed).key_version)
        return form.unseal(key, place, sealed)

    async def _rewrap(self, caller: ClientIdentity, resource: str, text: str) -> str:
        sealed = form.from_text(text)
        head = form.header(sealed)
        if head.purpose not in _TEXTS:
            raise CiphertextRefused
        place = _place(caller, head.purpose, resource)
        while True:
            revision = self._keyring.revision(caller.tenant_id)
            old = await self._key_of_text(caller, ENCRYPTS, head.key_version)
            active = await self._key(caller, ENCRYPTS)
            # The former version may have been compromised while the active one was awaited.
            if self._keyring.revision(caller.tenant_id) is revision:
                return form.to_text(form.seal(active, place, form.unseal(old, place, sealed), self._random))

    def _cached_key(
        self, caller: ClientIdentity, allowed: frozenset[State], version: int | None = None
    ) -> ServiceKey | None:
        """Return a key that may be used now, None if it must be awaited; raise TenantNotOperational.

        Nothing suspends between the checks and the use of the result.
        """
        _require(caller, allowed)
        cached = self._keyring.cached(caller, version)
        return cached if cached is not None and self._callers.is_current(caller) else None

    async def _key(self, caller: ClientIdentity, allowed: frozenset[State], version: int | None = None) -> ServiceKey:
        """Return a key that may be used now; the module documents the order of the checks.

        A key that was awaited during a change of the tenant is read again: what is encrypted with the former version
        after a compromise would never decrypt again. Each repetition follows such a change, and then finds the key in
        the cache.
        """
        while True:
            revision = self._keyring.revision(caller.tenant_id)
            cached = self._cached_key(caller, allowed, version)
            if cached is not None:
                return cached
            key = await self._keyring.key(caller, version)
            if self._keyring.revision(caller.tenant_id) is not revision:
                continue
            now = await self._callers.refresh(caller)
            if now is not caller:
                if (now.service, now.l2_key, now.region) != (caller.service, caller.l2_key, caller.region):
                    raise ClientNotAuthorized  # the record of the certificate decides, not the caller's copy of it
                _require(now, allowed)
            if self._keyring.revision(caller.tenant_id) is revision:
                return key

    async def _key_of_text(self, caller: ClientIdentity, allowed: frozenset[State], version: int) -> ServiceKey:
        """Return the key version of a ciphertext; reject a compromised one, whose holder could forge the ciphertext."""
        key = self._cached_key(caller, allowed, version) or await self._key_of(caller, allowed, version)
        if key.compromised:
            raise KeyVersionRetired
        return key

    async def _key_of(self, caller: ClientIdentity, allowed: frozenset[State], version: int) -> ServiceKey:
        try:
            return await self._key(caller, allowed, version)
        except ObjectNotFound:  # the version never existed: the forger of the text must not learn that
            raise CiphertextRefused from None

    async def _recorded(
        self,
        caller: ClientIdentity,
        operation: CryptoOperation,
        resource: str,
        size: int,
        work: Coroutine[Any, Any, Result],
    ) -> Result:
        """Do the work; return its result, or raise its error, after the audit entry is written."""
        began = self._timer()
        try:
            result = await work
        except OpenKcmError as refused:
            subject = resource[:LONGEST_RESOURCE].encode("utf-8", "replace").decode("utf-8")
            took = self._timer() - began
            await self._journal.write((_entry(caller, operation, subject, took, 0, refused.code),))
            raise
        await self._journal.write((_entry(caller, operation, resource, self._timer() - began, size),))
        return result


def _place(caller: ClientIdentity, purpose: Purpose, resource: str) -> EncryptionContext:
    """Return the encryption context, computed only from the caller (MTCI C1 to C3)."""
    if not 1 <= len(resource) <= LONGEST_RESOURCE:
        raise InvalidRequest(f"the resource must have 1 to {LONGEST_RESOURCE} characters")
    return EncryptionContext(caller.tenant_id, caller.l2_key, caller.service, purpose, resource)


def _require(caller: ClientIdentity, allowed: frozenset[State]) -> None:
    if caller.tenant_state not in allowed:
        raise TenantNotOperational(caller.tenant_state)


def _entry(  # noqa: PLR0913, PLR0917 - the fields of one entry, created for each request
    caller: ClientIdentity, operation: CryptoOperation, subject: str, took: int, size: int, refused: str = ""
) -> AuditEntry:
    """Return the audit entry; `took` is in nanoseconds."""
    return AuditEntry(
        caller.tenant_id,
        caller.service,
        operation,
        subject,
        correlation_id.get() or new_correlation_id(),
        caller.address,
        refused,
        1,
        size,
        (took + 999) // 1000,
        names_subject=caller.resources_recorded,
    )
