"""The second copy of each tenant's lock, at the key server (vault/tenant_locks.py).

A lock takes effect with its row and does not wait for the key server. Its record is written in the background at once,
and by a scheduled run where that failed. A record is removed before the row allows the tenant's services again. Both
happen under the row lock, so the last one decides. Only changes of a tenant that is locked already can wait for it.

An older database has no right to change or remove a record. A run removes one without a lock in the database only if
the audit stream contains the end that the record names: then the database has seen the lock and an unlock after it, and
the record is what a restored older key server has.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import structlog
from temporalio import activity

from compliance.stores import is_database_older, is_in_stream
from core.tenants.lifecycle import State
from core.tenants.locks import DENIED, LockRecord
from database.connection.database import Database
from database.platform.scheduled import PlatformQueries
from openkcm.errors import OpenKcmError
from vault.tenant_locks import TenantLocks

_THREADS = 2

log = structlog.get_logger()


class LockRecorder(Protocol):
    """What a status change does with the second copy of a lock."""

    def record_soon(self, tenant_id: str) -> None:
        """Write the record in the background; called after the commit of the lock."""

    def remove(self, tenant_id: str) -> None:
        """Remove the record; called before the commit that allows services again. Raises VaultUnavailable."""


class LockRecords:
    """A `LockRecorder` at the key server."""

    def __init__(self, database: Database, locks: TenantLocks) -> None:
        self._database = database
        self._locks = locks
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="lock-records")
        self._known: dict[str, tuple[State, frozenset[str]]] = {}
        """State and locks of the records that this process has read or written, so that it reads each one once."""

    def record_soon(self, tenant_id: str) -> None:
        self._threads.submit(self.try_each, [tenant_id], self.record)

    def remove(self, tenant_id: str) -> None:
        self._locks.remove(tenant_id)
        self._known.pop(tenant_id, None)

    def record(self, tenant_id: str) -> None:
        """Write the record of a tenant whose state requires one; keep a record that an older database has not seen."""
        with self._database.tenant_tx(tenant_id) as tx:
            row = tx.tenants.lock()
            if row.state not in DENIED:
                return
            stored = self._locks.get(tenant_id)
            if stored is not None and is_database_older(tx, stored):
                log.warning("the database is older than its lock", tenant_id=tenant_id, state=stored.state)
                return
            head = tx.audit.head()
            seq, chain_hash = (0, "") if head is None else (head.seq, head.chain_hash.hex())
            self._locks.record(tenant_id, LockRecord(row.state, frozenset(row.locks), seq, chain_hash))
        self._known[tenant_id] = row.state, frozenset(row.locks)
        log.info("lock recorded at the key server", tenant_id=tenant_id, state=row.state)

    def is_recorded(self, tenant_id: str, state: State, locks: frozenset[str]) -> bool:
        """Return whether the record that the key server lists for a tenant names this state and these locks."""
        if self._known.get(tenant_id) != (state, locks):
            stored = self._locks.get(tenant_id)
            if stored is None or (stored.state, stored.locks) != (state, locks):
                return False
            self._known[tenant_id] = state, locks
        return True

    def remove_outdated(self, tenant_id: str) -> None:
        """Remove the record of a tenant that the database has unlocked since; see the module."""
        stored = self._locks.get(tenant_id)
        if stored is None:
            return
        with self._database.tenant_tx(tenant_id) as tx:
            row = tx.tenants.get()
            if row is None or tx.tenants.lock().state in DENIED or not is_in_stream(tx, stored):
                return
            self.remove(tenant_id)
        log.info("outdated lock removed from the key server", tenant_id=tenant_id)

    @staticmethod
    def try_each(tenants: list[str], work: Callable[[str], None]) -> None:
        """Run the work for each tenant; a failure of one, which the next run repeats, stops no other."""
        for tenant_id in tenants:
            try:
                work(tenant_id)
            except OpenKcmError as failed:
                log.warning("lock not recorded at the key server", tenant_id=tenant_id, code=failed.code)


class LockRecordActivities:
    def __init__(self, records: LockRecords, queries: PlatformQueries, locks: TenantLocks) -> None:
        self._records = records
        self._queries = queries
        self._locks = locks

    @activity.defn(name="record-locks")
    def record_locks(self) -> None:
        """Write missing and changed records of all tenants, and remove outdated ones."""
        listed = frozenset(self._locks.tenants())
        denied = self._queries.denied_locks()

        def record(tenant_id: str) -> None:
            activity.heartbeat(tenant_id)
            if tenant_id not in listed or not self._records.is_recorded(tenant_id, *denied[tenant_id]):
                self._records.record(tenant_id)

        self._records.try_each(list(denied), record)
        self._records.try_each(sorted(listed - denied.keys()), self._records.remove_outdated)
