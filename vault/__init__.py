"""OpenBao and Vault: L2 keys in Transit, authorities in PKI, and the least privilege for each.

`interfaces` says what the rest may ask for; `session` is the only place where hvac's exceptions become ours;
`setup` is the whole desired state of a server and `policies/` what each process may do there; `tokens` narrow a
process to one tenant, whose L2 key is in `transit`; `root_keys` are the platform's L1; `attacks` try the walls.
Everything works against Vault too, except what `Capability` names.
This package knows nothing of PostgreSQL, Temporal or settings.
"""
