"""Managed objects, sealed anew under the active version of their service's key, when another one has become active.

1. Which services have a version that is not active any more and not emptied yet: one question for all tenants.
2. The tenant's state decrypts; otherwise nothing of it is touched.
3. Both versions are opened, by `keyring`, which checks their descent from the tenant's own L2.
4. A batch is opened and sealed in each object's place, and opened again: what is about to be replaced is the only one.
5. It is stored where the object has not changed meanwhile. Nothing that a client could see changes.
6. When a version has no object left, that is noted, and from then on the database takes none.

Dying anywhere loses nothing: an object lies under one version or the other, and the next pass finds what is left.
Processes that do the same at once meet in 5, and whoever got nothing of a batch leaves that service to the other.
Nobody waits for any of it, so it goes slowly, one thread of a tenant at a time; a tenant in trouble is left alone for
longer each time, until something of it changes.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
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
from database.postgres.notify import tenant_hash
from database.services.managed_objects import ObjectRow
from openkcm.errors import OpenKcmError

_EVERYBODY = "*"
"""Whose threads the question of step 1 takes."""
_PAGE = 200

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ReencryptionRate:
    """How fast it goes: `batches` of one version, with a `pause` after each, then others have their turn.

    It asks again `between` seconds after a change, and after `at_most` when nothing seemed to change.
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
    """Since the process began. `failed` counts passes that a tenant did not get through."""

    resealed: int = 0
    overtaken: int = 0
    failed: int = 0
    damaged: int = 0
    """Objects that do not open in their place, each time that one is met; a person must look."""


@dataclass(slots=True)
class _Wait:
    until: float
    seconds: float


