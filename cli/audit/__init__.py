"""Commands of the audit stream: export, forwarding, reconciliation."""
