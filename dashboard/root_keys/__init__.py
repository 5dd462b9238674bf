"""Root keys: providers, preflight, change."""
