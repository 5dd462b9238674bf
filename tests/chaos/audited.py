"""What a tenant's audit stream says of one operation, whatever died while it ran."""

import json
from collections import Counter
from typing import Any

from database.connection.database import Database
from openkcm.contract.audit_events import AuditName, StoredRecord, verify_chain


def whole_stream(database: Database, tenant_id: str) -> list[dict[str, Any]]:
    """Return every record, after a look at the chain that they make."""
    records: list[StoredRecord] = []
    with database.tenant_tx(tenant_id) as tx:
        while piece := tx.audit.records(after=len(records)):
            records += piece
    verify_chain(records)
    return [json.loads(stored.record) for stored in records]


def assert_recorded_once(records: list[dict[str, Any]], operation: str, *names: AuditName) -> None:
    """Check that the operation has nothing twice on record, and each of these names with an intention and its end."""
    of_it = [record for record in records if record["event_id"].startswith(f"{operation}/")]
    counted = Counter((record["name"], record["subject"], record["outcome"]) for record in of_it)
    assert set(counted.values()) == {1}, counted
    for name in names:
        assert [r["outcome"] for r in of_it if r["name"] == name] == ["intended", "success"], name
