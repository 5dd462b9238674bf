"""PostgreSQL itself: roles and signed context, errors, NOTIFY."""
