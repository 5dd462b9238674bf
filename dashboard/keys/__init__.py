"""Keys: the hierarchy from the root key to the services."""
