"""Reads what PostgreSQL and the key server have about the tenants, for their comparison.

Used with the identities of the operator, who reads all tenants, and of the worker, which repairs one.
"""

from collections.abc import Mapping
from typing import TypeVar

from core import names as ids
from core.tenants.locks import DENIED, LockRecord
from core.tenants.store_comparison import RecordedLock, StoreStates, TenantRecord
from database.connection.database import Database
from database.connection.transaction import TenantTransaction
from database.platform.stores import StoreQueries, StoreStateRow
from openkcm.contract.audit_events import head_message
from openkcm.verification.public_keys import PublicKeys
from vault.auth.client import VaultClient
from vault.tenant_locks import TenantLocks
from vault.transit.audit_signer import TransitAuditSigner
from vault.transit.key_states import TransitKeyStates

Value = TypeVar("Value")


class StoreReader:
    """PostgreSQL and the key server. Raises DatabaseUnavailable, DatabaseRefused, VaultUnavailable, VaultRefused."""

    def __init__(self, database: Database, session: VaultClient) -> None:
        self._database = database
        self._rows = StoreQueries(database)
        self._keys = TransitKeyStates(session)
        self._locks = TenantLocks(session)
        self._signer = TransitAuditSigner(session)

    def all(self) -> StoreStates:
        """Return all tenants; the workflows are unknown."""
        public = PublicKeys(self._signer.public_keys())
        tenants = {row.tenant_id: _record(row, public) for row in self._rows.states()}
        locks: dict[str, RecordedLock] = {}
        for tenant_id in self._locks.tenants():
            lock = self._locks.get(tenant_id)
            if lock is not None:
                locks[tenant_id] = self._recorded(lock, tenants.get(tenant_id))
        return StoreStates(tenants, self._keys.of_all_tenants(), locks)

    def of(self, tenant_id: str) -> StoreStates:
        """Return one tenant; the workflows are unknown."""
        row = self._rows.state(tenant_id)
        record = None if row is None else _record(row, PublicKeys(self._signer.public_keys()))
        lock = self._locks.get(tenant_id)
        names = (ids.l2_key(tenant_id), ids.ca_key(tenant_id), ids.payload_key(tenant_id))
        return StoreStates(
            _one(tenant_id, record),
            self._keys.of(names),
            _one(tenant_id, None if lock is None else self._recorded(lock, record)),
        )

    def _recorded(self, lock: LockRecord, tenant: TenantRecord | None) -> RecordedLock:
        if tenant is None or tenant.state in DENIED:
            return RecordedLock(lock)
        with self._database.tenant_tx(tenant.tenant_id) as tx:
            return RecordedLock(lock, is_in_stream(tx, lock))


def is_in_stream(tx: TenantTransaction, lock: LockRecord) -> bool:
    """Return whether the audit stream contains the end that a record names, so the database is not older than it."""
    found = tx.audit.records(after=lock.seq - 1, limit=1)
    return any((one.seq, one.chain_hash.hex()) == (lock.seq, lock.chain_hash) for one in found)


def is_database_older(tx: TenantTransaction, lock: LockRecord) -> bool:
    """Return whether the audit stream ends before the end that a record names, or has another record in its place.

    A stream whose records of that time are archived is not older.
    """
    found = tx.audit.records(after=lock.seq - 1, limit=1)
    return not found or (found[0].seq == lock.seq and not is_in_stream(tx, lock))


def _one(tenant_id: str, value: Value | None) -> Mapping[str, Value]:
    return {} if value is None else {tenant_id: value}


def _record(row: StoreStateRow, public: PublicKeys) -> TenantRecord:
    head = row.checkpoint
    signed = None
    if head is not None:
        message = head_message(row.tenant_id, head.seq, head.chain_hash)
        signed = head.seq <= row.seq and public.check(head.key, message, head.signature).problem is None
    return TenantRecord(
        row.tenant_id,
        row.state,
        l2_version=row.l2_version,
        oldest_wrap=row.oldest_wrap,
        newest_wrap=row.newest_wrap,
        ca_version=row.ca_version,
        payload_key=row.payload_key,
        busy=row.busy,
        destroying=row.destroying,
        seq=row.seq,
        is_signed=signed,
    )
