"""What becomes of the opening of a service key: its line in the journal, and a note of when it was.

The line is waited for like every other: a key that nobody can account for is not used. By it the key server's own log
of who decrypted what with the tenant key is explained, opening by opening (docs/double-entry.md). It is one line for a
version, a process and half of the cache time, however many requests use the key meanwhile.

By the note a customer sees which versions nothing needs any more. It is never waited for and never fails anything: one
that is lost is made again with the next opening, while the version is in use at all.
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

_APART = 60.0
"""Seconds between two notes of one version."""
_MOST = 16_384
"""Versions remembered; beyond it those that were noted first are forgotten, and the database tells them apart."""

Version: TypeAlias = tuple[str, str, int]

log = structlog.get_logger()


class UnwrapAudit:
    """What `ServiceKeyCache` tells of its openings, on its loop."""

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
        self._noted: OrderedDict[Version, float] = OrderedDict()
        self._under_way: set[asyncio.Task[None]] = set()

    async def opened(self, tenant_id: str, service: str, version: int) -> None:
        """Return when the journal has it; raises AuditUnavailable. The note is made at most once a minute."""
        doing = correlation_id.get() or new_correlation_id()
        await self._journal.write((AuditEntry(tenant_id, service, CryptoOperation.OPEN, str(version), doing),))
        self._note_soon(tenant_id, service, version)

    def _note_soon(self, tenant_id: str, service: str, version: int) -> None:
        key, now = (tenant_id, service, version), self._monotonic()
        if now - self._noted.get(key, -_APART) < _APART:
            return
        self._noted[key] = now
        self._noted.move_to_end(key)
        if len(self._noted) > _MOST:
            self._noted.popitem(last=False)
        task = asyncio.get_running_loop().create_task(self._note(key))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _note(self, key: Version) -> None:
        tenant_id, service, version = key
        try:
            await self._blocking.run(tenant_id, partial(self._write, tenant_id, service, version))
        except OpenKcmError as error:
            self._noted.pop(key, None)
            log.warning("opening not noted", tenant_id=tenant_id, service=service, version=version, code=error.code)

    def _write(self, tenant_id: str, service: str, version: int) -> None:
        with self._database.tenant_tx(tenant_id) as tx:
            tx.services.opened(service, version)
