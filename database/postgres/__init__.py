"""PostgreSQL roles, signed context, errors and NOTIFY."""
