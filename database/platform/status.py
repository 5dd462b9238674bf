"""Reads what was measured of a tenant, for its verdict (core/tenants/status.py)."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from core.tenants.approvals import Approval
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
from database.platform.processes import CALL_SECONDS, ProcessReport, read_reports, watch_name
from database.root_keys import CustomerRootKeyRow
from database.tenants import TenantRow

_LISTED = 100
"""Certificates that a verdict names or counts one by one."""


class Measurement(NamedTuple):
    """What one transaction read of a tenant: its facts, and the rows that they were read from."""

    facts: Facts
    tenant: TenantRow
    root_key: CustomerRootKeyRow | None
    waiting: Sequence[Approval]
    processes: Sequence[ProcessReport]


def read_facts(database: Database, tenant_id: str, shards: int, now: datetime) -> Facts | None:
    """Return the facts of a tenant at `now` (UTC), without its coverage; None for an unknown tenant.

    `shards` is the setting `root_key_shards`. Coverage takes longer to assess: a caller that has it adds it.

    Raises:
        DatabaseUnavailable: nothing is known now.
    """
    with database.tenant_tx(tenant_id, call_seconds=CALL_SECONDS) as tx:
        found = measure(tx, shards, now)
        return None if found is None else found.facts


def measure(tx: TenantTransaction, shards: int, now: datetime) -> Measurement | None:
    """Return the facts of `read_facts` with their rows; every open page reads them every two seconds."""
    tenant = tx.tenants.get()
    if tenant is None:
        return None
    recent = tx.usage.recent(now.replace(second=0, microsecond=0) - REQUEST_WINDOW)
    key, checks, expiring = tx.root_keys.current(), tx.boundaries.newest(), tx.services.expiring(now, _LISTED)
    reports, waiting = read_reports(tx.tenants.connection), tx.approvals.pending()
    held = None
    if key is not None:
        held = RootKeyFacts(key.health, watch_name(tenant.region, tx.root_keys.shard(shards), shards))
    facts = Facts(
        measured_at=now,
        state=tenant.state,
        locks=frozenset(tenant.locks),
        processes=[
            ProcessFacts(one.process, one.host, one.age, one.key_server, one.faults, one.watches) for one in reports
        ],
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
        approvals=len(waiting),
    )
    return Measurement(facts, tenant, key, waiting, reports)
