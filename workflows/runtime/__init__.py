"""What workflows share: calls of activities, timeouts, failures, signals, the base of a tenant."""