class ObjectReencryption:
    """The task of one process; used from its loop."""

    def __init__(  # noqa: PLR0913 - what it is made of, by name
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
        """Go on for ever: at once, after changes, and every `at_most` seconds."""
        while True:
            self._changed.clear()
            try:
                await self.once()
            except OpenKcmError as error:
                log.warning("resealing not possible now", code=error.code)
            except Exception:  # without this task a compromised version would stay in use unseen
                log.exception("resealing failed")
            await asyncio.sleep(self._pace.between)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pace.at_most - self._pace.between):
                    await self._changed.wait()

    async def once(self) -> None:
        """Go through all services that have something to seal anew; raises what step 1 does, of a tenant's nothing."""
        places = asyncio.Semaphore(self._pace.tenants)
        last = ("", "")
        while True:
            ask = partial(self._platform.stale_services, last, _PAGE)
            found = await self._blocking.run(_EVERYBODY, ask)
            of_tenants = groupby(found, key=lambda one: one[0])
            waiting = [
                self._tenant(places, tenant_id, [service for _, service in ones]) for tenant_id, ones in of_tenants
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

    async def _tenant(self, places: asyncio.Semaphore, tenant_id: str, services: list[str]) -> None:
        known_as = tenant_hash(tenant_id)
        async with places:
            wait = self._waits.get(known_as)
            if wait is not None and self._monotonic() < wait.until:
                return
            turn = _Turn(tenant_id)
            random.shuffle(services)  # so that processes begin at different ones
            try:
                for service in services:
                    await self._service(turn, service)
                turn.end()
            except Exception as error:
                seconds = min(2 * wait.seconds, self._pace.longest_wait) if wait else self._pace.first_wait
                self._waits[known_as] = _Wait(self._monotonic() + seconds, seconds)
                self.totals.failed += 1
                if isinstance(error, OpenKcmError):
                    log.warning("objects not sealed anew", tenant_id=tenant_id, code=error.code, again_in=seconds)
                else:
                    log.exception("objects not sealed anew", tenant_id=tenant_id, again_in=seconds)
            else:
                self._waits.pop(known_as, None)

    async def _service(self, turn: "_Turn", service: str) -> None:
        versions = await self._blocking.run(turn.tenant_id, partial(self._versions, turn.tenant_id, service))
        for version in versions:
            if not await self._version(turn, service, version):
                return
        if versions:
            await self._blocking.run(turn.tenant_id, partial(self._note_emptied, turn.tenant_id, service))

    async def _version(self, turn: "_Turn", service: str, version: int) -> bool:
        """Go through the objects under one version; False when that was not to the end."""
        after = ""
        for _ in range(self._pace.batches):
            look = partial(self._look, turn.tenant_id, service, version, after)
            caller, rows = await self._blocking.run(turn.tenant_id, look)
            if caller is None:
                return False
            if not rows:
                return True
            active = await self._keyring.key(caller)
            former = await self._keyring.key(caller, version)
            batch = partial(self._batch, turn, caller, former, active, rows)
            if not await self._blocking.run(turn.tenant_id, batch):
                return False
            after = rows[-1].object_id
            await asyncio.sleep(self._pace.pause)
        self._changed.set()  # others had to wait for this long; now they have their turn, and then it goes on here
        return False

    # In a thread.

    def _versions(self, tenant_id: str, service: str) -> Sequence[int]:
        with self._database.tenant_tx(tenant_id) as tx:
            return tx.services.unemptied(service)

    def _look(
        self, tenant_id: str, service: str, version: int, after: str
    ) -> tuple[ClientIdentity | None, Sequence[ObjectRow]]:
        """Return in whose place they open, put together from the tenant's rows, and the next batch."""
        with self._database.tenant_tx(tenant_id) as tx:
            caller = _holder(tx, service)
            return caller, () if caller is None else tx.objects.sealed(service, version, after, self._pace.batch)

    def _batch(
        self, turn: "_Turn", caller: ClientIdentity, former: ServiceKey, active: ServiceKey, rows: Sequence[ObjectRow]
    ) -> bool:
        """Seal a batch anew; False when others were faster with all of it, or the tenant was closed."""
        anew = [sealed for row in rows if (sealed := _sealed(caller, former, active, row)) is not None]
        damaged = len(rows) - len(anew)
        with self._database.tenant_tx(caller.tenant_id) as tx:
            if _holder(tx, caller.service) is None:
                return False
            stored = tx.objects.reseal(anew)
        turn.resealed += stored
        turn.damaged += damaged
        self.totals.resealed += stored
        self.totals.overtaken += len(anew) - stored
        self.totals.damaged += damaged
        return stored > 0 or not anew

    def _note_emptied(self, tenant_id: str, service: str) -> None:
        with self._database.tenant_tx(tenant_id) as tx:
            versions = tx.services.note_emptied(service)
        for version in versions:
            log.info(
                "nothing is sealed under a version any more", tenant_id=tenant_id, service=service, version=version
            )


@dataclass(slots=True)
class _Turn:
    """What one pass did for one tenant."""

    tenant_id: str
    resealed: int = 0
    damaged: int = 0

    def end(self) -> None:
        """Raise CiphertextRefused when only damaged objects are left: meeting those again can wait."""
        if self.damaged and not self.resealed:
            raise CiphertextRefused


def _holder(tx: TenantTransaction, service: str) -> ClientIdentity | None:
    """Return in whose place the service's objects open, None while the tenant's state opens nothing."""
    tenant, route = tx.tenants.get(), tx.routes.get()
    if tenant is None or route is None or tenant.state not in DECRYPTS:
        return None
    return ClientIdentity(tx.tenant_id, service, route.l2_key, route.region, "", tenant.state)


def _sealed(caller: ClientIdentity, former: ServiceKey, active: ServiceKey, row: ObjectRow) -> ObjectRow | None:
    """Return the object under the active version, None when it does not open in its place."""
    place = EncryptionContext(caller.tenant_id, caller.l2_key, caller.service, Purpose.MANAGED_OBJECT, row.object_id)
    material = _opened(former, place, row)
    if material is None:
        log.error("object does not open in its place", tenant_id=caller.tenant_id, object_id=row.object_id)
        return None
    sealed = form.seal(active, place, material)
    if _opened(active, place, replace(row, material=sealed)) != material:
        raise CiphertextRefused
    return replace(row, key_version=active.version, material=sealed)


def _opened(key: ServiceKey, place: EncryptionContext, row: ObjectRow) -> bytes | None:
    if row.material is None or (row.l2_key, row.service) != (place.l2_key, place.service):
        return None
    try:
        return form.unseal(key, place, row.material)
    except CiphertextRefused:
        return None
