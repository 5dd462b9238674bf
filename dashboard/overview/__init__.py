"""The page Overview: tenant status, provisioning progress and isolation."""
