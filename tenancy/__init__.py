"""Pure parts of compliance: reconciliation, coverage, forwarding and reports."""
