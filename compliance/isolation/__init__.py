"""Attack suites on the isolation of tenants, each with its positive controls."""
