"""Who holds the root key (L1), behind one protocol.

Start with `interfaces` (the protocol and what its failures mean). `platform` is the default: a Transit key of the
region. `providers` opens those that customers hold: `aws_kms` (BYOK), `pkcs11` and `openbao` (HYOK), each a file and a
row there; `transport` and `reach` are how, and where, a customer's server may be connected to. Every implementation
passes the contract suite in tests/contracts. Nothing here ever falls back to another keystore: a root key that does not
answer means that nothing opens, which is what makes it a kill switch.
"""
