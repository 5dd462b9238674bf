"""Output of audit streams: export, OCSF, forwarding."""
