"""Reads what was measured of a tenant, for its verdict (core/tenants/status.py)."""

from datetime import datetime

from core.tenants.status import (
    REQUEST_WINDOW,
    CertificateFacts,
    Facts,
    IsolationFacts,
    ProcessFacts,
    RootKeyFacts,
)
from database.connection.database import Database
from database.connection.transaction import TenantTransaction
from database.platform.processes import process_reports, watch_name
from database.tenants import TenantRow

_LISTED = 100
"""Certificates that a verdict names or counts one by one."""


def read_facts(database: Database, tenant_id: str, shards: int, now: datetime) -> Facts | None:
    """Return the facts of a tenant at `now` (UTC), without its coverage; None for an unknown tenant.

    `shards` is the setting `root_key_shards`. Coverage takes longer to assess: a caller that has it adds it.

    Raises:
        DatabaseUnavailable: nothing is known now.
    """
    processes = [
        ProcessFacts(one.process, one.host, one.age, one.key_server, one.faults, one.watches)
        for one in process_reports(database)
    ]
    with database.tenant_tx(tenant_id) as tx:
        tenant = tx.tenants.get()
        return None if tenant is None else _facts(tx, tenant, processes, shards, now)


def _facts(
    tx: TenantTransaction,
    tenant: TenantRow,
    processes: list[ProcessFacts],
    shards: int,
    now: datetime,
) -> Facts:
    recent = tx.usage.recent(now.replace(second=0, microsecond=0) - REQUEST_WINDOW)
    key, checks, expiring = tx.root_keys.current(), tx.boundaries.newest(), tx.services.expiring(now, _LISTED)
    held = None
    if key is not None:
        held = RootKeyFacts(key.health, watch_name(tenant.region, tx.root_keys.shard(shards), shards))
    return Facts(
        measured_at=now,
        state=tenant.state,
        locks=frozenset(tenant.locks),
        processes=processes,
        answered=recent.answered,
        refused=recent.refused,
        causes=recent.causes,
        root_key=held,
        certificates=CertificateFacts(
            tx.services.connected_count(),
            expired=tuple(one.service for one in expiring if one.not_after <= now),
            late=tuple(one.service for one in expiring if one.not_after > now),
        ),
        isolation=None if checks is None else IsolationFacts(checks.checked_at, checks.passed),
        approvals=len(tx.approvals.pending()),
    )
