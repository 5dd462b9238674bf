"""Audit streams on their way out: export, OCSF, forwarding."""
