"""Tenant isolation and readiness on the page Compliance."""
