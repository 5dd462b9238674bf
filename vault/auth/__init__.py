"""Sessions at OpenBao or Vault: AppRole, tenant tokens, transport."""
