"""Audit of the crypto service: a write-ahead log, shipped to the audit stream of the tenant."""
