"""What of a tenant's audit stream is held against the key server's log (docs/double-entry.md), read piece by piece."""

from collections.abc import Iterator
from datetime import datetime

from core.audit import AuditFilter
from database.audit_reading import PIECE
from database.connection.database import Database
from tenancy.double_entry import LATE, OurRecord, our_record
from tenancy.reconciliation import LONG_RUNNING, RELEVANT


def our_records(database: Database, tenant_id: str, since: datetime | None) -> list[OurRecord]:
    """Return the records from a while before `since`, and before them those of what may still be under way."""
    if since is None:
        return list(_found(database, tenant_id, AuditFilter(names=frozenset(RELEVANT))))
    first = since - LATE
    earlier = AuditFilter(names=frozenset(LONG_RUNNING), until=first)
    recent = AuditFilter(names=frozenset(RELEVANT), since=first)
    return [*_found(database, tenant_id, earlier), *_found(database, tenant_id, recent)]


def _found(database: Database, tenant_id: str, chosen: AuditFilter) -> Iterator[OurRecord]:
    with database.tenant_tx(tenant_id) as tx:
        among = tx.audit.numbers(chosen)
    while among:
        piece, among = among[:PIECE], among[PIECE:]
        with database.tenant_tx(tenant_id) as tx:
            found = tx.audit.found(chosen, piece, PIECE, newest_first=False)
        yield from filter(None, (our_record(one.stored) for one in found))
