"""Offboarding: request, grace period, restore, certificate of erasure."""
