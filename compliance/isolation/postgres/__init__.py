"""Attacks on row security and on the lineage of keys in PostgreSQL."""
