"""OpenBao and Vault: Transit keys, tenant CAs in PKI, and a least-privilege policy for each process.

`auth` holds sessions and converts hvac's exceptions; its tenant tokens restrict a process to one tenant. `transit` has
the keys by purpose, and `pki` the certificates. `setup` is the desired state of a server, with the policies of all
processes in `policies/`. Everything also works with Vault, except the features in `Capability`. This package imports
nothing of PostgreSQL, Temporal or the settings.
"""
