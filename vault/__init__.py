"""OpenBao and Vault: L2 keys in Transit, authorities in PKI, and the least privilege for each.

`interfaces` says what the rest may ask for; `session` is the only place where hvac's exceptions become ours;
`policies/` holds the whole of what each process may do there. Everything works against Vault too, except what
`Capability` names. This package knows nothing of PostgreSQL, Temporal or settings.
"""
