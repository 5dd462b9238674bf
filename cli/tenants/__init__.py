"""Commands of tenants: list, show, lifecycle, policy."""
