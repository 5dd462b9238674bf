"""Supervised servers: PostgreSQL, OpenBao, Temporal, processes of the product."""
