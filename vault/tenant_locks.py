"""Locks of tenants at the key server: a second copy, which a restored older database cannot undo.

The database alone decides while both agree. The worker writes a record after a lock and removes it before an unlock.
The crypto service decrypts with no tenant key while the record exists.
"""

from collections.abc import Sequence

from core.tenants.lifecycle import State
from core.tenants.locks import LockReason, LockRecord
from vault.auth.client import VaultClient
from vault.setup import LOCKS_MOUNT


class TenantLocks:
    """The records, with the identity of the worker, the crypto service (reads one) or the operator (reads all)."""

    def __init__(self, session: VaultClient) -> None:
        self._session = session

    def get(self, tenant_id: str) -> LockRecord | None:
        stored = self._session.read(f"{LOCKS_MOUNT}/{tenant_id}")
        if stored is None:
            return None
        return LockRecord(
            State(stored["state"]),
            frozenset(map(LockReason, stored["locks"])),
            int(stored["seq"]),
            str(stored["chain_hash"]),
        )

    def tenants(self) -> Sequence[str]:
        """Return the tenants that have a record."""
        return self._session.list(LOCKS_MOUNT)

    def record(self, tenant_id: str, lock: LockRecord) -> None:
        """Write the record of a tenant; the caller holds the tenant's row lock."""
        fields = {"state": lock.state, "locks": sorted(lock.locks), "seq": lock.seq, "chain_hash": lock.chain_hash}
        self._session.write(f"{LOCKS_MOUNT}/{tenant_id}", fields)

    def remove(self, tenant_id: str) -> None:
        """Remove the record of a tenant, if it exists; the caller holds the tenant's row lock."""
        self._session.delete(f"{LOCKS_MOUNT}/{tenant_id}")
