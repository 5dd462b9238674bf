"""Opened L3 service keys, in memory for at most the cache time (MTCI E1 to E3, A2).

Opening is `L2.decrypt(L1.unwrap(wrapped, context), context)`: one root-key call and one Vault call under the tenant's
own identity. Either layer alone opens nothing, so a customer who takes the root key away stops this service within
the cache time, and at once for what is not in memory.

A key in use is opened again when half of its time is over. So whoever took the root key away is noticed here too, with
every other process down, and what is open is dropped at once; while a root key that is merely out of reach leaves at
least the other half, which is the grace.

What encrypts is the version on record as active when it was read; a change of any version's state is announced like
every other and drops what is open. Wraps that are only made anew, under a newer L2, are not announced, because they
open to the very same key: an opening that read the former wrap and comes too late for its L2 reads the row once more.

The descent is checked before anything is opened, and the context is put together from the caller, never read from the
row: a row that was copied to another tenant, service or version carries its own context along in vain.

What Python can do for keys in memory: what is kept lies in a `bytearray` that is overwritten when it is dropped, at
its end also when nobody asks again. What is handed out is a short-lived copy, which Python frees but does not
overwrite.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import structlog

from core.errors.keys import CustomerKeyError, KeyUnavailable, KeyVersionRetired, RootKeyDenied, WrongContext
from core.errors.services import ObjectNotFound
from core.keys.encryption_context import EncryptionContext, Purpose
from core.keys.rotation import KeyState
from core.names import l2_key
from crypto_service.interfaces import BlockingExecutor, ClientIdentity, Invalidations, ServiceKey
from database.connection.database import Database
from database.keys import EncryptedRootKeyRow, ServiceKeyRow
from database.postgres.notify import tenant_hash
from kms.interfaces import RootKey
from kms.key_cache import RootKeyCache
from openkcm.errors import OpenKcmError
from vault.transit.tenant_keys import TransitTenantKeys

MATERIAL = 32
"""Bytes of an L3."""
_RENEWAL_PAUSE = 5.0
"""Seconds between two tries to open a key again that is still good."""
_BACK_OFF = 0.5
"""Seconds for which a failure is the answer: a key server in trouble is not asked again by every request."""

log = structlog.get_logger()


class _Place(NamedTuple):
    """Whose key: all of the caller that decides, so no entry can answer for another; `version` None: the active one."""

    tenant_id: str
    service: str
    l2_key: str
    region: str
    version: int | None


@dataclass(slots=True)
class _Kept:
    version: int
    material: bytearray = field(repr=False)
    compromised: bool
    until: float
    renew_at: float

    def overwrite(self) -> None:
        self.material[:] = bytes(len(self.material))


@dataclass(slots=True)
class _Tenant:
    """What is remembered of one tenant. It is replaced as a whole when the tenant changes.

    An opening that is under way then ends in the replaced one, where nobody looks: a key that was read before a
    change is never found after it.
    """

    kept: dict[_Place, _Kept] = field(default_factory=dict)
    opening: "dict[_Place, asyncio.Task[ServiceKey]]" = field(default_factory=dict)
    failed: dict[_Place, tuple[OpenKcmError, float]] = field(default_factory=dict)
    replaced: bool = False


class ServiceKeyCache:
    """`interfaces.Keyring`. Used from one loop; `close` overwrites everything."""

    def __init__(  # noqa: PLR0913 - what it is made of, by name
        self,
        database: Database,
        tenant_keys: TransitTenantKeys,
        shelf: RootKeyCache,
        blocking: BlockingExecutor,
        changes: Invalidations,
        *,
        cache_seconds: float,
        opened: Callable[[str, str, int], Awaitable[None]],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`opened` is told tenant, service and version of each key that was really opened, and none is used before."""
        self._database = database
        self._tenant_keys = tenant_keys
        self._shelf = shelf
        self._blocking = blocking
        self._cache_seconds = cache_seconds
        self._opened = opened
        self._monotonic = monotonic
        self._tenants: defaultdict[str, _Tenant] = defaultdict(_Tenant)
        self._marked: dict[str, str] = {}
        changes.subscribe(self.forget)

    async def key(self, caller: ClientIdentity, version: int | None = None) -> ServiceKey:
        """Return the active L3 of the caller's service, or one version of it; see `interfaces.Keyring`."""
        place = _Place(caller.tenant_id, caller.service, caller.l2_key, caller.region, version)
        tenant = self._tenants[caller.tenant_id]
        now = self._monotonic()
        kept = tenant.kept.get(place)
        if kept is not None and now < kept.until:
            if now >= kept.renew_at:
                self._renew(place, tenant, kept)
            return ServiceKey(kept.version, bytes(kept.material), kept.compromised)
        failed = tenant.failed.get(place)
        if failed is not None and now < failed[1]:
            raise failed[0].with_traceback(None)
        return await asyncio.shield(self._opening(place, tenant))

    def forget(self, tenant: str | None) -> None:
        """Drop what is kept of a tenant (its `mark`), or of all, and whatever is just being opened when it comes."""
        changed = tuple(self._tenants) if tenant is None else (self._marked.get(tenant, ""),)
        for tenant_id in changed:
            old = self._tenants.pop(tenant_id, None)
            if old is not None:
                old.replaced = True
                _empty(old)
                self._shelf.forget(tenant_id)

    def close(self) -> None:
        """Drop everything."""
        self.forget(None)

    def _opening(self, place: _Place, tenant: _Tenant) -> "asyncio.Task[ServiceKey]":
        """Return the opening that is under way, begun if there is none."""
        task = tenant.opening.get(place)
        if task is None:
            self._marked[tenant_hash(place.tenant_id)] = place.tenant_id
            task = asyncio.get_running_loop().create_task(self._open(place, tenant))
            tenant.opening[place] = task
            task.add_done_callback(partial(_settle, tenant, place))
        return task

    def _renew(self, place: _Place, tenant: _Tenant, kept: _Kept) -> None:
        """Open a key again while it is still good; nobody waits for it."""
        kept.renew_at = self._monotonic() + _RENEWAL_PAUSE
        self._opening(place, tenant)

    async def _open(self, place: _Place, tenant: _Tenant) -> ServiceKey:
        # Before the row is read: a key's time begins with the oldest thing it depends on.
        until = self._monotonic() + self._cache_seconds
        begun = False

        def work() -> ServiceKey:
            nonlocal begun
            begun = True
            return self._read_and_open(place)

        try:
            key = await self._blocking.run(place.tenant_id, work)
            await self._opened(place.tenant_id, place.service, key.version)
        except OpenKcmError as error:
            if isinstance(error, CustomerKeyError) and not error.retryable:
                # Taken away: what else is open of this tenant was opened with the same root key.
                _empty(tenant)
            # A version that is not there is asked for by whoever invents one: nobody else's trouble, not remembered.
            if begun and not isinstance(error, (ObjectNotFound, KeyVersionRetired)):
                tenant.failed[place] = (error, self._monotonic() + _BACK_OFF)
                asyncio.get_running_loop().call_later(_BACK_OFF, tenant.failed.pop, place, None)
            raise
        if not tenant.replaced:
            self._keep(place, tenant, key, until)
        return key

    def _keep(self, place: _Place, tenant: _Tenant, key: ServiceKey, until: float) -> None:
        kept = _Kept(key.version, bytearray(key.material), key.compromised, until, until - self._cache_seconds / 2)
        for same in (place, place._replace(version=key.version)):
            tenant.kept[same] = kept
        asyncio.get_running_loop().call_later(until - self._monotonic(), _end, tenant, kept)

    def _read_and_open(self, place: _Place) -> ServiceKey:
        """In a thread: read the row, check its descent, open both layers."""
        read = self._read(place)
        try:
            return self._open_row(place, *read)
        except KeyUnavailable:
            # L2 is gone, or only the version of it that the row lay under when it was read.
            again = self._read(place)
            if again == read:
                raise
            return self._open_row(place, *again)

    def _read(self, place: _Place) -> tuple[ServiceKeyRow, EncryptedRootKeyRow | None]:
        with self._database.tenant_tx(place.tenant_id) as tx:
            found = tx.services.key_and_root(place.service, place.version)
        if found is None:
            raise ObjectNotFound
        if not _descends(place, found[0]):
            log.error("service key descends from elsewhere", tenant_id=place.tenant_id, service=place.service)
            raise ObjectNotFound
        return found

    def _open_row(self, place: _Place, row: ServiceKeyRow, held: EncryptedRootKeyRow | None) -> ServiceKey:
        context = EncryptionContext(place.tenant_id, place.l2_key, place.service, Purpose.SERVICE_KEY, str(row.version))
        try:
            inner = self._root_key(place, row, held).unwrap(context, row.wrapped)
            material = self._tenant_keys.decrypt(context, inner.decode("ascii"))
        except (WrongContext, UnicodeDecodeError):
            # Not told to the caller: what is stored was moved or altered, which is for the platform to look at.
            log.exception("service key does not open in its place", tenant_id=place.tenant_id, service=place.service)
            raise KeyUnavailable from None
        if len(material) != MATERIAL:
            log.error("service key is of another size", tenant_id=place.tenant_id, service=place.service)
            raise KeyUnavailable
        return ServiceKey(row.version, material, row.state is KeyState.COMPROMISED)

    def _root_key(self, place: _Place, row: ServiceKeyRow, held: EncryptedRootKeyRow | None) -> RootKey:
        """Return the L1 that the row lies under, and never another in its stead."""
        if row.root_key_id is None:
            return self._shelf.platform(place.region)
        if held is None:
            raise RootKeyDenied("the root key's credentials were forgotten when it was retired")
        return self._shelf.held(place.tenant_id, held.root_key_id, held.place, held.credentials)


def _descends(place: _Place, row: ServiceKeyRow) -> bool:
    """Whether the row is of this service and descends from the one L2 that is the tenant's own (MTCI A2, A3)."""
    return (
        place.l2_key == l2_key(place.tenant_id) == row.l2_key
        and row.service == place.service
        and place.version in (None, row.version)
    )


def _settle(tenant: _Tenant, place: _Place, task: "asyncio.Task[ServiceKey]") -> None:
    del tenant.opening[place]
    if not task.cancelled():
        task.exception()  # seen: whoever waits gets it, and all of them may have gone


def _empty(tenant: _Tenant) -> None:
    for kept in tenant.kept.values():
        kept.overwrite()
    tenant.kept.clear()


def _end(tenant: _Tenant, kept: _Kept) -> None:
    """Overwrite a key whose time is over, though nobody asks for it again."""
    kept.overwrite()
    for place in [place for place, other in tenant.kept.items() if other is kept]:
        del tenant.kept[place]
