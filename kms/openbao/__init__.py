"""Root keys in a customer's own OpenBao or Vault."""
