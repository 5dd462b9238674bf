"""Banner with the status of a tenant."""
