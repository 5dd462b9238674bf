"""Root keys: holders, preflight, change."""
