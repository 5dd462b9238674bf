"""Certificate authorities of a tenant and their replacement."""
