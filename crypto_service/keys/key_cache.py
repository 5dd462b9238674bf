"""Unwrapped L3 service keys, in memory for at most the cache time (MTCI E1 to E3, A2).

An unwrap is `L2.decrypt(L1.unwrap(wrapped, context), context)`: one root-key call and one Vault call under the tenant's
dedicated identity. One layer alone decrypts nothing, so a customer who disables the root key stops this service within
the cache time, and immediately for keys that are not in memory.

A key in use is unwrapped again after half of its cache time. A disabled root key is therefore detected here even while
every other process is down, and the tenant's keys are then dropped immediately. If the root key is only unreachable,
at least the other half of the cache time remains as grace.

The active version is the one that was recorded as active when the row was read; a change of the state of any version
is notified and drops the tenant's keys. A new wrap under a newer L2 is not notified, because it contains the same key.
An unwrap that read the former wrap, whose L2 version has been retired since, therefore reads the row once more.

The origin of the key is checked before anything is unwrapped, and the context is computed from the caller, never read
from the row. A row that was copied to another tenant, service or version therefore fails.

What Python can do for keys in memory: a cached key is stored in a `bytearray`, which is overwritten when the key is
dropped, also at the end of its cache time without a further request. A returned key is a short-lived copy, which
Python frees but does not overwrite.
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
from core.tracing.spans import child_span
from crypto_service.interfaces import BlockingExecutor, ClientIdentity, Invalidations, ServiceKey
from crypto_service.shared_tasks import retrieve_exception
from database.connection.database import Database
from database.keys import EncryptedRootKeyRow, ServiceKeyRow
from database.postgres.change_feed import tenant_hash
from kms.interfaces import RootKey
from kms.key_cache import RootKeyCache
from openkcm.errors import OpenKcmError
from vault.transit.tenant_keys import TransitTenantKeys

MATERIAL = 32
"""Bytes of an L3."""
_RENEWAL_SECONDS = 5.0
"""Seconds between two attempts to unwrap again a key that is still valid."""
_BACKOFF_SECONDS = 0.5
"""Seconds for which a failure is cached, so that not every request calls a failing key server."""

log = structlog.get_logger()


_Read = tuple[ServiceKeyRow, EncryptedRootKeyRow | None]


class _KeyId(NamedTuple):
    """The cache key: every deciding property of the caller, so no entry serves another; version None is the active."""

    tenant_id: str
    service: str
    l2_key: str
    region: str
    version: int | None


@dataclass(slots=True)
class _Entry:
    version: int
    material: bytearray = field(repr=False)
    compromised: bool
    until: float
    renew_at: float

    def overwrite(self) -> None:
        self.material[:] = bytes(len(self.material))


@dataclass(slots=True)
class _Tenant:
    """The cached state of one tenant. It is replaced as a whole when the tenant changes.

    An unwrap in progress then reads its row again before it returns the key: a key that was read before a change is
    not served after it.
    """

    entries: dict[tuple[str, str, str, str, int | None], _Entry] = field(default_factory=dict)
    """By the fields of a `_KeyId`."""
    unwraps: "dict[_KeyId, asyncio.Task[ServiceKey]]" = field(default_factory=dict)
    failed: dict[_KeyId, tuple[OpenKcmError, float]] = field(default_factory=dict)
    replaced: bool = False


class ServiceKeyCache:
    """`interfaces.KeyCache`. MUST be used from one loop; `close` overwrites all keys."""

    def __init__(  # noqa: PLR0913 - its dependencies, by name
        self,
        database: Database,
        tenant_keys: TransitTenantKeys,
        root_keys: RootKeyCache,
        blocking: BlockingExecutor,
        changes: Invalidations,
        *,
        cache_seconds: float,
        opened: Callable[[str, str, int], Awaitable[None]],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`opened` is awaited with tenant, service and version after each unwrap, before the key is used."""
        self._database = database
        self._tenant_keys = tenant_keys
        self._root_keys = root_keys
        self._blocking = blocking
        self._cache_seconds = cache_seconds
        self._opened = opened
        self._monotonic = monotonic
        self._tenants: defaultdict[str, _Tenant] = defaultdict(_Tenant)
        self._by_hash: dict[str, str] = {}
        changes.subscribe(self.forget)

    async def key(self, caller: ClientIdentity, version: int | None = None) -> ServiceKey:
        """Return the active L3 of the caller's service, or the given version; see `interfaces.KeyCache`."""
        cached = self.cached(caller, version)
        if cached is not None:
            return cached
        key_id = _KeyId(caller.tenant_id, caller.service, caller.l2_key, caller.region, version)
        tenant = self._tenants[caller.tenant_id]
        failed = tenant.failed.get(key_id)
        if failed is not None and self._monotonic() < failed[1]:
            raise failed[0].with_traceback(None)
        return await asyncio.shield(self._unwrapping(key_id, tenant))

    def cached(self, caller: ClientIdentity, version: int | None = None) -> ServiceKey | None:
        """See `interfaces.KeyCache`; may start to unwrap the key again beforehand."""
        tenant = self._tenants[caller.tenant_id]
        fields = caller.tenant_id, caller.service, caller.l2_key, caller.region, version
        entry = tenant.entries.get(fields)
        now = self._monotonic()
        if entry is None or now >= entry.until:
            return None
        if now >= entry.renew_at:
            self._renew(_KeyId(*fields), tenant, entry)
        return ServiceKey(entry.version, bytes(entry.material), entry.compromised)

    def revision(self, tenant_id: str) -> object:
        """See `interfaces.KeyCache`."""
        return self._tenants[tenant_id]

    def forget(self, tenant: str | None) -> None:
        """Drop the keys of a tenant (by `tenant_hash`) or of all, and the results of unwraps in progress."""
        changed = tuple(self._tenants) if tenant is None else (self._by_hash.get(tenant, ""),)
        for tenant_id in changed:
            old = self._tenants.pop(tenant_id, None)
            if old is not None:
                old.replaced = True
                _drop_keys(old)
                self._root_keys.forget(tenant_id)

    def close(self) -> None:
        """Drop and overwrite all keys."""
        self.forget(None)

    def _unwrapping(self, key_id: _KeyId, tenant: _Tenant) -> "asyncio.Task[ServiceKey]":
        """Return the unwrap in progress; start one if none is."""
        task = tenant.unwraps.get(key_id)
        if task is None:
            self._by_hash[tenant_hash(key_id.tenant_id)] = key_id.tenant_id
            task = asyncio.get_running_loop().create_task(self._unwrap(key_id, tenant))
            tenant.unwraps[key_id] = task
            task.add_done_callback(partial(_remove_unwrap, tenant, key_id))
        return task

    def _renew(self, key_id: _KeyId, tenant: _Tenant, entry: _Entry) -> None:
        """Unwrap a key again in the background, while it is still valid."""
        entry.renew_at = self._monotonic() + _RENEWAL_SECONDS
        self._unwrapping(key_id, tenant)

    async def _unwrap(self, key_id: _KeyId, tenant: _Tenant) -> ServiceKey:
        # Before the row is read: the cache time of a key starts with the oldest data that it depends on.
        until = self._monotonic() + self._cache_seconds
        started = False

        def work() -> tuple[_Read, ServiceKey]:
            nonlocal started
            started = True
            return self._read_and_unwrap(key_id)

        try:
            read, key = await self._blocking.run(key_id.tenant_id, work)
            await self._opened(key_id.tenant_id, key_id.service, key.version)
        except OpenKcmError as error:
            if isinstance(error, CustomerKeyError) and not error.retryable:
                # Disabled by the customer: the tenant's other keys were unwrapped with the same root key.
                _drop_keys(tenant)
            # Not cached: a caller can request any missing version, and must not affect the others.
            if started and not isinstance(error, (ObjectNotFound, KeyVersionRetired)):
                tenant.failed[key_id] = (error, self._monotonic() + _BACKOFF_SECONDS)
                asyncio.get_running_loop().call_later(_BACKOFF_SECONDS, tenant.failed.pop, key_id, None)
            raise
        while tenant.replaced:
            # The tenant changed meanwhile, but perhaps not this key: a slow key server would be called for nothing.
            tenant = self._tenants[key_id.tenant_id]
            if await self._blocking.run(key_id.tenant_id, partial(self._read, key_id)) != read:
                return await asyncio.shield(self._unwrapping(key_id, self._tenants[key_id.tenant_id]))
        self._keep(key_id, tenant, key, until)
        return key

    def _keep(self, key_id: _KeyId, tenant: _Tenant, key: ServiceKey, until: float) -> None:
        entry = _Entry(key.version, bytearray(key.material), key.compromised, until, until - self._cache_seconds / 2)
        for same in (key_id, key_id._replace(version=key.version)):
            tenant.entries[same] = entry
        asyncio.get_running_loop().call_later(until - self._monotonic(), _expire, tenant, entry)

    def _read_and_unwrap(self, key_id: _KeyId) -> tuple[_Read, ServiceKey]:
        """Read the row, check its origin and unwrap both layers, in a thread; return the row, too."""
        read = self._read(key_id)
        try:
            return read, self._unwrap_row(key_id, *read)
        except KeyUnavailable:
            # L2 is destroyed, or only the version of it that wrapped the row when it was read.
            again = self._read(key_id)
            if again == read:
                raise
            return again, self._unwrap_row(key_id, *again)

    def _read(self, key_id: _KeyId) -> _Read:
        with self._database.tenant_tx(key_id.tenant_id) as tx:
            found = tx.services.key_and_root(key_id.service, key_id.version)
        if found is None:
            raise ObjectNotFound
        if not _has_origin(key_id, found[0]):
            log.error("service key has another origin", tenant_id=key_id.tenant_id, service=key_id.service)
            raise ObjectNotFound
        return found

    def _unwrap_row(self, key_id: _KeyId, row: ServiceKeyRow, held: EncryptedRootKeyRow | None) -> ServiceKey:
        context = EncryptionContext(
            key_id.tenant_id, key_id.l2_key, key_id.service, Purpose.SERVICE_KEY, str(row.version)
        )
        try:
            with child_span("root key unwrap"):
                inner = self._root_key(key_id, row, held).unwrap(context, row.wrapped)
            with child_span("tenant key decrypt"):
                material = self._tenant_keys.decrypt(context, inner.decode("ascii"))
        except (WrongContext, UnicodeDecodeError):
            # Not reported to the caller: the stored key was moved or altered, which the operator must investigate.
            log.exception("service key cannot be unwrapped", tenant_id=key_id.tenant_id, service=key_id.service)
            raise KeyUnavailable from None
        if len(material) != MATERIAL:
            log.error("service key has the wrong size", tenant_id=key_id.tenant_id, service=key_id.service)
            raise KeyUnavailable
        return ServiceKey(row.version, material, row.state is KeyState.COMPROMISED)

    def _root_key(self, key_id: _KeyId, row: ServiceKeyRow, held: EncryptedRootKeyRow | None) -> RootKey:
        """Return the L1 that wraps the row, and never another one."""
        if row.root_key_id is None:
            return self._root_keys.platform(key_id.region)
        if held is None:
            raise RootKeyDenied("the root key's credentials were deleted when it was retired")
        return self._root_keys.held(key_id.tenant_id, held.root_key_id, held.place, held.credentials)


def _has_origin(key_id: _KeyId, row: ServiceKeyRow) -> bool:
    """Return whether the row belongs to this service and to the only L2 of the tenant (MTCI A2, A3)."""
    return (
        key_id.l2_key == l2_key(key_id.tenant_id) == row.l2_key
        and row.service == key_id.service
        and key_id.version in (None, row.version)
    )


def _remove_unwrap(tenant: _Tenant, key_id: _KeyId, task: "asyncio.Task[ServiceKey]") -> None:
    del tenant.unwraps[key_id]
    retrieve_exception(task)


def _drop_keys(tenant: _Tenant) -> None:
    for entry in tenant.entries.values():
        entry.overwrite()
    tenant.entries.clear()


def _expire(tenant: _Tenant, entry: _Entry) -> None:
    """Overwrite a key at the end of its cache time, also without a further request."""
    entry.overwrite()
    for key_id in [key_id for key_id, other in tenant.entries.items() if other is entry]:
        del tenant.entries[key_id]
