"""Re-encryption of managed objects with the active version of their service's key, after another became active.

1. One query for all tenants returns the services with an inactive version that still encrypts objects.
2. The tenant's state must permit decryption; otherwise its objects are not changed.
3. Both versions are unwrapped by `key_cache`, which checks their origin.
4. A batch of objects is decrypted, encrypted again in each object's context, and decrypted once more for verification,
   because the old ciphertext, which is about to be replaced, is the only copy.
5. The result is stored where the object has not changed meanwhile. Nothing that a client can see changes.
6. A version without objects is recorded as such; afterwards the database accepts no more objects for it.

A crash at any point loses nothing: each object is encrypted by one version or the other, and the next pass finds the
rest. Processes that run concurrently conflict in step 5; the one that stores nothing of a batch leaves that service to
the other. No request waits for this work, so it runs slowly, with one thread per tenant at a time. A tenant that fails
is retried at increasing intervals, or after a change of the tenant.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import structlog

from core.errors.services import CiphertextRefused
from core.keys.encryption_context import EncryptionContext, Purpose
from core.tenants.lifecycle import DECRYPTS
from crypto_service.interfaces import BlockingExecutor, ClientIdentity, Invalidations, KeyCache, ServiceKey
from crypto_service.keys import ciphertext as form
from database.connection.database import Database
from database.connection.transaction import TenantTransaction
from database.platform.scheduled import PlatformQueries
from database.postgres.change_feed import tenant_hash
from database.services.managed_objects import ObjectRow
from openkcm.errors import OpenKcmError

_ALL_TENANTS = "*"
"""The id whose share of threads the query of step 1 uses."""
_PAGE = 200

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ReencryptionRate:
    """The speed of re-encryption: `batches` of one version with a `pause` after each, then other services.

    The query runs `between` seconds after a change, and after `at_most` seconds without one.
    """

    batch: int = 32
    pause: float = 0.1
    batches: int = 50
    between: float = 2.0
    at_most: float = 30.0
    tenants: int = 4
    first_wait: float = 5.0
    longest_wait: float = 300.0


@dataclass(slots=True)
class Totals:
    """Totals since the process started. `failed` counts passes that did not complete for a tenant."""

    resealed: int = 0
    overtaken: int = 0
    failed: int = 0
    damaged: int = 0
    """Objects that do not decrypt in their context, counted at each attempt; an operator must investigate."""


@dataclass(slots=True)
class _Wait:
    until: float
    seconds: float


class ObjectReencryption:
    """The re-encryption task of one process; MUST be used from its loop."""

    def __init__(  # noqa: PLR0913 - its dependencies, by name
        self,
        database: Database,
        platform: PlatformQueries,
        keyring: KeyCache,
        blocking: BlockingExecutor,
        changes: Invalidations,
        *,
        pace: ReencryptionRate | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.totals = Totals()
        self._database = database
        self._platform = platform
        self._keyring = keyring
        self._blocking = blocking
        self._pace = pace or ReencryptionRate()
        self._monotonic = monotonic
        self._changed = asyncio.Event()
        self._waits: dict[str, _Wait] = {}
        changes.subscribe(self._wake)

    async def run(self) -> None:
        """Run passes forever: immediately, after changes, and every `at_most` seconds."""
        while True:
            self._changed.clear()
            try:
                await self.once()
            except OpenKcmError as error:
                log.warning("re-encryption not possible now", code=error.code)
            except Exception:  # without this task a compromised version would stay in use unnoticed
                log.exception("re-encryption failed")
            await asyncio.sleep(self._pace.between)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pace.at_most - self._pace.between):
                    await self._changed.wait()

    async def once(self) -> None:
        """Process all services with objects to re-encrypt; raise only the errors of step 1, none of a tenant."""
        limit = asyncio.Semaphore(self._pace.tenants)
        last = ("", "")
        while True:
            ask = partial(self._platform.stale_services, last, _PAGE)
            found = await self._blocking.run(_ALL_TENANTS, ask)
            of_tenants = groupby(found, key=lambda one: one[0])
            waiting = [
                self._tenant(limit, tenant_id, [service for _, service in ones]) for tenant_id, ones in of_tenants
            ]
            await asyncio.gather(*waiting)
            if len(found) < _PAGE:
                return
            last = found[-1]

    def _wake(self, tenant: str | None) -> None:
        if tenant is None:
            self._waits.clear()
        else:
            self._waits.pop(tenant, None)
        self._changed.set()

    async def _tenant(self, limit: asyncio.Semaphore, tenant_id: str, services: list[str]) -> None:
        hashed = tenant_hash(tenant_id)
        async with limit:
            wait = self._waits.get(hashed)
            if wait is not None and self._monotonic() < wait.until:
                return
            result = _PassResult(tenant_id)
            random.shuffle(services)  # so that processes start with different services
            try:
                for service in services:
                    await self._service(result, service)
                result.end()
            except Exception as error:
                seconds = min(2 * wait.seconds, self._pace.longest_wait) if wait else self._pace.first_wait
                self._waits[hashed] = _Wait(self._monotonic() + seconds, seconds)
                self.totals.failed += 1
                if isinstance(error, OpenKcmError):
                    log.warning("objects not re-encrypted", tenant_id=tenant_id, code=error.code, again_in=seconds)
                else:
                    log.exception("objects not re-encrypted", tenant_id=tenant_id, again_in=seconds)
            else:
                self._waits.pop(hashed, None)

    async def _service(self, result: "_PassResult", service: str) -> None:
        versions = await self._blocking.run(result.tenant_id, partial(self._versions, result.tenant_id, service))
        for version in versions:
            if not await self._version(result, service, version):
                return
        if versions:
            await self._blocking.run(result.tenant_id, partial(self._note_emptied, result.tenant_id, service))

    async def _version(self, result: "_PassResult", service: str, version: int) -> bool:
        """Re-encrypt the objects under one version; return False when some may remain."""
        after = ""
        for _ in range(self._pace.batches):
            read = partial(self._next_batch, result.tenant_id, service, version, after)
            caller, rows = await self._blocking.run(result.tenant_id, read)
            if caller is None:
                return False
            if not rows:
                return True
            active = await self._keyring.key(caller)
            former = await self._keyring.key(caller, version)
            batch = partial(self._batch, result, caller, former, active, rows)
            if not await self._blocking.run(result.tenant_id, batch):
                return False
            after = rows[-1].object_id
            await asyncio.sleep(self._pace.pause)
        self._changed.set()  # other services run first, then this one continues
        return False

    # Run in a thread.

    def _versions(self, tenant_id: str, service: str) -> Sequence[int]:
        with self._database.tenant_tx(tenant_id) as tx:
            return tx.services.unemptied(service)

    def _next_batch(
        self, tenant_id: str, service: str, version: int, after: str
    ) -> tuple[ClientIdentity | None, Sequence[ObjectRow]]:
        """Return the identity for the encryption context, from the tenant's rows, and the next batch."""
        with self._database.tenant_tx(tenant_id) as tx:
            caller = _holder(tx, service)
            return caller, () if caller is None else tx.objects.sealed(service, version, after, self._pace.batch)

    def _batch(
        self,
        result: "_PassResult",
        caller: ClientIdentity,
        former: ServiceKey,
        active: ServiceKey,
        rows: Sequence[ObjectRow],
    ) -> bool:
        """Re-encrypt a batch; return False when others stored all of it, or the tenant may not decrypt any more."""
        renewed = [sealed for row in rows if (sealed := _reencrypted(caller, former, active, row)) is not None]
        damaged = len(rows) - len(renewed)
        with self._database.tenant_tx(caller.tenant_id) as tx:
            if _holder(tx, caller.service) is None:
                return False
            stored = tx.objects.reseal(renewed)
        result.resealed += stored
        result.damaged += damaged
        self.totals.resealed += stored
        self.totals.overtaken += len(renewed) - stored
        self.totals.damaged += damaged
        return stored > 0 or not renewed

    def _note_emptied(self, tenant_id: str, service: str) -> None:
        with self._database.tenant_tx(tenant_id) as tx:
            versions = tx.services.note_emptied(service)
        for version in versions:
            log.info("key version no longer in use", tenant_id=tenant_id, service=service, version=version)


