"""What a service may do with its keys, transport-free: state, descent, place, audit, in this order.

1. The tenant's state allows it, as the caller was last seen.
2. The key is found or opened (`keyring`, which checks its descent).
3. The caller is looked at again, because 2 may have waited. From here to the end of 4 nothing gives up the loop, so
   no text is sealed or opened for a tenant of whose lock this process has heard.
4. The text is sealed or opened in its place (`ciphertext`).
5. The journal has the entry, a refusal's too; only then is there an answer.

A data key's text does not open through `decrypt`: handing out a key is a record of its own, which that door would
avoid.
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
"""What is handed out as text and may be re-wrapped."""

Result = TypeVar("Result")


class CryptoOperations:
    """`interfaces.Operations` over a keyring. Nothing waits when the key and the caller are in memory."""

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

    async def encrypt(self, caller: ClientIdentity, resource: str, plaintext: bytes) -> str:
        """Return the text that opens only for this service and this resource.

        Raises: InvalidRequest, InvalidName, TenantNotOperational, and what `Keyring.key`, `ClientAuthenticator.refresh`
        and the journal do.
        """
        work = self._encrypt(caller, Purpose.DATA, resource, plaintext)
        return await self._recorded(caller, CryptoOperation.ENCRYPT, resource, len(plaintext), work)

    async def decrypt(self, caller: ClientIdentity, resource: str, ciphertext: str) -> bytes:
        """Return the plaintext; raises CiphertextRefused, KeyVersionRetired, and as `encrypt`."""
        work = self._decrypt(caller, Purpose.DATA, resource, ciphertext)
        return await self._recorded(caller, CryptoOperation.DECRYPT, resource, len(ciphertext), work)

    async def rewrap(self, caller: ClientIdentity, resource: str, ciphertext: str) -> str:
        """Return the same plaintext, or the same data key, under the active service key; raises as `decrypt`."""
        work = self._rewrap(caller, resource, ciphertext)
        return await self._recorded(caller, CryptoOperation.REWRAP, resource, len(ciphertext), work)

    async def new_data_key(self, caller: ClientIdentity, resource: str, *, with_plaintext: bool) -> DataKey:
        """Return a new L4; raises as `encrypt`."""
        operation = CryptoOperation.DATA_KEY if with_plaintext else CryptoOperation.WRAPPED_DATA_KEY
        plaintext = self._random(DATA_KEY)
        work = self._encrypt(caller, Purpose.DATA_KEY, resource, plaintext)
        wrapped = await self._recorded(caller, operation, resource, DATA_KEY, work)
        return DataKey(wrapped, plaintext if with_plaintext else None)

    async def open_data_key(self, caller: ClientIdentity, resource: str, wrapped: str) -> bytes:
        """Return a data key made before; raises as `decrypt`."""
        work = self._decrypt(caller, Purpose.DATA_KEY, resource, wrapped)
        return await self._recorded(caller, CryptoOperation.DATA_KEY, resource, DATA_KEY, work)

    async def seal_object(self, caller: ClientIdentity, object_id: str, material: bytes) -> tuple[int, bytes]:
        """Return the key version and the sealed material of a managed object; writes no journal."""
        place = _place(caller, Purpose.MANAGED_OBJECT, object_id)
        key = await self._key(caller, ENCRYPTS)
        return key.version, form.seal(key, place, material, self._random)

    async def open_object(self, caller: ClientIdentity, object_id: str, key_version: int, sealed: bytes) -> bytes:
        """Return the material; writes no journal (the caller MUST, before it answers).

        A compromised version opens here too: nobody but us had the sealed bytes, and `resealing` is on its way to them.
        Raises: CiphertextRefused, KeyVersionRetired when the version is destroyed, and as `encrypt`.
        """
        place = _place(caller, Purpose.MANAGED_OBJECT, object_id)
        key = await self._key_of(caller, DECRYPTS, key_version)
        return form.unseal(key, place, sealed)

    async def _encrypt(self, caller: ClientIdentity, purpose: Purpose, resource: str, plaintext: bytes) -> str:
        place = _place(caller, purpose, resource)
        key = await self._key(caller, ENCRYPTS)
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
        old = await self._key_of_text(caller, ENCRYPTS, head.key_version)
        active = await self._key(caller, ENCRYPTS)
        return form.to_text(form.seal(active, place, form.unseal(old, place, sealed), self._random))

    async def _key(self, caller: ClientIdentity, allowed: frozenset[State], version: int | None = None) -> ServiceKey:
        """Return a key that may be used now; see the module for the order."""
        _require(caller, allowed)
        key = await self._keyring.key(caller, version)
        now = await self._callers.refresh(caller)
        if now is not caller:
            if (now.service, now.l2_key, now.region) != (caller.service, caller.l2_key, caller.region):
                raise ClientNotAuthorized  # the certificate's record decides, whatever the caller was made to say
            _require(now, allowed)
        return key

    async def _key_of_text(self, caller: ClientIdentity, allowed: frozenset[State], version: int) -> ServiceKey:
        """Return the key that a text names; whoever has a compromised one can have made the text, too."""
        key = await self._key_of(caller, allowed, version)
        if key.compromised:
            raise KeyVersionRetired
        return key

    async def _key_of(self, caller: ClientIdentity, allowed: frozenset[State], version: int) -> ServiceKey:
        try:
            return await self._key(caller, allowed, version)
        except ObjectNotFound:  # a version that was never made: whoever wrote that into a text learns nothing
            raise CiphertextRefused from None

    async def _recorded(
        self,
        caller: ClientIdentity,
        operation: CryptoOperation,
        resource: str,
        size: int,
        work: Coroutine[Any, Any, Result],
    ) -> Result:
        """Do the work, and return its result or raise its refusal when the journal has the entry."""
        began = self._timer()
        try:
            result = await work
        except OpenKcmError as refused:
            subject = resource[:LONGEST_RESOURCE].encode("utf-8", "replace").decode("utf-8")
            took = self._timer() - began
            await self._journal.write((_entry(caller, operation, subject, took, refused=refused.code),))
            raise
        await self._journal.write((_entry(caller, operation, resource, self._timer() - began, size=size),))
        return result


def _place(caller: ClientIdentity, purpose: Purpose, resource: str) -> EncryptionContext:
    """Return the context, put together from the caller alone (MTCI C1 to C3)."""
    if not 1 <= len(resource) <= LONGEST_RESOURCE:
        raise InvalidRequest(f"the resource is not of 1 to {LONGEST_RESOURCE} characters")
    return EncryptionContext(caller.tenant_id, caller.l2_key, caller.service, purpose, resource)


def _require(caller: ClientIdentity, allowed: frozenset[State]) -> None:
    if caller.tenant_state not in allowed:
        raise TenantNotOperational(caller.tenant_state)


def _entry(  # noqa: PLR0913 - the fields of one line, made for each request
    caller: ClientIdentity, operation: CryptoOperation, subject: str, took: int, *, size: int = 0, refused: str = ""
) -> AuditEntry:
    """Return the line; `took` in nanoseconds."""
    return AuditEntry(
        caller.tenant_id,
        caller.service,
        operation,
        subject,
        correlation_id.get() or new_correlation_id(),
        caller.address,
        refused,
        bytes=size,
        microseconds=(took + 999) // 1000,
    )
