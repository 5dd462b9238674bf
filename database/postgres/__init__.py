"""PostgreSQL roles, signed context, errors and the feed of changes."""
