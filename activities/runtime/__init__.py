"""The shared parts of activities: audit trail, concurrency, metrics and heartbeats."""
