"""Isolation checks of row-level security and of the key lineage in PostgreSQL."""
