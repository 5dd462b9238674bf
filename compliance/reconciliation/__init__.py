"""Reconciliation of the audit log of the key server with the audit streams."""
