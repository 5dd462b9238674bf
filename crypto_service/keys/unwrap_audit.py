"""The audit entry for each unwrap of a service key, and the recorded time of the last unwrap.

The key is not used before the entry is written: a key without an entry is not accounted for. The entries explain the
key server's log of decryptions with the tenant key, unwrap by unwrap (docs/reconciliation.md). There is one entry per
version, process and half of the cache time, however many requests use the key meanwhile.

The recorded time shows a customer which versions are no longer needed. No request waits for it, and its failure fails
nothing: a lost time is recorded with the next unwrap, as long as the version is in use.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import structlog

from core.correlation import correlation_id
from core.services import CryptoOperation
from crypto_service.correlation import new_correlation_id
from crypto_service.interfaces import AuditEntry, AuditWriter, BlockingExecutor
from database.connection.database import Database
from openkcm.errors import OpenKcmError

_INTERVAL_SECONDS = 60.0
"""Seconds between two recorded times of one version."""
_MAX_VERSIONS = 16_384
"""Versions remembered; beyond this number the first recorded are removed, and the database handles repetitions."""

Version: TypeAlias = tuple[str, str, int]

log = structlog.get_logger()


class UnwrapAudit:
    """Records the unwraps of `ServiceKeyCache`, on its loop."""

    def __init__(
        self,
        database: Database,
        blocking: BlockingExecutor,
        journal: AuditWriter,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._blocking = blocking
        self._journal = journal
        self._monotonic = monotonic
        self._stored: OrderedDict[Version, float] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()

    async def opened(self, tenant_id: str, service: str, version: int) -> None:
        """Return when the audit entry is written; raise AuditUnavailable. Records the time at most once a minute."""
        correlation = correlation_id.get() or new_correlation_id()
        await self._journal.write((AuditEntry(tenant_id, service, CryptoOperation.OPEN, str(version), correlation),))
        self._store_soon(tenant_id, service, version)

    def _store_soon(self, tenant_id: str, service: str, version: int) -> None:
        key, now = (tenant_id, service, version), self._monotonic()
        if now - self._stored.get(key, -_INTERVAL_SECONDS) < _INTERVAL_SECONDS:
            return
        self._stored[key] = now
        self._stored.move_to_end(key)
        if len(self._stored) > _MAX_VERSIONS:
            self._stored.popitem(last=False)
        task = asyncio.get_running_loop().create_task(self._store(key))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _store(self, key: Version) -> None:
        tenant_id, service, version = key
        try:
            await self._blocking.run(tenant_id, partial(self._write, tenant_id, service, version))
        except OpenKcmError as error:
            self._stored.pop(key, None)
            log.warning(
                "unwrap time not stored", tenant_id=tenant_id, service=service, version=version, code=error.code
            )

    def _write(self, tenant_id: str, service: str, version: int) -> None:
        with self._database.tenant_tx(tenant_id) as tx:
            tx.services.opened(service, version)
