"""Tenant CAs, server certificates and CRLs."""
