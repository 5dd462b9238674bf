"""What the rest of the controller may do with the database. Imports no psycopg.

A `TenantTransaction` sees and writes the rows of one tenant only; row security with a signed context enforces that in
PostgreSQL, not here. Everything done through one transaction is committed together or not at all: the row, its audit
record, the step and the announcement that follow from it.
"""

import hashlib


def mark(tenant_id: str) -> str:
    """Return what a change feed calls a tenant: SHA-256, hex."""
    return hashlib.sha256(tenant_id.encode()).hexdigest()


def object_mark(tenant_id: str) -> str:
    """Return what a change feed calls the managed objects of a tenant."""
    return mark(f"{tenant_id}/objects")
