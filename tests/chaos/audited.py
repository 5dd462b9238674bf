"""Checks of a tenant's audit stream for one operation, after any crash."""

import json
from collections import Counter
from typing import Any

from database.connection.database import Database
from openkcm.contract.audit_events import AuditName, StoredRecord, verify_chain


def whole_stream(database: Database, tenant_id: str) -> list[dict[str, Any]]:
    """Return every record, after a verification of their hash chain."""
    records: list[StoredRecord] = []
    with database.tenant_tx(tenant_id) as tx:
        while piece := tx.audit.records(after=len(records)):
            records += piece
    verify_chain(records)
    return [json.loads(stored.record) for stored in records]


def assert_recorded_once(records: list[dict[str, Any]], operation: str, *names: AuditName) -> None:
    """Assert that no event of the operation is recorded twice, and each name has an intention and a success."""
    of_it = [record for record in records if record["event_id"].startswith(f"{operation}/")]
    counted = Counter((record["name"], record["subject"], record["outcome"]) for record in of_it)
    assert set(counted.values()) == {1}, counted
    for name in names:
        assert [r["outcome"] for r in of_it if r["name"] == name] == ["intended", "success"], name