@dataclass(slots=True)
class _PassResult:
    """The results of one pass for one tenant."""

    tenant_id: str
    resealed: int = 0
    damaged: int = 0

    def end(self) -> None:
        """Raise CiphertextRefused when only damaged objects remain, so that the next attempt is delayed."""
        if self.damaged and not self.resealed:
            raise CiphertextRefused


def _holder(tx: TenantTransaction, service: str) -> ClientIdentity | None:
    """Return the identity whose context encrypts the service's objects; None while the tenant may not decrypt."""
    tenant, route = tx.tenants.get(), tx.routes.get()
    if tenant is None or route is None or tenant.state not in DECRYPTS:
        return None
    return ClientIdentity(tx.tenant_id, service, route.l2_key, route.region, "", tenant.state)


def _reencrypted(caller: ClientIdentity, former: ServiceKey, active: ServiceKey, row: ObjectRow) -> ObjectRow | None:
    """Return the object encrypted with the active version; None when it does not decrypt in its context."""
    context = EncryptionContext(caller.tenant_id, caller.l2_key, caller.service, Purpose.MANAGED_OBJECT, row.object_id)
    material = _decrypted(former, context, row)
    if material is None:
        log.error("object does not decrypt in its context", tenant_id=caller.tenant_id, object_id=row.object_id)
        return None
    sealed = form.seal(active, context, material)
    if _decrypted(active, context, row._replace(material=sealed)) != material:
        raise CiphertextRefused
    return row._replace(key_version=active.version, material=sealed)


def _decrypted(key: ServiceKey, context: EncryptionContext, row: ObjectRow) -> bytes | None:
    if row.material is None or (row.l2_key, row.service) != (context.l2_key, context.service):
        return None
    try:
        return form.unseal(key, context, row.material)
    except CiphertextRefused:
        return None
