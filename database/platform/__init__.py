"""Queries across tenants, for scheduled workflows and the operations page."""
