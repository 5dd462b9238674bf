"""Root keys (L1) of the platform and of customers, with one protocol for all providers.

`interfaces` defines the protocol and the meaning of its errors. `platform` is the default: a Transit key of the region.
`providers` lists the providers for customers: `aws` (BYOK), `pkcs11` and `openbao` (HYOK). `network` connects to a
customer's server, and `egress_policy` restricts its addresses. Every implementation passes the contract suite in
tests/contracts. There is no fallback to another provider: while a root key is unreachable nothing is decrypted, so its
holder can stop all decryption.
"""
