"""Locks of tenants at the key server (`vault.tenant_locks`), read once for all callers and keys of a tenant.

A result is used for at most the cache time, like a key in memory, and not after a change of the tenant. The end of the
connections to a database, as for a restore, counts as a change of all tenants.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from core.errors.platform import VaultRefused, VaultUnavailable
from core.errors.tenants import LockedAtKeyServer
from core.keys.encryption_context import EncryptionContext
from crypto_service.interfaces import BlockingExecutor, Invalidations
from crypto_service.shared_tasks import retrieve_exception
from database.postgres.change_feed import tenant_hash
from vault.auth.client import VaultClient
from vault.auth.tenant_tokens import TenantSessions
from vault.tenant_locks import TenantLocks
from vault.transit.tenant_keys import TransitTenantKeys


@dataclass(slots=True)
class _Check:
    """When the key server was last without a lock of a tenant, and the number of changes of the tenant then."""

    changes: int = 0
    read_at: int = -1
    until: float = 0.0

    def is_fresh(self, now: float) -> bool:
        return self.read_at == self.changes and now < self.until


class LockChecks:
    """The checks of one process. `is_locked` MUST be used from one event loop."""

    def __init__(
        self,
        locks: TenantLocks,
        opening: BlockingExecutor,
        changes: Invalidations,
        *,
        cache_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`opening` has the threads for calls to the key server."""
        self._locks = locks
        self._opening = opening
        self._cache_seconds = cache_seconds
        self._monotonic = monotonic
        self._checks: dict[str, _Check] = {}
        self._running: dict[str, tuple[int, asyncio.Task[bool]]] = {}
        """The newest read of each tenant, and the number of changes of the tenant when it began."""
        changes.subscribe(self.forget)

    async def is_locked(self, tenant_id: str) -> bool:
        """Return whether the key server has a lock of the tenant; raise TooManyRequests.

        Without an answer the result is False: a caller's keys need the key server, and so the same check, anyway.
        """
        check = self._check(tenant_id)
        if check.is_fresh(self._monotonic()):
            return False
        began_at, task = self._running.get(tenant_id, (-1, None))
        if task is None or began_at != check.changes:  # a read that began before a change may not see its lock
            task = asyncio.create_task(self._read(tenant_id))
            self._running[tenant_id] = (check.changes, task)
            task.add_done_callback(partial(self._remove_read, tenant_id))
        return await asyncio.shield(task)

    async def _read(self, tenant_id: str) -> bool:
        try:
            await self._opening.run(tenant_id, lambda: self.require_unlocked(tenant_id))
        except LockedAtKeyServer:
            return True
        except (VaultUnavailable, VaultRefused):
            return False
        return False

    def _remove_read(self, tenant_id: str, task: "asyncio.Task[bool]") -> None:
        if tenant_id in self._running and self._running[tenant_id][1] is task:
            del self._running[tenant_id]
        retrieve_exception(task)

    def require_unlocked(self, tenant_id: str) -> None:
        """Raise LockedAtKeyServer while the key server has a lock, VaultUnavailable, VaultRefused; from any thread."""
        check, now = self._check(tenant_id), self._monotonic()
        if check.is_fresh(now):
            return
        read_at = check.changes  # before the read, so that a change during it invalidates the result
        if self._locks.get(tenant_id) is not None:
            raise LockedAtKeyServer
        check.until, check.read_at = now + self._cache_seconds, read_at

    def forget(self, tenant: str | None) -> None:
        """Read the lock of a tenant (its `tenant_hash`), or of all tenants, again before the next use."""
        for check in list(self._checks.values()) if tenant is None else filter(None, [self._checks.get(tenant)]):
            check.changes += 1

    def _check(self, tenant_id: str) -> _Check:
        return self._checks.setdefault(tenant_hash(tenant_id), _Check())


class LockCheckedTenantKeys(TransitTenantKeys):
    """Tenant keys that decrypt only while the key server has no lock of the tenant."""

    def __init__(self, session: VaultClient, tenants: TenantSessions, checks: LockChecks) -> None:
        super().__init__(session, tenants)
        self._checks = checks

    def decrypt(self, context: EncryptionContext, ciphertext: str) -> bytes:
        """Decrypt as `TransitTenantKeys`; raise LockedAtKeyServer while the key server has a lock."""
        self._checks.require_unlocked(context.tenant_id)
        return super().decrypt(context, ciphertext)
