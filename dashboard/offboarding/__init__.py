"""Offboarding: request, grace period, restore, erasure certificate."""
