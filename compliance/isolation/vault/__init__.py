"""Isolation checks of keys, tokens and certificates in OpenBao or Vault."""
