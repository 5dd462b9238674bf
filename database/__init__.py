"""PostgreSQL: one door for tenant rows, and the migrations that build the walls behind it.

`connection.Database.tenant_tx` is the only way to a tenant's rows: one transaction, one tenant, signed. Read
`interfaces` for what a transaction offers (rows: `rows`), `migrations/` for the walls and `gate` for the rules
a schema must keep. `feed.NotifyFeed` is the one connection beside the door: it hears of changes and reads no row.
This package knows nothing of Vault, Temporal or settings.
"""
