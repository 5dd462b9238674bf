"""Lifecycle of a tenant: suspend, resume, lock, unlock."""
