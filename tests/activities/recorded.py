"""A tenant and its records in the database."""

import json
from collections.abc import Callable
from typing import Any

from database.connection.database import Database
from database.connection.transaction import TenantTransaction
from database.tenants import TenantRow

Query = Callable[[TenantTransaction], Any]


class Recorded:
    """One tenant; `read` and `get` run a query in a separate transaction."""

    def __init__(self, database: Database, tenant_id: str) -> None:
        self.database, self.tenant_id = database, tenant_id

    def read(self, query: Query) -> Any:
        with self.database.tenant_tx(self.tenant_id) as tx:
            return query(tx)

    def get(self, query: Query) -> Any:
        """Return the row that `query` finds; fail without a row."""
        found = self.read(query)
        assert found is not None
        return found

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return rows of the tenant that the worker may select."""
        with self.database.raw_tx(self.tenant_id) as connection:
            return connection.execute(query).fetchall()

    @property
    def tenant_row(self) -> TenantRow:
        return self.get(lambda tx: tx.tenants.get())

    def announced(self) -> list[str]:
        return self.read(lambda tx: [message.kind for message, _ in tx.outbox.all()])

    def records(self, name: str = "", outcome: str = "") -> list[dict[str, Any]]:
        """Return the audit records whose names begin with `name`, all outcomes unless one is given."""
        found = self.read(lambda tx: [json.loads(stored.record) for stored in tx.audit.records()])
        return [one for one in found if one["name"].startswith(name) and outcome in ("", one["outcome"])]


class LockCopies:
    """A `LockRecorder` in memory, for tests of rows; tests/activities/test_lock_records.py has the key server's."""

    def __init__(self) -> None:
        self.tenants: set[str] = set()

    def record_soon(self, tenant_id: str) -> None:
        self.tenants.add(tenant_id)

    def remove(self, tenant_id: str) -> None:
        self.tenants.discard(tenant_id)
