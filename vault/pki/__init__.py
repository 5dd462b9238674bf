"""Certificate authorities, server certificates and CRLs."""
