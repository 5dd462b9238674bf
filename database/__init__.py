"""Access to PostgreSQL: transactions over one tenant's rows, and the schema with its isolation controls.

`connection.database.Database.tenant_tx` is the only access to a tenant's rows: one transaction for one tenant, with a
signed context. `connection.transaction` lists what a transaction offers. `schema` holds the migrations and the rules
for every table. `postgres.change_feed.ChangeFeed` reads on a separate connection which tenants changed, and no rows.
A row that a statement returns is a named tuple: every command builds the classes of most rows at its start, and frozen
dataclasses take several times as long. A row is a dataclass only if it has a secret, which its `repr` hides, a default
that is created, or a field `count`, which is a method of tuples.
This package does not depend on OpenBao, Temporal or settings.
"""
