"""Attacks on keys, tokens and certificates of tenants in OpenBao or Vault."""
