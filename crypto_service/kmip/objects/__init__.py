"""Managed objects: attributes, key material, states, store."""
