"""A second copy of audit records: those of released key material are in PostgreSQL before the response.

The write-ahead log is on one disk until the shipper has delivered it: a second, or while PostgreSQL does not answer. If
that disk is lost, its records are lost. With these copies a lost disk loses counted uses at most, never a release;
without PostgreSQL no key material is released. A process that ends between the two writes has answered nothing: its
copy records a release that did not happen, never the reverse.
"""

import asyncio
import secrets
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from core.services import RELEASES
from crypto_service.audit.events import separate_event
from crypto_service.audit.wal import WalRecord
from crypto_service.interfaces import AuditEntry, AuditWriter, BlockingExecutor
from crypto_service.shared_tasks import retrieve_exception
from database.connection.database import Database
from openkcm.contract.audit_events import AuditEvent


@dataclass(slots=True)
class _Group:
    """Events of one tenant that the next transaction appends."""

    events: list[AuditEvent] = field(default_factory=list)
    commit: "asyncio.Task[None] | None" = None


class CopiedJournal:
    """An `AuditWriter` that appends releases to the audit stream first; MUST be used from the event loop."""

    def __init__(self, journal: AuditWriter, database: Database, blocking: BlockingExecutor) -> None:
        self._journal, self._database, self._blocking = journal, database, blocking
        self._waiting: dict[str, _Group] = {}
        self._running: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @property
    def is_failing(self) -> bool:
        return self._journal.is_failing

    async def write(self, entries: Sequence[AuditEntry]) -> None:
        """Return when the entries are durable, those of releases in both places.

        Raises: AuditUnavailable, DatabaseUnavailable, DatabaseRefused; then nothing may be answered.
        """
        copied = [_event(entry) for entry in entries if _is_release(entry)]
        if copied:
            await self._append(entries[0].tenant_id, copied)
            entries = [replace(entry, recorded=True) if _is_release(entry) else entry for entry in entries]
        await self._journal.write(entries)

    async def _append(self, tenant_id: str, events: Sequence[AuditEvent]) -> None:
        """Append in one transaction with the other events of the tenant that wait for the transaction before."""
        group = self._waiting.setdefault(tenant_id, _Group())
        group.events += events
        if group.commit is None:
            group.commit = asyncio.create_task(self._commit(tenant_id, group))
            group.commit.add_done_callback(retrieve_exception)
        await asyncio.shield(group.commit)

    async def _commit(self, tenant_id: str, group: _Group) -> None:
        async with self._running[tenant_id]:
            del self._waiting[tenant_id]
            await self._blocking.run(tenant_id, lambda: self._store(tenant_id, group.events))
        if tenant_id not in self._waiting:
            self._running.pop(tenant_id, None)

    def _store(self, tenant_id: str, events: Sequence[AuditEvent]) -> None:
        with self._database.tenant_tx(tenant_id) as tx:
            tx.audit.append_all(events)


def _is_release(entry: AuditEntry) -> bool:
    return entry.operation in RELEASES and not entry.refused


def _event(entry: AuditEntry) -> AuditEvent:
    return separate_event(WalRecord(time.time_ns() // 1_000_000, 0, entry), f"copy:{secrets.token_hex(16)}")
