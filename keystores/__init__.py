"""Who holds the root key (L1), behind one protocol.

Start with `interfaces` (the protocol and what its failures mean). `platform` is the default: a Transit key of the
region. Every implementation passes the contract suite in tests/contracts. Nothing here ever falls back to another
keystore: a root key that does not answer means that nothing opens, which is what makes it a kill switch.
"""
