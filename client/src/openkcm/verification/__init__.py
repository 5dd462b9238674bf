"""Offline verification of what the platform issues: audit exports, erasure certificates, compliance reports."""
