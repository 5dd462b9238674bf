"""Root keys in a customer's OpenBao or Vault."""
